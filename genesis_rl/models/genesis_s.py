"""GENESIS-S: one latent a slot says both where and what (Engelcke et al., ICLR 2020, appendix B.1).

Shapes: B images, K slots, H x W pixels, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.layers import (
    BroadcastDecoder,
    Gaussian,
    Norm,
    full_precision,
    monte_carlo_kl,
)
from genesis_rl.models.masks import Masks
from genesis_rl.models.slots import Decomposition, Inference, SlotModel, check_config


@dataclass(frozen=True)
class GenesisSConfig:
    """What a GENESIS-S network is made of; with the weights, all that a checkpoint holds.

    Attributes:
        num_slots: K.
        image_size: Side of the square input: 32, 64 or 128 pixels.
        latents: D. 64 is the authors' release; the paper is silent.
        width: Filters of the first layer, which every other layer is a multiple of.
        norm: Normalisation of the gated convolutions: "batch" (the paper) or "instance".
        std: Standard deviation of a slot's pixels.
        first_std: The same for slot 1; None means `std`.
    """

    num_slots: int = 5
    image_size: int = 64
    latents: int = 64
    width: int = 32
    norm: Norm = "batch"
    std: float = 0.7
    first_std: float | None = None

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class GenesisSOutput(Inference):
    """What one forward pass infers; the KL of the shared latents counts as `mask_kl`.

    Attributes:
        posterior: `[B, K, D]` inferred from the image.
        prior: `[B, K, D]` expected from the slots before.
    """

    posterior: Gaussian
    prior: Gaussian


class GenesisS(SlotModel):
    """GENESIS with a second decoder in the place of its component VAE.

    Latents count as mask latents, which is what they are in GENESIS: `latent_sizes` is (D, 0).

    Example:
        >>> model = GenesisS(GenesisSConfig(num_slots=3, image_size=32, width=8)).eval()
        >>> model.encode(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 64])
    """

    def __init__(self, config: GenesisSConfig | None = None):
        config = config or GenesisSConfig()
        super().__init__(config, num_slots=config.num_slots, latent_sizes=(config.latents, 0))
        self.masks = Masks(
            num_slots=config.num_slots,
            latents=config.latents,
            image_size=config.image_size,
            width=config.width,
            norm=config.norm,
        )
        self.decoder = BroadcastDecoder(
            config.latents, 3, width=config.width, image_size=config.image_size
        )

    def forward(self, images: Tensor, noise: Tensor | None = None) -> GenesisSOutput:
        self.check_images(images)
        self.check_noise(noise, len(images))
        noise = self.draw_noise(len(images)) if noise is None else noise
        posterior, latents = self.masks.posterior(images, noise)
        drawn = self.decode(latents)
        with full_precision(images):
            prior = self.masks.prior(latents)
            kl = monte_carlo_kl(posterior, prior, latents)  # [B, K]
            return GenesisSOutput(
                log_masks=drawn.log_masks,
                components=drawn.components,
                latents=latents,
                error=mixture_error(images.float(), drawn.log_masks, drawn.components, self.stds),
                mask_kl=kl,
                component_kl=torch.zeros_like(kl),
                posterior=posterior,
                prior=prior,
            )

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        self.check_images(images)
        self.check_noise(noise, len(images))
        return self.masks.posterior(images, noise)[1]

    def decode(self, latents: Tensor) -> Decomposition:
        rgb = self.decoder(latents.flatten(end_dim=1)).float().sigmoid()
        return Decomposition(
            log_masks=self.masks.decode(latents),
            components=rgb.unflatten(0, (-1, self.num_slots)),
            latents=latents,
        )

    @torch.no_grad()
    def sample(self, count: int, noise: Tensor | None = None) -> Decomposition:
        self.check_noise(noise, count)
        noise = self.draw_noise(count) if noise is None else noise
        return self.decode(self.masks.sample(noise))

"""Baselines without slots: BD-VAE and DC-VAE (Engelcke et al., ICLR 2020, section 4).

To whoever handles models they look like one slot that owns every pixel.

Shapes: B images, K = 1 slot, H x W pixels, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.layers import (
    BroadcastDecoder,
    Gaussian,
    full_precision,
    monte_carlo_kl,
    posterior_gaussian,
)
from genesis_rl.models.masks import ImageEncoder, MaskDecoder
from genesis_rl.models.slots import Decomposition, Inference, SlotModel, check_config


@dataclass(frozen=True)
class VaeConfig:
    """What either VAE is made of; with the weights, all that a checkpoint holds.

    Attributes:
        image_size: Side of the square input: 32, 64 or 128 pixels.
        latents: D.
        width: Filters of the first layer, which every other layer is a multiple of.
        std: Standard deviation of the pixels.
    """

    image_size: int = 64
    latents: int = 64
    width: int = 32
    std: float = 0.7

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class VaeOutput(Inference):
    """What one forward pass infers; nothing is spent on masks.

    Attributes:
        posterior: `[B, 1, D]` inferred from the image; the prior is standard normal.
    """

    posterior: Gaussian


class _Vae(SlotModel):
    """What the two VAEs share: all but the decoder, which maps `[B, D]` to `[B, 3, H, W]`."""

    def __init__(self, config: VaeConfig, decoder: nn.Module):
        super().__init__(config, num_slots=1, latent_sizes=(0, config.latents))
        size, width = config.image_size, config.width
        self.encoder = ImageEncoder(image_size=size, width=width, norm="none")
        self.head = nn.Linear(8 * width, 2 * config.latents)
        self.decoder = decoder

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VaeOutput:
        self.check_images(images)
        self.check_noise(noise, len(images))
        noise = self.draw_noise(len(images)) if noise is None else noise
        posterior = self._posterior(images)
        latents = posterior.sample(noise)
        drawn = self.decode(latents)
        with full_precision(images):
            zeros = torch.zeros_like(latents)
            kl = monte_carlo_kl(posterior, Gaussian(zeros, zeros + 1), latents)  # [B, 1]
            return VaeOutput(
                log_masks=drawn.log_masks,
                components=drawn.components,
                latents=latents,
                error=mixture_error(images.float(), drawn.log_masks, drawn.components, self.stds),
                mask_kl=torch.zeros_like(kl),
                component_kl=kl,
                posterior=posterior,
            )

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        self.check_images(images)
        self.check_noise(noise, len(images))
        return self._posterior(images).sample(noise)

    def decode(self, latents: Tensor) -> Decomposition:
        rgb = self.decoder(latents[:, 0]).float().sigmoid()[:, None]  # [B, 1, 3, H, W]
        return Decomposition(torch.zeros_like(rgb[:, :, :1]), rgb, latents)

    @torch.no_grad()
    def sample(self, count: int, noise: Tensor | None = None) -> Decomposition:
        self.check_noise(noise, count)
        return self.decode(self.draw_noise(count) if noise is None else noise)

    def _posterior(self, images: Tensor) -> Gaussian:
        features = self.encoder(images).float()
        with full_precision(features):
            return posterior_gaussian(self.head(features)[:, None])


class DcVae(_Vae):
    """VAE whose decoder is GENESIS's mask decoder, drawing RGB; without normalisation.

    Example:
        >>> DcVae(VaeConfig(image_size=32, width=8)).encode(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 64])
    """

    def __init__(self, config: VaeConfig | None = None):
        config = config or VaeConfig()
        size, width = config.image_size, config.width
        decoder = MaskDecoder(config.latents, image_size=size, width=width, norm="none", channels=3)
        super().__init__(config, decoder)


class BdVae(_Vae):
    """VAE whose decoder is GENESIS's component decoder with twice the filters, and one layer more.

    Example:
        >>> BdVae(VaeConfig(image_size=32, width=8)).encode(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 1, 64])
    """

    def __init__(self, config: VaeConfig | None = None):
        config = config or VaeConfig()
        width = 2 * config.width
        decoder = nn.Sequential(
            BroadcastDecoder(config.latents, width, width=width, image_size=config.image_size),
            nn.ELU(),
            nn.Conv2d(width, 3, kernel_size=1),
        )
        super().__init__(config, decoder)

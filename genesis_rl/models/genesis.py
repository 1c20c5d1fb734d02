"""GENESIS: where each object is, then what each object looks like (Engelcke et al., ICLR 2020).

Shapes: B images, K slots, H x W pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.components import Components
from genesis_rl.models.layers import Gaussian, Norm, full_precision, monte_carlo_kl
from genesis_rl.models.masks import Masks
from genesis_rl.models.slots import Decomposition, Inference, SlotModel, check_config


@dataclass(frozen=True)
class GenesisConfig:
    """What a GENESIS network is made of; with the weights, all that a checkpoint holds.

    Attributes:
        num_slots: K. The paper has 5 for Multi-dSprites, 7 for GQN rooms, 9 for ShapeStacks.
        image_size: Side of the square input: 32, 64 or 128 pixels.
        mask_latents: M, dimensions of "where".
        component_latents: C, dimensions of "what". 16 is the authors' release; the paper is silent.
        width: Filters of the first layer, which every other layer is a multiple of.
        norm: Normalisation of the gated convolutions: "batch" (the paper) or "instance".
        std: Standard deviation of a slot's pixels (paper, appendix B.4).
        first_std: The same for slot 1; None means `std`.
    """

    num_slots: int = 5
    image_size: int = 64
    mask_latents: int = 64
    component_latents: int = 16
    width: int = 32
    norm: Norm = "batch"
    std: float = 0.7
    first_std: float | None = None

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class GenesisOutput(Inference):
    """What one forward pass infers about a batch of images.

    Attributes:
        mask_posterior: `[B, K, M]` inferred from the image.
        mask_prior: `[B, K, M]` expected from the slots before.
        component_posterior: `[B, K, C]` inferred from the image and the mask.
        component_prior: `[B, K, C]` expected from the mask latent.
    """

    mask_posterior: Gaussian
    mask_prior: Gaussian
    component_posterior: Gaussian
    component_prior: Gaussian


class Genesis(SlotModel):
    """Splits an image into K slots and draws each of them; or dreams such images up.

    Example:
        >>> model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=8)).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model.encode(images).shape
        torch.Size([2, 3, 80])
        >>> model(images).masks.shape
        torch.Size([2, 3, 1, 32, 32])
    """

    def __init__(self, config: GenesisConfig | None = None):
        config = config or GenesisConfig()
        latent_sizes = config.mask_latents, config.component_latents
        super().__init__(config, num_slots=config.num_slots, latent_sizes=latent_sizes)
        self.masks = Masks(
            num_slots=config.num_slots,
            latents=config.mask_latents,
            image_size=config.image_size,
            width=config.width,
            norm=config.norm,
        )
        self.components = Components(
            mask_latents=config.mask_latents,
            latents=config.component_latents,
            image_size=config.image_size,
            width=config.width,
        )

    def forward(self, images: Tensor, noise: Tensor | None = None) -> GenesisOutput:
        """Infers slots, draws them, and measures both error and KL.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            noise: `[B, K, D]`; drawn from torch's global generator if None.

        Raises:
            ValueError: If images or noise have another shape.
        """
        if noise is None:
            noise = self.draw_noise(len(images))
        where, mask_latents, log_masks = self._infer_masks(images, noise)
        what = self.components.posterior(images, log_masks)
        component_latents = what.sample(self._split(noise)[1])
        components = self.components.decode(component_latents)
        with full_precision(images):
            where_prior = self.masks.prior(mask_latents)
            what_prior = self.components.prior(mask_latents)
            return GenesisOutput(
                log_masks=log_masks,
                components=components,
                latents=torch.cat([mask_latents, component_latents], dim=-1),
                error=mixture_error(images.float(), log_masks, components, self.stds),
                mask_kl=monte_carlo_kl(where, where_prior, mask_latents),
                component_kl=monte_carlo_kl(what, what_prior, component_latents),
                mask_posterior=where,
                mask_prior=where_prior,
                component_posterior=what,
                component_prior=what_prior,
            )

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns slot latents `[B, K, D]`: posterior means, or samples where noise is given."""
        _, mask_latents, log_masks = self._infer_masks(images, noise)
        what = self.components.posterior(images, log_masks)
        return torch.cat([mask_latents, what.sample(self._split(noise)[1])], dim=-1)

    def decode(self, latents: Tensor) -> Decomposition:
        """Draws `[B, K, D]` latents, wherever they come from: an image, the prior, or an edit.

        Each mask latent says what its slot claims of what the slots before it left, so an edited
        one also changes the masks of the slots after it, whose own latents stay as they are.
        """
        mask_latents, component_latents = latents.split(self.latent_sizes, dim=-1)
        return Decomposition(
            log_masks=self.masks.decode(mask_latents),
            components=self.components.decode(component_latents),
            latents=latents,
        )

    @torch.no_grad()
    def sample(
        self,
        count: int,
        noise: Tensor | None = None,
        *,
        squash_prior_means: bool = True,
    ) -> Decomposition:
        """Dreams up images slot by slot; `canvases` of the result show them grow.

        Pixels are mixture means. Use in eval mode.

        Args:
            count: B.
            noise: `[B, K, D]`; drawn from torch's global generator if None.
            squash_prior_means: False leaves out the tanh on the prior means of mask latents, as the
                authors' release does when it samples (but not when it trains).
        """
        self.check_noise(noise, count)
        if noise is None:
            noise = self.draw_noise(count)
        mask_noise, component_noise = self._split(noise)
        assert mask_noise is not None
        mask_latents = self.masks.sample(mask_noise, squash_means=squash_prior_means)
        component_latents = self.components.prior(mask_latents).sample(component_noise)
        return self.decode(torch.cat([mask_latents, component_latents], dim=-1))

    def _infer_masks(self, images: Tensor, noise: Tensor | None) -> tuple[Gaussian, Tensor, Tensor]:
        self.check_images(images)
        self.check_noise(noise, len(images))
        where, mask_latents = self.masks.posterior(images, self._split(noise)[0])
        return where, mask_latents, self.masks.decode(mask_latents)

    def _split(self, noise: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Splits noise into that of the mask latents and that of the component latents."""
        if noise is None:
            return None, None
        mask_noise, component_noise = noise.split(self.latent_sizes, dim=-1)
        return mask_noise, component_noise

"""GENESIS: where each object is, then what each object looks like (Engelcke et al., ICLR 2020).

Shapes: B images, K slots, H x W pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.components import Components
from genesis_rl.models.layers import Gaussian, Norm, full_precision, monte_carlo_kl
from genesis_rl.models.masks import Masks, strides_for


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
        for name in ("num_slots", "mask_latents", "component_latents", "width"):
            value, least = getattr(self, name), 2 if name == "num_slots" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be an integer of at least {least}, but got {value!r}"
                )
        strides_for(self.image_size)
        if self.norm not in ("batch", "instance"):
            raise ValueError(f"norm must be 'batch' or 'instance', but got {self.norm!r}")
        for name in ("std", "first_std"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, but got {value!r}")


@dataclass(frozen=True)
class Decomposition:
    """An image as K drawings and the masks that share out its pixels.

    Attributes:
        log_masks: `[B, K, 1, H, W]` which slot owns each pixel; exponentials sum to one over K.
        components: `[B, K, 3, H, W]` RGB of each slot in [0, 1], before masking.
        latents: `[B, K, D]` each slot's mask latent, then its component latent.
    """

    log_masks: Tensor
    components: Tensor
    latents: Tensor

    @property
    def masks(self) -> Tensor:
        """`[B, K, 1, H, W]` in [0, 1]."""
        return self.log_masks.exp()

    @property
    def canvases(self) -> Tensor:
        """`[B, K, 3, H, W]` the image after slots 1, 1-2, ... 1-K were painted, on black."""
        return (self.masks * self.components).cumsum(dim=1)

    @property
    def reconstruction(self) -> Tensor:
        """`[B, 3, H, W]` the mean of the mixture."""
        return (self.masks * self.components).sum(dim=1)


@dataclass(frozen=True)
class GenesisOutput(Decomposition):
    """What one forward pass infers about a batch of images.

    Attributes:
        error: `[B]` negative log-likelihood, in nats per image.
        mask_kl: `[B, K]` nats spent on where each object is.
        component_kl: `[B, K]` nats spent on what it looks like.
        mask_posterior: `[B, K, M]` inferred from the image.
        mask_prior: `[B, K, M]` expected from the slots before.
        component_posterior: `[B, K, C]` inferred from the image and the mask.
        component_prior: `[B, K, C]` expected from the mask latent.
    """

    error: Tensor
    mask_kl: Tensor
    component_kl: Tensor
    mask_posterior: Gaussian
    mask_prior: Gaussian
    component_posterior: Gaussian
    component_prior: Gaussian

    @property
    def kl(self) -> Tensor:
        """`[B]` nats spent on an image."""
        return self.mask_kl.sum(dim=1) + self.component_kl.sum(dim=1)


class Genesis(nn.Module):
    """Splits an image into K slots and draws each of them; or dreams such images up.

    Noise is always an explicit argument: standard normal numbers `[B, K, D]`, mask latents first.

    Example:
        >>> model = Genesis(GenesisConfig(num_slots=3, image_size=32, width=8)).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> model.encode(images).shape
        torch.Size([2, 3, 80])
        >>> model(images).masks.shape
        torch.Size([2, 3, 1, 32, 32])
    """

    def __init__(self, config: GenesisConfig | None = None):
        super().__init__()
        config = config or GenesisConfig()
        self.config = config
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
        stds = [config.first_std or config.std] + [config.std] * (config.num_slots - 1)
        self.register_buffer("stds", torch.tensor(stds), persistent=False)  # [K]
        self.stds: Tensor

    @property
    def num_slots(self) -> int:
        """K."""
        return self.config.num_slots

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.config.image_size

    @property
    def latent_sizes(self) -> tuple[int, int]:
        """(M, C)."""
        return self.config.mask_latents, self.config.component_latents

    @property
    def slot_dim(self) -> int:
        """D = M + C."""
        return sum(self.latent_sizes)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> GenesisOutput:
        """Infers slots, draws them, and measures both error and KL.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            noise: `[B, K, D]`; drawn from torch's global generator if None.

        Raises:
            ValueError: If the images have another shape.
        """
        if noise is None:
            noise = torch.randn(len(images), self.num_slots, self.slot_dim, device=images.device)
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

    @torch.no_grad()
    def decompose(self, images: Tensor) -> GenesisOutput:
        """Returns the forward pass on posterior means; no random numbers are drawn."""
        return self(images, torch.zeros(len(images), self.num_slots, self.slot_dim).to(images))

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
        if noise is None:
            noise = torch.randn(count, self.num_slots, self.slot_dim, device=self.stds.device)
        mask_noise, component_noise = self._split(noise)
        assert mask_noise is not None
        latents, state = [mask_noise[:, 0]], None  # the first slot's prior is standard normal
        for k in range(1, self.num_slots):
            prior, state = self.masks.prior_step(latents[-1], state, squash_mean=squash_prior_means)
            latents.append(prior.sample(mask_noise[:, k]))
        mask_latents = torch.stack(latents, dim=1)  # [B, K, M]
        component_latents = self.components.prior(mask_latents).sample(component_noise)
        return Decomposition(
            log_masks=self.masks.decode(mask_latents),
            components=self.components.decode(component_latents),
            latents=torch.cat([mask_latents, component_latents], dim=-1),
        )

    def _infer_masks(self, images: Tensor, noise: Tensor | None) -> tuple[Gaussian, Tensor, Tensor]:
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"Genesis needs images [B, 3, {size}, {size}], but got {tuple(images.shape)}; "
                "resize them, or build the model with their image_size"
            )
        where, mask_latents = self.masks.posterior(images, self._split(noise)[0])
        return where, mask_latents, self.masks.decode(mask_latents)

    def _split(self, noise: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Splits noise into that of the mask latents and that of the component latents."""
        if noise is None:
            return None, None
        mask_noise, component_noise = noise.split(self.latent_sizes, dim=-1)
        return mask_noise, component_noise

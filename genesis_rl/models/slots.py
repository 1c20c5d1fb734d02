"""What all models share: the records that they return and the few methods around their networks.

Shapes: B images, K slots, H x W pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genesis_rl.models.masks import strides_for


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
    def scopes(self) -> Tensor:
        """`[B, K, 1, H, W]` what slots before this one left of each pixel: 1 for the first."""
        masks = self.masks
        return (1 - masks.cumsum(dim=1) + masks).clamp(0, 1)

    @property
    def canvases(self) -> Tensor:
        """`[B, K, 3, H, W]` the image after slots 1, 1-2, ... 1-K were painted, on black."""
        return (self.masks * self.components).cumsum(dim=1)

    @property
    def reconstruction(self) -> Tensor:
        """`[B, 3, H, W]` the mean of the mixture."""
        return (self.masks * self.components).sum(dim=1)


@dataclass(frozen=True)
class Inference(Decomposition):
    """What one forward pass infers about a batch of images.

    Attributes:
        error: `[B]` negative log-likelihood, in nats per image.
        mask_kl: `[B, K]` nats spent on where each object is.
        component_kl: `[B, K]` nats spent on what it looks like.
    """

    error: Tensor
    mask_kl: Tensor
    component_kl: Tensor

    @property
    def kl(self) -> Tensor:
        """`[B]` nats spent on an image."""
        return self.mask_kl.sum(dim=1) + self.component_kl.sum(dim=1)


class SlotModel(nn.Module, ABC):
    """A network that splits images into K slots of D numbers, and draws slots.

    Noise is always an explicit argument: standard normal numbers `[B, K, D]`, mask latents first;
    None draws them from torch's global generator, except in `encode`, where it means no noise.

    Args:
        config: What the network is made of; with the weights, all that a checkpoint holds.
        num_slots: K.
        latent_sizes: (M, C); 0 for a kind of latents that the model does not have.
    """

    def __init__(self, config: Any, *, num_slots: int, latent_sizes: tuple[int, int]):
        super().__init__()
        self.config = config
        self.num_slots = num_slots
        self.image_size: int = config.image_size
        self.latent_sizes = latent_sizes
        self.slot_dim = sum(latent_sizes)
        first_std = getattr(config, "first_std", None) or config.std
        stds = [first_std] + [config.std] * (num_slots - 1)
        self.register_buffer("stds", torch.tensor(stds), persistent=False)  # [K]
        self.stds: Tensor

    @abstractmethod
    def forward(self, images: Tensor, noise: Tensor | None = None) -> Inference:
        """Infers slots, draws them, and measures both error and KL.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            noise: `[B, K, D]`; drawn from torch's global generator if None.

        Raises:
            ValueError: If images or noise have another shape. The range of pixels is not checked:
                on a GPU that would wait for the device.
        """

    @abstractmethod
    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns slot latents `[B, K, D]`: posterior means, or samples where noise is given."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Decomposition:
        """Draws `[B, K, D]` latents, wherever they come from: an image, the prior, or an edit."""

    @abstractmethod
    def sample(self, count: int, noise: Tensor | None = None) -> Decomposition:
        """Dreams up images. Pixels are mixture means. Use in eval mode.

        Args:
            count: B.
            noise: `[B, K, D]`; drawn from torch's global generator if None.
        """

    @torch.no_grad()
    def decompose(self, images: Tensor) -> Inference:
        """Returns the forward pass on posterior means; no random numbers are drawn."""
        noise = torch.zeros(len(images), self.num_slots, self.slot_dim).to(images)
        output: Inference = self(images, noise)
        return output

    def draw_noise(self, count: int) -> Tensor:
        """Draws `[count, K, D]` standard normal numbers from torch's global generator."""
        return torch.randn(count, self.num_slots, self.slot_dim, device=self.stds.device)

    def check_images(self, images: Tensor) -> None:
        """Refuses images of another size than the model's.

        Raises:
            ValueError: If they are not `[B, 3, H, W]`.
            TypeError: If they are not floats.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"{type(self).__name__} needs images [B, 3, {size}, {size}], but got "
                f"{tuple(images.shape)}; resize them, or build the model with their image_size"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"{type(self).__name__} needs floats in [0, 1], but got {images.dtype}; divide by "
                "255"
            )

    def check_noise(self, noise: Tensor | None, count: int) -> None:
        """Refuses noise of another shape, which broadcasting might hide; None is fine.

        Raises:
            ValueError: If it is not `[count, K, D]`.
        """
        expected = (count, self.num_slots, self.slot_dim)
        if noise is not None and noise.shape != expected:
            raise ValueError(
                f"{type(self).__name__} needs noise {list(expected)}, but got {list(noise.shape)}; "
                "draw_noise(count) makes it"
            )


def check_config(config: Any) -> None:
    """Refuses what no network could be made of, in those of the common fields that there are.

    Raises:
        ValueError: Naming the field.
    """
    for name in ("num_slots", "mask_latents", "component_latents", "latents", "width"):
        value, least = getattr(config, name, 2), 2 if name == "num_slots" else 1
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, but got {value!r}")
    strides_for(config.image_size)
    norm = getattr(config, "norm", "batch")
    if norm not in ("batch", "instance"):
        raise ValueError(f"norm must be 'batch' or 'instance', but got {norm!r}")
    for name in ("std", "first_std"):
        value = getattr(config, name, None)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, but got {value!r}")

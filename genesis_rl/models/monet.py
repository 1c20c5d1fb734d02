"""MONet: attention carves the image up, one VAE explains all parts (Burgess et al., 2019).

The variant that GENESIS was compared with (Engelcke et al., ICLR 2020, appendix B.2).

Shapes: B images, K slots, H x W pixels, C latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.components import ComponentVae
from genesis_rl.models.layers import Conv, Gaussian, full_precision, monte_carlo_kl
from genesis_rl.models.masks import stick_breaking
from genesis_rl.models.slots import Decomposition, Inference, SlotModel, check_config

_LEAST_MASK = 1e-5  # of a mask in its KL, as in the authors' release


@dataclass(frozen=True)
class MonetConfig:
    """What a MONet is made of; with the weights, all that a checkpoint holds.

    Attributes:
        num_slots: K.
        image_size: Side of the square input: 32, 64 or 128 pixels.
        component_latents: C.
        width: Filters of the first layer, which every other layer is a multiple of.
        mask_prior: How the masks that components ask for are normalised: "softmax" over the slots,
            or "stick_breaking" from the first slot to the last.
        std: Standard deviation of a slot's pixels. Burgess et al. have 0.11.
        first_std: The same for slot 1; None means `std`. Burgess et al. have 0.09.
    """

    num_slots: int = 5
    image_size: int = 64
    component_latents: int = 16
    width: int = 32
    mask_prior: Literal["softmax", "stick_breaking"] = "softmax"
    std: float = 0.7
    first_std: float | None = None

    def __post_init__(self) -> None:
        check_config(self)
        if self.mask_prior not in ("softmax", "stick_breaking"):
            raise ValueError(
                f"mask_prior must be 'softmax' or 'stick_breaking', but got {self.mask_prior!r}"
            )


@dataclass(frozen=True)
class MonetOutput(Inference):
    """What one forward pass infers.

    Masks have no latents. What `mask_kl` charges, slot by slot, is how far they are from the masks
    that the components ask for; a single slot's term can be negative, their sum cannot.

    Attributes:
        log_mask_prior: `[B, K, 1, H, W]` the masks that the components ask for.
        component_posterior: `[B, K, C]` inferred from the image and the mask.
    """

    log_mask_prior: Tensor
    component_posterior: Gaussian


class AttentionNet(nn.Module):
    """A U-Net from the image and what is left of it to the next slot's claim on every pixel."""

    def __init__(self, *, image_size: int, width: int):
        super().__init__()
        narrow, wide = width, 2 * width
        down = [4, narrow, narrow, wide, wide, wide]
        self.down = nn.ModuleList(_block(down[i], down[i + 1]) for i in range(5))
        features = wide * (image_size // 16) ** 2
        hidden = 4 * width
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, features),
            nn.ReLU(),
        )
        up = [wide, wide, wide, narrow, narrow, narrow]  # joined by what the way down has seen
        self.up = nn.ModuleList(_block(up[i] + down[5 - i], up[i + 1]) for i in range(5))
        self.readout = nn.Conv2d(narrow, 1, kernel_size=1)

    def forward(self, images: Tensor, log_scope: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` images and `[B, 1, H, W]` log of what is left to `[B, 1, H, W]`."""
        x = torch.cat([images, log_scope], dim=1)
        seen = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.interpolate(x, scale_factor=0.5))
            seen.append(x)
        x = self.mlp(x.flatten(start_dim=1)).view_as(x)
        for i, block in enumerate(self.up):
            x = x if i == 0 else F.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, seen.pop()], dim=1))
        return self.readout(x)


class Monet(SlotModel):
    """Splits an image into K parts one after the other, then encodes and draws each of them.

    Only components have latents: `latent_sizes` is (0, C).

    Example:
        >>> model = Monet(MonetConfig(num_slots=3, image_size=32, width=8)).eval()
        >>> model.encode(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 16])
    """

    def __init__(self, config: MonetConfig | None = None):
        config = config or MonetConfig()
        latent_sizes = 0, config.component_latents
        super().__init__(config, num_slots=config.num_slots, latent_sizes=latent_sizes)
        self.attention = AttentionNet(image_size=config.image_size, width=config.width)
        self.components = ComponentVae(
            latents=config.component_latents,
            channels=4,  # RGB and the mask that the component asks for
            image_size=config.image_size,
            width=config.width,
            activation=nn.ReLU,
        )

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MonetOutput:
        self.check_images(images)
        self.check_noise(noise, len(images))
        noise = self.draw_noise(len(images)) if noise is None else noise
        log_masks = self._attend(images)
        posterior = self.components.posterior(images, log_masks)
        latents = posterior.sample(noise)
        drawn = self.decode(latents)
        with full_precision(images):
            zeros = torch.zeros_like(latents)
            return MonetOutput(
                log_masks=log_masks,
                components=drawn.components,
                latents=latents,
                error=mixture_error(images.float(), log_masks, drawn.components, self.stds),
                mask_kl=mask_divergence(log_masks, drawn.log_masks),
                component_kl=monte_carlo_kl(posterior, Gaussian(zeros, zeros + 1), latents),
                log_mask_prior=drawn.log_masks,
                component_posterior=posterior,
            )

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        self.check_images(images)
        self.check_noise(noise, len(images))
        return self.components.posterior(images, self._attend(images)).sample(noise)

    def decode(self, latents: Tensor) -> Decomposition:
        """Draws `[B, K, C]` latents under the masks that they ask for; no image, no attention."""
        rgb, logits = self.components.draw(latents).split([3, 1], dim=2)
        if self.config.mask_prior == "softmax":
            log_masks = logits.log_softmax(dim=1)
        else:
            log_masks = stick_breaking(logits[:, :-1])
        return Decomposition(log_masks=log_masks, components=rgb.sigmoid(), latents=latents)

    @torch.no_grad()
    def sample(self, count: int, noise: Tensor | None = None) -> Decomposition:
        """Dreams up `count` images: K independent slots under the masks that they ask for."""
        self.check_noise(noise, count)
        return self.decode(self.draw_noise(count) if noise is None else noise)

    def _attend(self, images: Tensor) -> Tensor:
        """Returns log masks `[B, K, 1, H, W]`; the last slot takes what the others leave."""
        log_scope = torch.zeros_like(images[:, :1]).float()
        log_masks = []
        for _ in range(self.num_slots - 1):
            logits = self.attention(images, log_scope).float()
            log_masks.append(log_scope + F.logsigmoid(logits))
            log_scope = log_scope + F.logsigmoid(-logits)
        return torch.stack([*log_masks, log_scope], dim=1)


def mask_divergence(log_masks: Tensor, log_prior: Tensor) -> Tensor:
    """Returns KL(masks || prior), both `[B, K, 1, H, W]`, summed over pixels: `[B, K]`."""
    masks, prior = (log.exp().clamp(min=_LEAST_MASK) for log in (log_masks, log_prior))
    return (masks * (masks.log() - prior.log())).sum(dim=(2, 3, 4))


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        Conv(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.InstanceNorm2d(out_channels, affine=True),
        nn.ReLU(),
    )

"""What the objects look like: image and masks -> component latents -> one RGB image a slot.

Shapes: B images, K slots, H x W pixels, M mask-latent and C component-latent dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genesis_rl.models.layers import (
    Activated,
    BroadcastDecoder,
    Conv,
    Gaussian,
    activated,
    full_precision,
    posterior_gaussian,
    prior_gaussian,
)


class ComponentVae(nn.Module):
    """A small VAE that encodes and draws every slot on its own, all B x K of them as one batch.

    Args:
        latents: C.
        channels: What is drawn: 3 for RGB, and what a model wants beside it.
        image_size: H and W.
        width: Filters of the first layer.
        activation: ReLU in MONet, ELU in GENESIS.
    """

    # Who trains may set a faster function with the same results.
    activated: Activated = staticmethod(activated)

    def __init__(
        self,
        *,
        latents: int,
        channels: int,
        image_size: int,
        width: int,
        activation: type[nn.Module],
    ):
        super().__init__()
        filters = [4, width, width, 2 * width, 2 * width]
        layers: list[nn.Module] = []
        for i in range(4):
            layers.append(Conv(filters[i], filters[i + 1], 3, stride=2, padding=1))
            layers.append(activation(inplace=True))
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(filters[-1] * (image_size // 16) ** 2, 8 * width),
            activation(),
            nn.Linear(8 * width, 2 * latents),
        )
        self.decoder = BroadcastDecoder(
            latents, channels, width=width, image_size=image_size, activation=activation
        )

    def posterior(self, images: Tensor, log_masks: Tensor) -> Gaussian:
        """Infers the component latents of `[B, 3, H, W]` images under `[B, K, 1, H, W]` log masks.

        Returns:
            `[B, K, C]`. The paper conditions on the mask latents (equation 7); here, as in the
            authors' release, on the log mask that they decode to, beside the image.
        """
        slots = log_masks.shape[1]
        seen = images[:, None].expand(-1, slots, -1, -1, -1)
        x = torch.cat([log_masks.to(images.dtype), seen], dim=2)  # [B, K, 4, H, W]
        x = x.flatten(end_dim=1).contiguous(memory_format=torch.channels_last)
        *layers, flatten = self.encoder
        for conv, activation in zip(layers[::2], layers[1::2], strict=True):
            x = self.activated(x, conv, activation)
        features = flatten(x).float()
        with full_precision(features):
            return posterior_gaussian(self.head(features).unflatten(0, (-1, slots)))

    def draw(self, latents: Tensor) -> Tensor:
        """Maps `[B, K, C]` latents to `[B, K, channels, H, W]`, unbounded and in float32."""
        pixels = self.decoder(latents.flatten(end_dim=1)).float()
        return pixels.unflatten(0, (-1, latents.shape[1]))


class Components(ComponentVae):
    """GENESIS's: MONet's component VAE with ELU for ReLU (paper, appendix B.1), and a prior."""

    def __init__(self, *, mask_latents: int, latents: int, image_size: int, width: int):
        super().__init__(
            latents=latents, channels=3, image_size=image_size, width=width, activation=nn.ELU
        )
        hidden = 4 * mask_latents
        self.prior_mlp = nn.Sequential(
            nn.Linear(mask_latents, hidden),
            nn.ELU(),
            nn.Linear(hidden, hidden),
            nn.ELU(),
            nn.Linear(hidden, 2 * latents),
        )

    def prior(self, mask_latents: Tensor) -> Gaussian:
        """Returns the prior of `[B, K, C]` component latents given `[B, K, M]` mask latents."""
        with full_precision(mask_latents):
            return prior_gaussian(self.prior_mlp(mask_latents))

    def decode(self, latents: Tensor) -> Tensor:
        """Draws `[B, K, C]` latents as `[B, K, 3, H, W]` RGB in [0, 1], before masking."""
        return self.draw(latents).sigmoid()

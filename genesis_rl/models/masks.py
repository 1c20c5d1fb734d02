"""Where the objects are: image -> mask latents -> masks that share out every pixel.

Shapes: B images, K slots, H x W pixels, M mask-latent dimensions, F image features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.models.layers import (
    GatedConv,
    GatedDeconv,
    GatedFlatten,
    GatedUnflatten,
    Gaussian,
    LSTMCell,
    Norm,
    Readout,
    full_precision,
    posterior_gaussian,
    prior_gaussian,
)

# Strides of the five gated convolutions, by image size; what they leave is flattened.
_STRIDES = {32: (1, 2, 1, 2, 1), 64: (1, 2, 1, 2, 1), 128: (2, 2, 2, 1, 1)}


def strides_for(image_size: int) -> tuple[int, ...]:
    """Returns the encoder's strides; the mask decoder uses them in reverse.

    Raises:
        ValueError: If no architecture is defined for that size.
    """
    if image_size not in _STRIDES:
        raise ValueError(
            f"image_size must be one of {sorted(_STRIDES)}, but got {image_size}; resize the images"
        )
    return _STRIDES[image_size]


class ImageEncoder(nn.Sequential):
    """The gated convolutional encoder of Berg et al. (2018), one pass for all slots.

    Maps `[B, 3, H, W]` to `[B, F]` with F = 8 x `width`.
    """

    def __init__(self, *, image_size: int, width: int, norm: Norm):
        strides = strides_for(image_size)
        channels = [3, width, width, 2 * width, 2 * width, 2 * width]
        size = image_size // math.prod(strides)
        super().__init__(
            *(
                GatedConv(channels[i], channels[i + 1], stride=strides[i], norm=norm)
                for i in range(5)
            ),
            GatedFlatten(channels[-1], 8 * width, size=size),
        )


class MaskDecoder(nn.Sequential):
    """Mask latent -> `channels` logits a pixel: maps `[B, M]` to `[B, channels, H, W]`."""

    def __init__(self, latents: int, *, image_size: int, width: int, norm: Norm, channels: int = 1):
        strides = strides_for(image_size)[::-1]
        filters = [2 * width, 2 * width, width, width, width, width]
        size = image_size // math.prod(strides)
        super().__init__(
            GatedUnflatten(latents, filters[0], size=size),
            *(
                GatedDeconv(filters[i], filters[i + 1], stride=strides[i], norm=norm)
                for i in range(5)
            ),
            Readout(filters[-1], channels),
        )


def infer_slots(masks: Masks, features: Tensor, noise: Tensor | None) -> tuple[Gaussian, Tensor]:
    """Reads slot after slot off `[B, F]` features; see `Masks.posterior`."""
    slot = posterior_gaussian(masks.first_slot(features))
    slots, latents, state = [slot], [slot.sample(_slot(noise, 0))], None
    for k in range(1, masks.num_slots):
        state = masks.later_slots(torch.cat([features, latents[-1]], dim=1), state)
        slot = posterior_gaussian(masks.later_slots_head(state[0]))
        slots.append(slot)
        latents.append(slot.sample(_slot(noise, k)))
    means, stds = zip(*slots, strict=True)
    return Gaussian(torch.stack(means, 1), torch.stack(stds, 1)), torch.stack(latents, 1)


def unroll(cell: LSTMCell, driven: Tensor) -> Tensor:
    """Maps the inputs' share of all steps' gates, `[B, T, 4 hidden]`, to `[B, T, hidden]`."""
    hidden, state = [], None
    for gates in driven.unbind(dim=1):
        state = cell.advance(gates, state)
        hidden.append(state[0])
    return torch.stack(hidden, dim=1)


class Masks(nn.Module):
    """Autoregressive posterior and prior over mask latents, and the decoder of their masks.

    Slot 1 is read straight off the image; every later slot also sees, through an LSTM, the latents
    of the slots before it (paper, section 3.1).
    """

    # The loops over slots. Who trains may set faster functions with the same results.
    infer_slots = staticmethod(infer_slots)
    unroll = staticmethod(unroll)

    def __init__(self, *, num_slots: int, latents: int, image_size: int, width: int, norm: Norm):
        super().__init__()
        self.num_slots = num_slots
        self.latents = latents
        features = 8 * width
        self.encoder = ImageEncoder(image_size=image_size, width=width, norm=norm)
        self.first_slot = nn.Linear(features, 2 * latents)
        self.later_slots = LSTMCell(features + latents, 2 * latents)
        self.later_slots_head = nn.Linear(2 * latents, 2 * latents)
        self.prior_lstm = LSTMCell(latents, 4 * latents)
        self.prior_head = nn.Linear(4 * latents, 2 * latents)
        self.decoder = MaskDecoder(latents, image_size=image_size, width=width, norm=norm)

    def posterior(self, images: Tensor, noise: Tensor | None) -> tuple[Gaussian, Tensor]:
        """Infers the mask latents of all slots, one after the other.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            noise: `[B, K, M]` standard normal noise; None takes every mean.

        Returns:
            The posterior, `[B, K, M]`, and the latents drawn from it.
        """
        features = self.encoder(images).float()
        with full_precision(features):
            return self.infer_slots(self, features, noise)

    def prior(self, latents: Tensor) -> Gaussian:
        """Returns what `[B, K, M]` latents were expected to be, each given those before it.

        All latents are known, so everything but the recurrence takes all slots at once.
        """
        with full_precision(latents):
            driven = self.prior_lstm.drive(latents[:, :-1])  # [B, K - 1, 16 M]
            hidden = self.unroll(self.prior_lstm, driven)  # [B, K - 1, 4 M]
            later = prior_gaussian(self.prior_head(hidden))
            first = torch.zeros_like(latents[:, :1])  # its prior is standard normal
            return Gaussian(torch.cat([first, later.mean], 1), torch.cat([first + 1, later.std], 1))

    def prior_step(
        self,
        previous: Tensor,
        state: tuple[Tensor, Tensor] | None,
        *,
        squash_mean: bool = True,
    ) -> tuple[Gaussian, tuple[Tensor, Tensor]]:
        """Returns the prior of the slot after `previous` `[B, M]`, and the LSTM's next state."""
        state = self.prior_lstm(previous, state)
        return prior_gaussian(self.prior_head(state[0]), squash_mean=squash_mean), state

    def sample(self, noise: Tensor, *, squash_means: bool = True) -> Tensor:
        """Dreams up the mask latents of all slots, one after the other.

        Args:
            noise: `[B, K, M]` standard normal numbers.
            squash_means: False leaves out the tanh on the prior means, as the authors' release
                does when it samples (but not when it trains).

        Returns:
            `[B, K, M]`.
        """
        latents, state = [noise[:, 0]], None  # the first slot's prior is standard normal
        for k in range(1, self.num_slots):
            slot, state = self.prior_step(latents[-1], state, squash_mean=squash_means)
            latents.append(slot.sample(noise[:, k]))
        return torch.stack(latents, dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Splits every pixel among the slots: `[B, K, M]` -> log masks `[B, K, 1, H, W]`.

        The last slot takes what the others leave, so its own logit is never used. In training it is
        decoded all the same, as in the authors' release: batch statistics run over all K maps.
        """
        used = self.num_slots - 1
        decoded = latents if self.training else latents[:, :used]
        logits = self.decoder(decoded.flatten(end_dim=1))  # [B * K, 1, H, W]
        return stick_breaking(logits.float().unflatten(0, (len(latents), -1))[:, :used])


def stick_breaking(logits: Tensor) -> Tensor:
    """Splits each pixel among K slots, one slot at a time (paper, equation 4, in log space).

    Slot k claims a fraction `sigmoid(logits[:, k])` of whatever slots 0..k-1 left unclaimed; the
    last slot takes the remainder, so K - 1 logits are enough. The arithmetic stays in log space
    because the unclaimed scope shrinks geometrically with k.

    Args:
        logits: `[B, K - 1, 1, H, W]` unnormalised claims.

    Returns:
        `[B, K, 1, H, W]` log masks; their exponentials sum to one over K.
    """
    log_claimed = F.logsigmoid(logits)
    log_left = F.logsigmoid(-logits).cumsum(dim=1)
    log_scope = torch.cat([torch.zeros_like(logits[:, :1]), log_left], dim=1)  # [B, K, 1, H, W]
    # The padding is log 1: the last slot claims everything that is left.
    return log_scope + F.pad(log_claimed, (0, 0, 0, 0, 0, 0, 0, 1))


def _slot(noise: Tensor | None, k: int) -> Tensor | None:
    return None if noise is None else noise[:, k]

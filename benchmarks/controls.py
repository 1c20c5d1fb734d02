"""Images whose distance from the data is known beforehand: what tells a good metric from a bad one.

Other true images must be close, spoilt ones far, and noise furthest. All are pure functions of the
image and its index.

Shapes: B images of H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.counter_rng import bits, fold

TILES = 8  # a side


def blurred(images: Tensor, rows: Tensor) -> Tensor:
    """Blurs `[B, H, W, 3]` uint8 images: 2 pixels of standard deviation at 64 x 64."""
    std = images.shape[1] / 32
    reach = int(3 * std)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = (-0.5 * (offsets / std).square()).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    pixels = images.permute(0, 3, 1, 2).float()
    pixels = F.pad(pixels, [reach] * 4, mode="reflect")
    pixels = F.conv2d(F.conv2d(pixels, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def shuffled(images: Tensor, rows: Tensor) -> Tensor:
    """Cuts `[B, H, W, 3]` images into 8 x 8 tiles and puts them into a random order."""
    batch, height, width, _ = images.shape
    high, wide = height // TILES, width // TILES
    tiles = images.view(batch, TILES, high, TILES, wide, 3).transpose(2, 3)
    tiles = tiles.reshape(batch, TILES**2, high, wide, 3)
    order = bits(fold(1, rows), TILES**2).argsort(dim=1).to(images.device)
    tiles = tiles[torch.arange(batch, device=images.device)[:, None], order]
    tiles = tiles.view(batch, TILES, TILES, high, wide, 3).transpose(2, 3)
    return tiles.reshape(images.shape)


def noise(images: Tensor, rows: Tensor) -> Tensor:
    """Uniform noise in place of `[B, H, W, 3]` images."""
    draws = bits(fold(2, rows), images[0].numel()) & 255
    return draws.to(torch.uint8).view(images.shape).to(images.device)


# From the least to the most spoilt.
SPOILT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "blurred": blurred,
    "shuffled": shuffled,
    "noise": noise,
}

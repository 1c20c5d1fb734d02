"""Draws flat sprites: scenes to RGB images and instance masks, batched, on CPU and CUDA alike.

The sprites are those of dSprites, from formulas fitted to its published frames. A pixel is on when
its centre lies strictly inside the outline: there is no anti-aliasing, as in the data. All lengths
in the code below are pixels of a 64 x 64 frame until `_draw` scales them to the image at hand.

Shapes: B scenes, N sprites, H x W pixels, P x P pixels in the window around a sprite.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.scene import SpriteScene

_HALF_SIDE = 9.6  # of the square; the heart is as wide
_ELLIPSE = (12.76, 7.22)  # semi-axes, the long one horizontal
_REACH = 13.7  # no point of a sprite of scale 1 is further from its centre

_CELLS_PER_PIXEL = 4096 / _HALF_SIDE  # the square's edge must fall between two cells
_CELLS = 5632  # enough for the ellipse; the last cell is outside all shapes

# Working sets that stay in a core's cache, and launches that fill a GPU.
_CPU_SCENES, _CUDA_SCENES = 64, 4096


class Frames(NamedTuple):
    """What a scene looks like, and which sprite each pixel belongs to.

    Attributes:
        images: `[B, H, W, 3]` uint8 RGB.
        masks: `[B, H, W]` uint8: 0 is background, k the k-th sprite of the scene.
    """

    images: Tensor
    masks: Tensor


def render_sprites(scene: SpriteScene, image_size: int = 64, max_scale: float = 1.0) -> Frames:
    """Draws every scene; later sprites cover earlier ones.

    Devices agree to the last bit, because only single additions, multiplications and comparisons
    decide about a pixel.

    Args:
        scene: What to draw.
        image_size: Height and width; the scene scales with it.
        max_scale: No sprite is larger than this. A tight value saves time, since only a window of
            that size is looked at; what lies outside it is not drawn.
    """
    step = _CPU_SCENES if scene.shape.device.type == "cpu" else _CUDA_SCENES
    if len(scene) <= step:
        return _draw(scene, image_size, max_scale)
    parts = [
        _draw(scene[start : start + step], image_size, max_scale)
        for start in range(0, len(scene), step)
    ]
    return Frames(*(torch.cat(field) for field in zip(*parts, strict=True)))


def paint(masks: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """Colours a label map.

    Args:
        masks: `[B, H, W]`, 0 for background and k for the k-th sprite.
        colour: `[B, N, 3]` uint8.
        background: `[B, 3]` uint8.

    Returns:
        `[B, H, W, 3]` uint8 images.
    """
    palette = torch.cat([background[:, None], colour], dim=1)  # [B, 1 + N, 3]
    batch, colours, _ = palette.shape
    first = torch.arange(0, batch * colours, colours, device=masks.device, dtype=torch.int32)
    entries = masks + first[:, None, None]
    return palette.view(-1, 3).index_select(0, entries.view(-1)).view(*masks.shape, 3)


def _draw(scene: SpriteScene, image_size: int, max_scale: float) -> Frames:
    batch, count = scene.shape.shape
    zoom = image_size / 64
    reach = _REACH * max_scale * zoom
    window = min(image_size, int(2 * reach) + 1)  # P
    tables = _tables(str(scene.shape.device), count, window)

    # The window: all pixels whose centre (+ .5) can be within reach of the sprite's centre.
    centre = scene.centre * image_size
    first = (centre - (reach - 0.5)).floor_().clamp_(0, image_size - window)  # [B, N, 2]
    offset = first[..., None] + tables.middles - centre[..., None]  # [B, N, 2, P]

    # Each pixel in the sprite's own frame (y is down: a counter-clockwise turn of the sprite), u
    # as a cell of the table.
    turn = scene.turn / (scene.scale * zoom).clamp_(min=1e-6)[..., None]
    cos, sin = turn[..., None].unbind(2)  # [B, N, 1]
    cos_cells, sin_cells = (turn * _CELLS_PER_PIXEL)[..., None].unbind(2)
    dx, dy = offset.unbind(2)  # [B, N, P]
    u = (cos_cells * dx)[..., None, :] - (sin_cells * dy)[..., :, None]  # [B, N, P, P]
    v = (sin * dx)[..., None, :] + (cos * dy)[..., :, None]

    # Every shape is symmetric in u and, at each u, one interval of v: middle +- half.
    cell = u.abs_().clamp_(max=_CELLS - 1).int().add_((scene.shape * _CELLS)[..., None, None])
    cell = cell.view(-1)
    depth = v.view(-1).sub_(tables.profile_middle.index_select(0, cell)).abs_()
    inside = depth < tables.profile_half.index_select(0, cell)

    # Painter's order without a loop: the last sprite on a pixel has the largest label.
    label = tables.ordinals * (scene.scale > 0)
    column, row = (first.long()[..., None] + tables.ticks).unbind(2)  # [B, N, P]
    pixel = (row * image_size)[..., :, None] + column[..., None, :]  # [B, N, P, P]
    labels = inside.view(batch, count, -1) * label[..., None]
    masks = torch.zeros(
        batch, image_size * image_size, device=scene.shape.device, dtype=torch.int32
    )
    masks.scatter_reduce_(1, pixel.view(batch, -1), labels.view(batch, -1), "amax")
    masks = masks.view(batch, image_size, image_size)
    return Frames(paint(masks, scene.colour, scene.background), masks.to(torch.uint8))


class _Tables(NamedTuple):
    """What `_draw` needs beside the scene.

    Attributes:
        ticks: `[P]` int64, 0, 1, ..
        middles: `[P]` float32, .5, 1.5, ..
        ordinals: `[N]` int32, the labels 1, 2, ..
        profile_middle: `[3 * cells]` float32.
        profile_half: `[3 * cells]` float32.
    """

    ticks: Tensor
    middles: Tensor
    ordinals: Tensor
    profile_middle: Tensor
    profile_half: Tensor


@lru_cache(maxsize=64)
def _tables(device: str, count: int, window: int) -> _Tables:
    with torch.inference_mode(False):  # they outlive the caller's mode
        ticks = torch.arange(window, device=device)
        ordinals = torch.arange(1, count + 1, dtype=torch.int32, device=device)
        return _Tables(ticks, ticks + 0.5, ordinals, *_profiles(device))


@lru_cache(maxsize=16)
def _profiles(device: str) -> tuple[Tensor, Tensor]:
    """For each shape and each cell of |u|, the middle and half length of the interval of v.

    A table rather than formulas: it costs the same for every shape, and a lookup gives equal
    results on every device where a cube root would not. A cell is 1/400 of a pixel wide.
    """
    u = (np.arange(_CELLS) + 0.5) / _CELLS_PER_PIXEL

    square = np.zeros_like(u), np.where(u < _HALF_SIDE, _HALF_SIDE, -1.0)

    along = u / _ELLIPSE[0]
    across = _ELLIPSE[1] * np.sqrt(np.clip(1 - along**2, 0, None))
    ellipse = np.zeros_like(u), np.where(along < 1, across, -1.0)

    # The heart is a polygon of 200 points; t up to pi / 2 is the upper side, lobes and notch.
    t = 2 * np.pi * np.arange(101) / 200
    cosines = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    side, height = _HALF_SIDE * np.sin(t) ** 3, -0.662 * cosines - 1.44
    upper = np.interp(u, side[:51], height[:51])
    lower = np.interp(u, side[:49:-1], height[:49:-1])
    heart = (upper + lower) / 2, np.where(u < _HALF_SIDE, (lower - upper) / 2, -1.0)

    middle, half = (np.concatenate(part) for part in zip(square, ellipse, heart, strict=True))
    return (
        torch.tensor(middle, dtype=torch.float32, device=device),
        torch.tensor(half, dtype=torch.float32, device=device),
    )

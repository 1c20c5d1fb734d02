"""Draws flat sprites: scenes to RGB images and instance masks, batched, on CPU and CUDA alike.

The sprites are those of dSprites, from formulas fitted to its published frames. A pixel is on when
its centre lies strictly inside the outline: there is no anti-aliasing, as in the data. All lengths
in the code below are pixels of a 64 x 64 frame until `_labels` scales them to the image at hand.

Shapes: B scenes, N sprites, H x W pixels, P x P pixels in the window around a sprite.
"""

from functools import cache, lru_cache
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
    device = scene.shape.device
    shape = (len(scene), image_size, image_size)
    images = torch.empty(*shape, 3, dtype=torch.uint8, device=device)
    masks = torch.empty(shape, dtype=torch.uint8, device=device)
    step = _CPU_SCENES if device.type == "cpu" else _CUDA_SCENES
    for start in range(0, len(scene), step):
        part = scene if len(scene) <= step else scene[start : start + step]
        labels = _labels(part, image_size, max_scale)
        masks[start : start + step] = labels
        paint(labels, part.colour, part.background, out=images[start : start + step])
    return Frames(images, masks)


def paint(masks: Tensor, colour: Tensor, background: Tensor, out: Tensor | None = None) -> Tensor:
    """Colours a label map.

    Args:
        masks: `[B, H, W]`, 0 for background and k for the k-th sprite.
        colour: `[B, N, 3]` uint8.
        background: `[B, 3]` uint8.
        out: Where to put the images, if not into new memory.

    Returns:
        `[B, H, W, 3]` uint8 images.
    """
    if out is None:
        out = torch.empty(*masks.shape, 3, dtype=torch.uint8, device=masks.device)
    palette = torch.cat([background[:, None], colour], dim=1)  # [B, 1 + N, 3]
    batch, colours, _ = palette.shape
    first = torch.arange(0, batch * colours, colours, device=masks.device, dtype=torch.int32)
    entries = (masks + first[:, None, None]).view(-1)
    torch.index_select(palette.view(-1, 3), 0, entries, out=out.view(-1, 3))
    return out


def _labels(scene: SpriteScene, image_size: int, max_scale: float) -> Tensor:
    """`[B, H, W]` int32: the masks of the scenes."""
    batch, count = scene.shape.shape
    zoom = image_size / 64
    reach = _REACH * max_scale * zoom
    window = min(image_size, int(2 * reach) + 1)  # P
    tables = _tables(str(scene.shape.device), count, image_size, window)

    # The window: all pixels whose middle (+ .5) can be within reach of the sprite's centre.
    centre = scene.centre * image_size
    first = (centre - (reach - 0.5)).floor_().clamp_(0, image_size - window)  # [B, N, 2]
    offset = (first - centre)[..., None] + tables.middles  # [B, N, 2, P]: x, y

    # Each pixel in the sprite's own frame, where y is down and a turn is counter-clockwise:
    # u = cos x - sin y, as a cell of the table, and v = sin x + cos y.
    scale = (scene.scale * zoom).clamp_(min=1e-6)[..., None]
    turn = (scene.turn.index_select(2, tables.turn) * tables.sign / scale)[..., None]
    along = turn.view(batch, count, 2, 2, 1) * offset[:, :, None]  # [B, N, 2, 2, P]: u v, x y
    x, y = along.unbind(3)
    u, v = (x[..., None, :] + y[..., :, None]).unbind(2)  # [B, N, P, P]

    # Every shape is symmetric in u and, at each u, one interval of v: middle +- half.
    row = (scene.shape * _CELLS).view(batch, count, 1, 1)
    cell = u.abs().clamp_(max=_CELLS - 1).int().add_(row).view(-1)
    depth = (v - tables.profile_middle.index_select(0, cell).view(v.shape)).abs_()
    inside = depth < tables.profile_half.index_select(0, cell).view(v.shape)

    # Painter's order without a loop: the last sprite on a pixel has the largest label.
    label = tables.ordinals * (scene.scale > 0)
    labels = inside.view(batch, count, -1) * label[..., None]
    corner = (first.long() * tables.strides).sum(-1, keepdim=True)
    pixels = (corner + tables.pixels).view(batch, -1)  # [B, N * P * P]
    masks = torch.zeros(batch, image_size**2, device=scene.shape.device, dtype=torch.int32)
    masks.scatter_reduce_(1, pixels, labels.view(batch, -1), "amax")
    return masks.view(batch, image_size, image_size)


class _Tables(NamedTuple):
    """What `_labels` needs beside the scene.

    Attributes:
        middles: `[P]` float32, .5, 1.5, ..
        turn: `[4]` int64, where the entries of a rotation are in (cosine, sine).
        sign: `[4]` float32, their signs, and the number of cells per pixel.
        ordinals: `[N]` int32, the labels 1, 2, ..
        strides: `[2]` int64, of x and y in an image.
        pixels: `[P * P]` int64, the window's pixels in an image, from its first.
        profile_middle: `[3 * cells]` float32.
        profile_half: `[3 * cells]` float32.
    """

    middles: Tensor
    turn: Tensor
    sign: Tensor
    ordinals: Tensor
    strides: Tensor
    pixels: Tensor
    profile_middle: Tensor
    profile_half: Tensor


@cache  # recordings read them for good (envs.replay)
def _tables(device: str, count: int, image_size: int, window: int) -> _Tables:
    with torch.inference_mode(False):  # they outlive the caller's mode
        ticks = torch.arange(window)
        tables = (
            ticks + 0.5,
            torch.tensor([0, 1, 1, 0]),
            torch.tensor([_CELLS_PER_PIXEL, -_CELLS_PER_PIXEL, 1, 1]),
            torch.arange(1, count + 1, dtype=torch.int32),
            torch.tensor([1, image_size]),
            (ticks[:, None] * image_size + ticks).view(-1),
        )
        return _Tables(*[table.to(device) for table in (*tables, *_profiles())])


@lru_cache(maxsize=1)
def _profiles() -> tuple[Tensor, Tensor]:
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
    return torch.from_numpy(middle).float(), torch.from_numpy(half).float()

"""Scenes as data: which flat sprites there are, where, and in which colours.

Shapes: B scenes, N sprites in each. A scene says nothing about pixels; `envs.sprites_render` turns
it into images and masks, and `SpriteScene.factors` into numbers, so that all three always agree.
"""

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SHAPES = ("square", "ellipse", "heart")
"""The three sprites of dSprites, by shape number."""

COLOUR_LEVELS = (0, 63, 127, 191, 255)
"""The levels a colour channel takes in Multi-dSprites: 125 colours in all."""

DSPRITES_COUNTS = (1, 3, 6, 40, 32, 32)
"""How many values each dSprites factor has: colour, shape, scale, orientation, x and y."""

NUM_DSPRITES = math.prod(DSPRITES_COUNTS)


@dataclass(frozen=True)
class SpriteScene:
    """A batch of flat scenes. Sprites are listed in the order in which they are drawn.

    Attributes:
        shape: `[B, N]` int64, an index into `SHAPES`.
        scale: `[B, N]` float32, .5 to 1 in dSprites; 0 leaves the sprite out.
        turn: `[B, N, 2]` float32, cosine and sine of the orientation, counter-clockwise.
        centre: `[B, N, 2]` float32, x and y in fractions of the frame, y downwards.
        colour: `[B, N, 3]` uint8 RGB.
        background: `[B, 3]` uint8 RGB.
    """

    shape: Tensor
    scale: Tensor
    turn: Tensor
    centre: Tensor
    colour: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | Tensor) -> "SpriteScene":
        """The scenes of these rows."""
        return SpriteScene(*(getattr(self, field.name)[rows] for field in fields(self)))

    def factors(self) -> Tensor:
        """`[B, N, 8]` float32 in [0, 1]: x, y, red, green, blue and the shape, one-hot."""
        shapes = torch.arange(len(SHAPES), device=self.shape.device)
        one_hot = (self.shape[..., None] == shapes).float()
        # In double: CUDA divides floats by a number through its reciprocal, one bit off the CPU.
        colour = (self.colour.double() / 255).float()
        return torch.cat([self.centre, colour, one_hot], dim=-1)


class SpriteFactors(NamedTuple):
    """The dSprites factors as class numbers; every field has the shape of the index it came from.

    Attributes:
        shape: 0 square, 1 ellipse, 2 heart.
        scale: 0 to 5, for .5, .6, .. 1.
        orientation: 0 to 39, for 0 to a full turn; the first and the last look the same.
        x: 0 to 31, from left to right.
        y: 0 to 31, from top to bottom.
    """

    shape: Tensor
    scale: Tensor
    orientation: Tensor
    x: Tensor
    y: Tensor


def dsprites_factors(index: Tensor) -> SpriteFactors:
    """The factors of the sprites at these positions (0 to 737,279) of the dSprites array."""
    strides = [math.prod(DSPRITES_COUNTS[i + 1 :]) for i in range(len(DSPRITES_COUNTS))]
    pairs = zip(strides, DSPRITES_COUNTS, strict=True)
    classes = [index // stride % count for stride, count in pairs]
    return SpriteFactors(*classes[1:])  # dSprites has one colour


def dsprites_index(factors: SpriteFactors) -> Tensor:
    """The position of these factors in the dSprites array: the inverse of `dsprites_factors`."""
    index = torch.zeros_like(factors.shape)
    for classes, count in zip(factors, DSPRITES_COUNTS[1:], strict=True):
        index = index * count + classes
    return index


def dsprites_scene(
    index: Tensor, colour: Tensor, background: Tensor, present: Tensor | None = None
) -> SpriteScene:
    """Scenes made of dSprites' own sprites.

    Args:
        index: `[B, N]` int64, positions in the dSprites array.
        colour: `[B, N, 3]` uint8.
        background: `[B, 3]` uint8.
        present: `[B, N]` bool, which sprites are drawn; all unless given.
    """
    factors = dsprites_factors(index)
    scales, turns, places = _dsprites_tables(str(index.device))
    scale = scales[factors.scale]
    if present is not None:
        scale = scale * present
    centre = torch.stack([places[factors.x], places[factors.y]], dim=-1)  # [B, N, 2]
    return SpriteScene(factors.shape, scale, turns[factors.orientation], centre, colour, background)


@lru_cache(maxsize=16)
def _dsprites_tables(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, (cosine, sine) and place by class, from float64 so that every device agrees."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        scales = torch.linspace(0.5, 1, 6, dtype=torch.float64)
        angles = torch.linspace(0, 2 * math.pi, 40, dtype=torch.float64)
        turns = torch.stack([angles.cos(), angles.sin()], dim=-1)  # [40, 2]
        places = torch.linspace(0.25, 0.75, 32, dtype=torch.float64)  # pixels 16 to 48 of 64
        tables = [table.float().to(device) for table in (scales, turns, places)]
    return tables[0], tables[1], tables[2]

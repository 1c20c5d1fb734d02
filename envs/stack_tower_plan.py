"""What is random in an episode of `StackTower`: blocks, where each hangs, the room and the view.

A plan is a pure function of its key, exactly: numbers come from whole ones by single additions and
multiplications, so that neither batch nor device changes a bit.

Shapes: B episodes, N blocks in each, the lowest first.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.counter_rng import bits, integers, without_repeats
from envs.tower_blocks import CUBOID, LYING

PALETTES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "train": ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)),
    "ood": ((1, 0.5, 0), (0.5, 1, 0), (0, 1, 0.5), (0, 0.5, 1), (0.5, 0, 1), (1, 0, 0.5)),
}
PALETTES["all"] = PALETTES["train"] + PALETTES["ood"]

WIDTH, RISE = (0.35, 0.6), (0.25, 0.45)
"""Half of a block's sides, or its radius, and half of its height: within those of ShapeStacks."""

SPOT = ((-0.6, 0.6), (-2.0, -1.2))
"""Where the first block stands: x, to the right, and y, away from the camera, of the room's
middle."""

HANGS = ((-1.0, 1.0), (-0.2, 1.4))
"""How far right of the top block, and behind it, the next one hangs."""

VIEWS = 4  # the cameras that look down steeply, which tell near from far
_FLOORS, _WALLS, _LIGHTS = 6, 6, 5
_FINE = 1 << 20  # steps of a continuous number


class Plans(NamedTuple):
    """B episodes.

    Attributes:
        kind: `[B, N]` int64, `CUBOID` to `SPHERE`; only the last may be curved.
        size: `[B, N, 3]` float64 half sizes, as in `Towers`.
        yaw: `[B, N]` int64 degrees about the vertical.
        colour: `[B, N, 3]` float32 RGB.
        spot: `[B, 2]` float64, x and y of the first block.
        hangs: `[B, N, 2]` float64: x and y of a block before it is set down, from the one below.
        view: `[B]` int64, 0 to 3.
        floor: `[B]` int64, as the wall and the light, `[B]` too.
    """

    kind: Tensor
    size: Tensor
    yaw: Tensor
    colour: Tensor
    spot: Tensor
    hangs: Tensor
    view: Tensor
    floor: Tensor
    wall: Tensor
    light: Tensor


def draw_plans(keys: Tensor, count: int, palette: Tensor) -> Plans:
    """The episodes of these `[B]` keys.

    Args:
        keys: `[B]` int64.
        count: N.
        palette: `[C, 3]` colours, at least N.
    """
    highs, low, step = _ranges(count, len(palette))
    draws = integers(bits(keys, len(highs)), highs)
    room, each = draws[:, :4], draws[:, 6:].unflatten(1, (count, 8))
    kind, yaw, colour = each[..., :3].unbind(-1)
    place = low + draws.double() * step  # what is not a whole number
    lengths = place[:, 6:].unflatten(1, (count, 8))[..., 3:]
    view, floor, wall, light = room.unbind(-1)
    return Plans(
        kind=kind,
        size=lengths[..., :3].gather(-1, _SIZE_FROM[kind]),
        yaw=yaw * ((kind == CUBOID) | (kind == LYING)),
        colour=palette[without_repeats(colour)],
        spot=place[:, 4:6],
        hangs=lengths[..., 3:],
        view=view,
        floor=floor,
        wall=wall,
        light=light,
    )


_SIZE_FROM = torch.tensor([[0, 1, 2], [0, 0, 2], [2, 2, 0], [2, 2, 2]])
"""Which of width, depth and rise each half size is, by kind: lying on its side, a cylinder is as
high as it is round."""


@lru_cache(maxsize=16)
def _ranges(count: int, colours: int) -> tuple[Tensor, Tensor, Tensor]:
    """`[D]` each, for every number drawn: how many values it has, the least, and their distance."""
    block_spans = (WIDTH, WIDTH, RISE, *HANGS)
    numbers: list[int | tuple[float, float]] = [VIEWS, _FLOORS, _WALLS, _LIGHTS, *SPOT]
    for block in range(count):
        kinds = len(_SIZE_FROM) if block == count - 1 else 2  # only the top is curved
        numbers += [kinds, 360, colours - block, *block_spans]
    highs = [number if isinstance(number, int) else _FINE for number in numbers]
    lows = [0.0 if isinstance(number, int) else number[0] for number in numbers]
    steps = [1.0 if isinstance(n, int) else (n[1] - n[0]) / _FINE for n in numbers]
    with torch.inference_mode(False):  # they outlive the caller's mode
        low, step = (torch.tensor(values, dtype=torch.float64) for values in (lows, steps))
        return torch.tensor(highs), low, step

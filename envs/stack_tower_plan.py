"""What is random in an episode of `StackTower`: blocks, where each hangs, the room and the view.

A plan is a pure function of its key, exactly: numbers come from whole ones by single additions and
multiplications, so that neither batch nor device changes a bit.

Shapes: B episodes, N blocks in each, the lowest first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.counter_rng import bits, integers, without_repeats
from envs.tower_blocks import CUBOID, CYLINDER, LYING, SPHERE

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
    draws = bits(keys, 6 + 8 * count)
    room, each = draws[:, :6], draws[:, 6:].unflatten(1, (count, 8))
    kind = integers(each[..., 0], 2)  # `CUBOID` or `CYLINDER`
    kind[:, -1] = integers(each[:, -1, 0], 4)
    yaw = integers(each[..., 4], 360) * ((kind == CUBOID) | (kind == LYING))
    left = torch.arange(len(palette), len(palette) - count, -1, device=keys.device)
    view, floor, wall, light = (
        integers(room[:, k], high) for k, high in enumerate((VIEWS, _FLOORS, _WALLS, _LIGHTS))
    )
    return Plans(
        kind=kind,
        size=_half_sizes(kind, each[..., 1:4]),
        yaw=yaw,
        colour=palette[without_repeats(integers(each[..., 5], left))],
        spot=torch.stack([_between(SPOT[k], room[:, 4 + k]) for k in range(2)], dim=-1),
        hangs=torch.stack([_between(HANGS[k], each[..., 6 + k]) for k in range(2)], dim=-1),
        view=view,
        floor=floor,
        wall=wall,
        light=light,
    )


def _half_sizes(kind: Tensor, draws: Tensor) -> Tensor:
    """`[B, N, 3]`, from as many random bits; curved blocks are as high as they are round."""
    width, depth, rise = (
        _between(span, draws[..., k]) for k, span in enumerate((WIDTH, WIDTH, RISE))
    )
    sizes = {
        CUBOID: (width, depth, rise),
        CYLINDER: (width, width, rise),
        LYING: (rise, rise, width),
        SPHERE: (rise, rise, rise),
    }
    chosen = torch.stack([torch.stack(size, dim=-1) for size in sizes.values()], dim=-2)
    return chosen.gather(-2, kind[..., None, None].expand(*kind.shape, 1, 3)).squeeze(-2)


def _between(span: tuple[float, float], draws: Tensor) -> Tensor:
    """Random bits to float64 between these."""
    low, high = span
    return low + integers(draws, _FINE).double() * ((high - low) / _FINE)

"""Towers of blocks as data, and the geometry that decides whether they stand.

Shapes: B towers, blocks numbered from the bottom in 6 slots each. World units, z up, float64: a
margin of a few hundredths decides what falls.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

MAX_BLOCKS = 6

CUBOID, CYLINDER, LYING, SPHERE = range(4)
"""The kinds of block; empty slots are -1. The axis of a lying cylinder is horizontal."""

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta")
"""The colours of blocks, each channel 0 or 1."""


@dataclass(frozen=True)
class Towers:
    """A batch of towers and of the rooms they stand in.

    Attributes:
        number: `[B]` int64, the index that the tower was drawn for.
        cubes: `[B]` bool, whether it is made of like cubes (`blocks`) or of everything (`ccs`).
        hard: `[B]` bool, whether its blocks may be far off each other's centres.
        height: `[B]` int64, 2 to 6 blocks.
        violation: `[B]` int64: 0 none, 1 a block does not carry the centre of mass above it, 2 one
            carries something on a curved surface.
        level: `[B]` int64: which block violates, 1 the lowest; 0 none.
        kind: `[B, 6]` int64, `CUBOID` to `SPHERE`, or -1 for no block.
        size: `[B, 6, 3]` half sizes: cuboid (x, y, z); cylinders (radius, radius, half length);
            sphere (radius x 3).
        yaw: `[B, 6]` radians about the vertical.
        position: `[B, 6, 3]` centres.
        colour: `[B, 6]` int64, an index into `COLOURS`; different within a tower.
        floor: `[B]` int64, 0 to 5.
        wall: `[B]` int64, 0 to 5.
        light: `[B]` int64, 0 to 4: the one that casts shadows.
    """

    number: Tensor
    cubes: Tensor
    hard: Tensor
    height: Tensor
    violation: Tensor
    level: Tensor
    kind: Tensor
    size: Tensor
    yaw: Tensor
    position: Tensor
    colour: Tensor
    floor: Tensor
    wall: Tensor
    light: Tensor

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, rows: slice | Tensor) -> "Towers":
        """The towers of these rows."""
        return Towers(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device | str) -> "Towers":
        """The same towers on this device."""
        return Towers(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def stable(self) -> Tensor:
        """`[B]` bool: what the names say."""
        return self.violation == 0

    def names(self) -> list[str]:
        """The scenarios' names, such as `ccs-hard-h=3-vcom=2-vpsf=0-v=17`."""
        columns = (self.cubes, self.hard, self.height, self.violation, self.level, self.number)
        return [
            f"{'blocks' if cubes else 'ccs'}-{'hard' if hard else 'easy'}-h={height}"
            f"-vcom={level * (violation == 1)}-vpsf={level * (violation == 2)}-v={number}"
            for cubes, hard, height, violation, level, number in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]

    def rotation(self) -> Tensor:
        """`[B, 6, 3, 3]`: the blocks' own axes to the world's."""
        cos, sin, zero = self.yaw.cos(), self.yaw.sin(), torch.zeros_like(self.yaw)
        x, y = torch.stack([cos, sin, zero], dim=-1), torch.stack([-sin, cos, zero], dim=-1)
        z = torch.linalg.cross(x, y)
        lying = (self.kind == LYING)[..., None, None]
        # A lying cylinder is tipped about x before it is turned: its own z ends along -y.
        return torch.where(lying, torch.stack([x, z, -y], dim=-1), torch.stack([x, y, z], dim=-1))


def support_margins(towers: Towers) -> Tensor:
    """How safely each block carries what is above it.

    Returns:
        `[B, 5]` float64: column k is the distance of the centre of mass of everything above block
        k + 1 from the edge of that block's top face or of the next one's bottom face, whichever is
        nearer: negative outside, minus infinity where a curved block carries anything, and infinity
        where there is nothing to carry.
    """
    mass = volume(towers.kind, towers.size)  # [B, 6], at equal density
    moment = mass[..., None] * towers.position[..., :2]
    from_here_up = [x.flip(1).cumsum(1).flip(1)[:, 1:] for x in (moment, mass[..., None])]
    above = from_here_up[0] / from_here_up[1].clamp(min=1e-9)  # [B, 5, 2]
    lower = _inside(towers, slice(0, -1), above, curved=-math.inf)
    # A curved block touches below its own centre, and only the top one gets this far.
    upper = _inside(towers, slice(1, None), above, curved=math.inf)
    return torch.where(towers.kind[:, 1:] >= 0, torch.minimum(lower, upper), math.inf)


def stability_margin(towers: Towers) -> Tensor:
    """`[B]` the smallest margin of each tower: positive and it stands, negative and it falls."""
    return support_margins(towers).amin(dim=1)


def volume(kind: Tensor, size: Tensor) -> Tensor:
    """The volume of blocks of these kinds and half sizes `[..., 3]`; 0 where there is none."""
    box = 8 * size.prod(dim=-1)
    factors = torch.tensor(
        [1, math.pi / 4, math.pi / 4, math.pi / 6, 0], dtype=box.dtype, device=box.device
    )
    return box * factors[kind]  # -1, no block, takes the last


def extent(kind: Tensor, size: Tensor) -> Tensor:
    """How high blocks of these kinds and half sizes `[..., 3]` are; 0 where there is none."""
    height = 2 * torch.where(kind == LYING, size[..., 0], size[..., 2])
    return torch.where(kind >= 0, height, 0.0)


def _inside(towers: Towers, slots: slice, points: Tensor, curved: float) -> Tensor:
    """How deep `[B, k, 2]` points lie inside the horizontal faces of the blocks in these slots."""
    kind, half = towers.kind[:, slots], towers.size[:, slots, :2]
    offset = points - towers.position[:, slots, :2]
    cos, sin = towers.yaw[:, slots].cos(), towers.yaw[:, slots].sin()
    x, y = offset.unbind(-1)
    beyond = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1).abs() - half
    rectangle = -(beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0))
    disc = half[..., 0] - offset.norm(dim=-1)
    return torch.where(kind == CUBOID, rectangle, torch.where(kind == CYLINDER, disc, curved))

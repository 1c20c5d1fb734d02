"""ShapeStacks towers: how they are drawn, and how they are shown.

The recipe is that of ShapeStacks (Groth et al., ECCV 2018), repaired where it fails to do what its
names say: an overhang on a round block really hangs over, and a tower whose fate hangs on less than
`CLEARANCE` is drawn again. A tower is a pure function of seed and index.

Shapes: B towers, blocks in 6 slots each. World units, z up.
"""

import math
from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor

from envs.counter_rng import bits, fold
from envs.solids import SOLIDS, Camera, Solids, SolidScene, StackStage
from envs.tower_blocks import (
    CUBOID,
    CYLINDER,
    LYING,
    MAX_BLOCKS,
    SPHERE,
    Towers,
    extent,
    support_margins,
    volume,
)

Shapes = Literal["ccs", "blocks", "both"]

SHAPES = ("ccs", "blocks", "both")
VIEWS = 16

HEIGHT_COUNTS = (4312, 5920, 4680, 2815, 1723)
"""How many scenarios of 2 to 6 blocks ShapeStacks' default lists hold."""

CLEARANCE = 0.05
"""How far a centre of mass has to be from the edge that decides."""

_EXCESS = 0.055  # how far outside a violating one is: a little more, so that rounding is harmless
_SPOT = 2.0  # a tower stands up to this far from the middle, in x and in y
_MOST_TRIES = 1000


def draw_towers(
    indices: Tensor, seed: int = 0, *, shapes: Shapes = "ccs", device: torch.device | str = "cpu"
) -> Towers:
    """Draws towers with the frequencies of ShapeStacks' default lists.

    Half of them are stable, half are easy. Half of the unstable ones break each rule, at a block
    that is uniform over those below the top one. Of `both` shapes a third are cubes, as in the
    published images; cubes break the first rule only.

    Args:
        indices: `[B]` int64, one a tower.
        seed: Another seed is another set of towers.
        shapes: "ccs" (cuboids, cylinders and spheres), "blocks" (like cubes), or "both".
        device: Where they are drawn.

    Example:
        >>> draw_towers(torch.tensor([7]), seed=0).names()
        ['ccs-hard-h=4-vcom=0-vpsf=0-v=7']
    """
    if shapes not in SHAPES:
        raise ValueError(f"shapes need to be ccs, blocks or both, but are {shapes!r}.")
    indices = indices.to(device)
    keys = fold(fold(seed, SHAPES.index(shapes), device), indices, device)
    towers = _draw(indices, keys, 0, shapes)
    for attempt in range(1, _MOST_TRIES):
        wrong = (~keeps_its_name(towers)).nonzero()[:, 0]
        if not len(wrong):
            return towers
        again = _draw(indices[wrong], keys[wrong], attempt, shapes)
        for field in fields(towers):
            getattr(towers, field.name)[wrong] = getattr(again, field.name)
    raise RuntimeError(f"{_MOST_TRIES} tries gave no tower for seed {seed}, {indices[wrong]}.")


def keeps_its_name(towers: Towers) -> Tensor:
    """`[B]` bool: unstable at its level and nowhere else, and neither by less than `CLEARANCE`."""
    margins = support_margins(towers)
    block, level = torch.arange(1, MAX_BLOCKS, device=margins.device), towers.level[:, None]
    # What hangs over the violating block can hang over its bottom face too, and so not be carried
    # by the block below: that one is left out.
    carried = (margins >= CLEARANCE) | (block == level - 1)
    return torch.where(block == level, margins <= -CLEARANCE, carried).all(dim=1)


def tower_scene(towers: Towers, camera: Camera) -> SolidScene:
    """What a renderer draws; block k, counted from the bottom, owns mask label k."""
    device = towers.kind.device
    names = {CUBOID: "box", CYLINDER: "cylinder", LYING: "cylinder", SPHERE: "sphere"}
    kinds = torch.tensor([SOLIDS.index(names[kind]) for kind in range(4)], device=device)
    number = torch.arange(1, MAX_BLOCKS + 1, device=device)
    solids = Solids(
        kind=kinds[towers.kind.clamp(min=0)],
        size=towers.size.float(),
        position=towers.position.float(),
        rotation=towers.rotation().float(),
        colour=torch.tensor(_RGB, dtype=torch.float32, device=device)[towers.colour],
        owner=torch.where(towers.kind >= 0, number, 0),
    )
    return SolidScene(solids, StackStage(towers.floor, towers.wall, towers.light), camera)


_RGB = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1))  # in COLOURS' order

_CAMERAS = (  # x, y, z, tilt and heading in degrees, by number
    *((-7, -7, 5, 75, -45), (-9, -2, 5, 75, -75), (-2, -9, 5, 75, -15)),
    *((-7, 7, 5, 75, 225), (-9, 2, 5, 75, 255), (-2, 9, 5, 75, 195)),
    *((7, 7, 5, 75, 135), (9, 2, 5, 75, 105), (2, 9, 5, 75, 165)),
    *((7, -7, 5, 75, 45), (9, -2, 5, 75, 75), (2, -9, 5, 75, 15)),
    *((-5, -5, 9, 45, -45), (-5, 5, 9, 45, 225), (5, 5, 9, 45, 135), (5, -5, 9, 45, 45)),
)
_FOVY = 45.0
_CROP = 196 / 224
_EYE = -0.034  # published images are the left eye's of a pair .068 apart


def stack_camera(number: Tensor, crop: bool = False) -> Camera:
    """The sixteen fixed cameras of ShapeStacks.

    Args:
        number: `[B]` int64, 1 to 16; those from 13 on look down more steeply.
        crop: Sees no more than the central 196 of a file's 224 pixels, which models are shown.
    """
    table = torch.tensor(_CAMERAS, dtype=torch.float64, device=number.device)[number - 1]
    tilt, heading = torch.deg2rad(table[:, 3]), torch.deg2rad(table[:, 4])
    right = torch.stack([heading.cos(), heading.sin(), torch.zeros_like(tilt)], dim=-1)
    level = torch.stack([heading.sin(), -heading.cos(), torch.zeros_like(tilt)], dim=-1)
    backward = level * tilt.sin()[:, None]
    backward[:, 2] = tilt.cos()
    rotation = torch.stack([right, torch.linalg.cross(backward, right), backward], dim=-1)
    half = math.tan(math.radians(_FOVY) / 2)
    fovy = math.degrees(2 * math.atan(half * _CROP)) if crop else _FOVY
    return Camera((table[:, :3] + _EYE * right).float(), rotation.float(), fovy)


# --- the recipe ---------------------------------------------------------------------------------


def _draw(number: Tensor, keys: Tensor, attempt: int, shapes: Shapes) -> Towers:
    """Draws towers; another attempt changes the blocks, and leaves names and rooms as they are."""
    plan = _uniform(keys, 9)
    cubes = plan[:, 0] < {"ccs": 0, "both": 1 / 3, "blocks": 1}[shapes]
    hard = plan[:, 1] < 0.5
    bounds = torch.tensor(HEIGHT_COUNTS, device=number.device).cumsum(0)
    height = 2 + torch.searchsorted(bounds, (plan[:, 2] * bounds[-1]).long(), right=True)
    rule = torch.where(cubes | (plan[:, 4] < 0.5), 1, 2)
    violation = torch.where(plan[:, 3] < 0.5, 0, rule)
    level = (violation > 0) * (1 + (plan[:, 5] * (height - 1)).long())
    rooms = (plan[:, 6:] * torch.tensor([6, 6, 5], device=number.device)).long()

    draws = _uniform(fold(keys, attempt, number.device), 8 + 10 * MAX_BLOCKS)
    block = height[:, None] - torch.arange(MAX_BLOCKS, device=number.device)  # from the top down
    violating = (block == level[:, None]) * violation[:, None]
    blocks = _stack(draws[:, 8:].unflatten(1, (-1, 10)), block, violating, cubes, hard)
    spot = (2 * draws[:, :2] - 1) * _SPOT
    blocks[2][..., :2] += spot[:, None]

    # Turned round, so that slot 0 is the lowest block and the empty slots come last.
    slots = (block - 1) % MAX_BLOCKS
    kind, size, position, yaw = (_gather(x, slots) for x in blocks)
    colour = draws[:, 2:8].argsort(dim=1)
    columns = number, cubes, hard, height, violation, level, kind, size, yaw, position, colour
    return Towers(*columns, *rooms.unbind(1))


def _stack(
    draws: Tensor, block: Tensor, violating: Tensor, cubes: Tensor, hard: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kind, half size, position and yaw of blocks that are placed from the top down.

    Args:
        draws: `[B, 6, 10]` uniform numbers.
        block: `[B, 6]` which block of the tower a column is; below 1 there is none.
        violating: `[B, 6]` which rule the block breaks, 0 none.
        cubes: `[B]` bool.
        hard: `[B]` bool.
    """
    top = torch.arange(MAX_BLOCKS, device=block.device) == 0
    choice = draws[..., 0]
    kind = torch.where(violating == 2, LYING + (2 * choice).long(), (2 * choice).long())
    kind = torch.where(top, (4 * choice).long(), kind)
    kind = torch.where(cubes[:, None], CUBOID, kind)
    kind = torch.where(block >= 1, kind, -1)

    size = _half_sizes(kind, draws[..., 1:4], cubes)
    turned = (kind == CUBOID) | (kind == LYING)
    yaw = torch.deg2rad((361 * draws[..., 4]).floor()) * turned
    offset = _offsets(kind, size, draws[..., 5:], violating == 1, hard)
    x, y = offset.unbind(-1)
    offset = torch.stack([yaw.cos() * x - yaw.sin() * y, yaw.sin() * x + yaw.cos() * y], dim=-1)

    mass = volume(kind, size)
    centre, total = torch.zeros_like(offset[:, 0]), mass[:, 0]  # of what has been placed so far
    places = [centre]
    for k in range(1, MAX_BLOCKS):
        places.append(centre + offset[:, k])
        total = total + mass[:, k]
        centre = centre + (mass[:, k] / total)[:, None] * offset[:, k]
    rise = extent(kind, size)
    height = rise.sum(dim=1, keepdim=True) - rise.cumsum(dim=1) + rise / 2
    position = torch.cat([torch.stack(places, dim=1), height[..., None]], dim=-1)
    return kind, size, position, yaw


def _half_sizes(kind: Tensor, draws: Tensor, cubes: Tensor) -> Tensor:
    """`[B, 6, 3]`, from as many uniform numbers: sides and diameters of .5 to 1.5, cubes of 1.

    As measured on published images. (The recipe's defaults, and its example, end at 1.)
    """
    side = (0.5 + draws) / 2
    radius, length = side[..., :1], side[..., 1:2]
    side = torch.where(cubes[:, None, None], 0.5, side)
    cylinder = torch.cat([radius, radius, length], dim=-1)
    kind = kind[..., None]
    size = torch.where(kind == CUBOID, side, cylinder)
    return torch.where(kind == SPHERE, radius, size) * (kind >= 0)


def _offsets(kind: Tensor, size: Tensor, draws: Tensor, violating: Tensor, hard: Tensor) -> Tensor:
    """`[B, 6, 2]` from the centre of mass above to a block's own centre, along the block's axes."""
    spread = torch.where(hard, 1.0, 0.5)[:, None, None]  # of the steps, in half faces
    amount, sign = draws[..., :2], torch.where(draws[..., 2:4] < 0.5, -1.0, 1.0)
    radius, length = size[..., 0], size[..., 2]
    angle = 2 * math.pi * draws[..., 1]
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)

    cuboid = sign * spread * amount * size[..., :2]
    # On discs ShapeStacks takes half the radius for half a face, and no more than that in all.
    disc = torch.where(
        hard[:, None, None],
        direction * (radius / 2 * draws[..., 0].sqrt())[..., None],
        sign * spread * amount * radius[..., None] / 2,
    )
    line = torch.stack(
        [torch.zeros_like(length), (sign * spread * amount)[..., 1] * length], dim=-1
    )

    axis = (3 * draws[..., 4]).long()  # 0: over the side in x, 1: in y, 2: over the corner
    over = torch.stack([axis != 1, axis != 0], dim=-1)
    outside = torch.where(over, size[..., :2] + _EXCESS, amount * size[..., :2]) * sign
    cuboid = torch.where(violating[..., None], outside, cuboid)
    disc = torch.where(violating[..., None], direction * (radius + _EXCESS)[..., None], disc)

    kind = kind[..., None]
    offset = torch.where(kind == CYLINDER, disc, torch.where(kind == LYING, line, 0.0))
    return torch.where(kind == CUBOID, cuboid, offset)


def _gather(values: Tensor, slots: Tensor) -> Tensor:
    """`[B, 6, ...]` values in another order of the blocks."""
    index = slots.reshape(*slots.shape, *[1] * (values.ndim - 2)).expand_as(values)
    return values.gather(1, index)


def _uniform(keys: Tensor, draws: int) -> Tensor:
    """`[B, draws]` float64, uniform over [0, 1), for `[B]` keys."""
    return ((bits(keys, draws) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53

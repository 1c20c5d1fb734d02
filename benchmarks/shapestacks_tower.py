"""The tower of ShapeStacks' example recording in numbers, and the search that measured them.

The recording shows one tower from two cameras, whose places are known, as a picture, as
anti-aliased masks and as depth. Blocks rest on each other, so that height follows from size; the
other numbers are those with which the ray caster draws masks and colours best. Depth is not used:
it is there to check them.

Shapes: B towers, C cameras, W pixels of the central part that is searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from envs.solids import Camera, SolidScene
from envs.tower_blocks import COLOURS, CUBOID, CYLINDER, MAX_BLOCKS, SPHERE, Towers, extent
from envs.towers import stack_camera, tower_scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from envs.raycast import Renderer

CAMERAS = (1, 2)
NATIVE = 224
PARTS = ((0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (0, 0, 1))
"""How the recorded masks paint each block: base, violating block, the one above it, the rest."""

_WINDOW = 144  # all of the tower, in both views
_STEPS = (
    (1.0, 1e-4),
    (1.0, 1e-2),
    (0.5, 1e-2),
    (3.0, 3e-2),
    (8.0, 3e-2),
    (0.3, 0.1),
)  # length, damping
_SIDE_STEP, _PLACE_STEP, _YAW_STEP = 0.015, 0.02, 2.0  # of differences: about half a pixel
_COLOUR_WEIGHT = 1 / 60  # a grey level against the coverage of a pixel
_MOST = 0.5  # such a residual of colour counts


class Block(NamedTuple):
    """A block of the tower.

    Attributes:
        kind: `CUBOID`, `CYLINDER` or `SPHERE`.
        colour: One of `COLOURS`.
        size: Half sizes: x, y, z of a cuboid; radius and half height of a cylinder; radius.
        place: x and y of the centre.
        yaw: Degrees about the vertical, of a cuboid.
    """

    kind: int
    colour: str
    size: tuple[float, ...]
    place: tuple[float, float]
    yaw: float = 0.0


RECORDED: tuple[Block, ...] = (
    Block(CYLINDER, "green", (0.360, 0.387), (-0.167, 1.120)),
    Block(CUBOID, "blue", (0.268, 0.478, 0.347), (-0.361, 0.961), 20.8),
    Block(CYLINDER, "magenta", (0.446, 0.276), (-0.129, 1.243)),
    Block(CYLINDER, "yellow", (0.252, 0.367), (-0.081, 1.143)),
    Block(SPHERE, "red", (0.340,), (-0.086, 1.147)),
)
"""To a few thousandths, which is a tenth of a pixel; the cuboid's yaw to half a degree."""

GUESS: tuple[Block, ...] = (
    Block(CYLINDER, "green", (0.35, 0.35), (-0.15, 1.2)),
    Block(CUBOID, "blue", (0.4, 0.4, 0.3), (-0.15, 1.2), 20.0),
    Block(CYLINDER, "magenta", (0.4, 0.3), (-0.15, 1.2)),
    Block(CYLINDER, "yellow", (0.25, 0.35), (-0.15, 1.2)),
    Block(SPHERE, "red", (0.35,), (-0.15, 1.2)),
)
"""Where the search begins: sizes by eye, all in one place, where the green block's foot is seen."""


class Seen(NamedTuple):
    """The recording, cameras in front.

    Attributes:
        rgb: `[C, 224, 224, 3]` uint8.
        parts: `[C, 224, 224, 3]` float: shares of a pixel that the parts cover, in their colours.
        depth: `[C, 224, 224]` float: levels of the depth pictures.
        scale: `[C, 4]` float: see `depth_terms`.
    """

    rgb: NDArray[np.uint8]
    parts: NDArray[np.float64]
    depth: NDArray[np.float64]
    scale: NDArray[np.float64]


def pack(blocks: Sequence[Block]) -> NDArray[np.float64]:
    """The free numbers of a tower: of each block its sizes, its place and, of a cuboid, its yaw."""
    rows = [[*b.size, *b.place, *([b.yaw] if b.kind == CUBOID else [])] for b in blocks]
    return np.array([value for row in rows for value in row])


def unpack(values: NDArray[np.float64]) -> tuple[Block, ...]:
    """The recorded tower with other numbers."""
    rest, blocks = values.tolist(), []
    for like in RECORDED:
        count = len(like.size)
        size, place = tuple(rest[:count]), (rest[count], rest[count + 1])
        yaw = rest[count + 2] if like.kind == CUBOID else 0.0
        blocks.append(Block(like.kind, like.colour, size, place, yaw))
        rest = rest[count + 2 + (like.kind == CUBOID) :]
    return tuple(blocks)


def as_towers(towers: Sequence[Sequence[Block]]) -> Towers:
    """B towers of such blocks, in the room of the recording: floor 0, walls 0, light 0."""
    count, height = len(towers), len(towers[0])
    kind = torch.full((count, MAX_BLOCKS), -1)
    size = torch.zeros(count, MAX_BLOCKS, 3, dtype=torch.float64)
    position, yaw = torch.zeros_like(size), torch.zeros_like(size[..., 0])
    colour = torch.zeros_like(kind)
    for i, blocks in enumerate(towers):
        for k, block in enumerate(blocks):
            kind[i, k], colour[i, k] = block.kind, COLOURS.index(block.colour)
            x, y, z = block.size[0], block.size[block.kind == CUBOID], block.size[-1]
            size[i, k] = torch.tensor((x, y, z))
            position[i, k, :2] = torch.tensor(block.place)
            yaw[i, k] = math.radians(block.yaw)
    rise = extent(kind, size)
    position[..., 2] = rise.cumsum(dim=1) - rise / 2
    zero = torch.zeros(count, dtype=torch.int64)
    none = zero.bool()  # neither cubes nor hard
    name = (none, none, zero + height, zero + 1, zero + 2)  # the second block does not carry
    return Towers(zero, *name, kind, size, yaw, position, colour, zero, zero, zero)


def scenes(towers: Sequence[Sequence[Block]], pixels: int = NATIVE) -> SolidScene:
    """`C * B` scenes: the towers from the first camera, then from the second.

    Args:
        towers: B of them.
        pixels: How many of a file's 224 pixels are seen, from the middle.
    """
    cameras = stack_camera(torch.tensor(CAMERAS).repeat_interleave(len(towers)))
    half = math.tan(math.radians(cameras.fovy) / 2) * pixels / NATIVE
    camera = Camera(cameras.position, cameras.rotation, math.degrees(2 * math.atan(half)))
    rows = torch.arange(len(towers)).repeat(len(CAMERAS))
    return tower_scene(as_towers(towers)[rows], camera)


def depth_terms(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., 224, 224, 4]`: what levels are sums of.

    A depth buffer holds a multiple of 1 / depth plus a constant. Slopes come with it because the
    recorded pictures do not show it at the middle of a pixel, but at one of its samples.
    """
    near = 1 / depth
    down, right = np.gradient(near, axis=(-2, -1))
    return np.stack([near, np.ones_like(near), right, down], axis=-1)


def depth_scale(depth: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[C, 4]`: the factors of `depth_terms` of the recorded levels, from those of the room.

    Levels at the ends of the range are cut off, and where the tower stands the room is not seen:
    both are left out.

    Args:
        depth: `[C, 224, 224]` recorded levels.
        room: `[C, 224, 224]` depth of the empty room.
    """
    scale = []
    for recorded, terms in zip(depth, depth_terms(room), strict=True):
        used = (recorded > 3) & (recorded < 252)
        for most in (5, 5, 2, 2):
            factors = np.linalg.lstsq(terms[used], recorded[used], rcond=None)[0]
            used &= np.abs(terms @ factors - recorded) < most
        scale.append(factors)
    return np.array(scale)


def residuals(
    seen: Seen, towers: Sequence[Sequence[Block]], renderer: Renderer, rays: int = 3
) -> NDArray[np.float64]:
    """`[B, ...]`: how far what is drawn is from masks and colours of the recording.

    Colours count where the tower covers a pixel in both. Their residuals are cut off, so that
    pixels between two blocks, which mix in one of the two, do not decide.

    Args:
        seen: The recording.
        towers: B of them.
        renderer: Any textures: the room does not count.
        rays: A pixel and side: edges are placed to a fraction of a pixel.
    """
    count, part = len(towers), slice((NATIVE - _WINDOW) // 2, (NATIVE + _WINDOW) // 2)
    drawn = renderer.render(scenes(towers, _WINDOW), _WINDOW * rays, samples=1)
    shape = (2, count, _WINDOW, rays, _WINDOW, rays)
    masks = drawn.masks.cpu().numpy().reshape(shape)
    painted = np.array(((0, 0, 0), *PARTS), float)[masks].mean(axis=(3, 5))
    colours = drawn.images.cpu().numpy().astype(float).reshape(*shape, 3).mean(axis=(3, 5))

    parts = seen.parts[:, None, part, part]
    inside = (parts.max(axis=-1) > 0.99) & (masks > 0).all(axis=(3, 5))
    shade = (colours - seen.rgb[:, None, part, part]) * inside[..., None] * _COLOUR_WEIGHT
    terms = (painted - parts, shade.clip(-_MOST, _MOST))
    return np.concatenate([x.swapaxes(0, 1).reshape(count, -1) for x in terms], axis=1)


def fit(
    seen: Seen, renderer: Renderer, start: Sequence[Block] = GUESS, iterations: int = 40
) -> tuple[Block, ...]:
    """Gauss-Newton, first on pixels, then on nine rays a pixel; prints the sums of squares."""
    values = pack(start)
    step = np.concatenate([_differences(block) for block in start])
    for rays, widen in ((1, 1.5), (3, 1.0)):
        for _ in range(iterations):
            values, before, after = _improve(values, step * widen, seen, renderer, rays)
            print(f"{rays} x {rays} rays: {before:.1f} -> {after:.1f}", flush=True)
            if after > 0.999 * before:
                break
    return unpack(values)


def _differences(block: Block) -> list[float]:
    yaw = [_YAW_STEP] if block.kind == CUBOID else []
    return [_SIDE_STEP] * len(block.size) + [_PLACE_STEP] * 2 + yaw


def _improve(
    values: NDArray[np.float64],
    step: NDArray[np.float64],
    seen: Seen,
    renderer: Renderer,
    rays: int,
) -> tuple[NDArray[np.float64], float, float]:
    """One step, the best of several lengths; the values stay as they are if none is any good."""
    moves = np.diag(step)
    around = np.concatenate([values[None], values + moves, values - moves])
    rest = residuals(seen, [unpack(row) for row in around], renderer, rays)
    slopes = (rest[1 : len(step) + 1] - rest[len(step) + 1 :]) / (2 * step[:, None])
    curvature, gradient = slopes @ slopes.T, slopes @ rest[0]
    tries = [values]
    for length, damping in _STEPS:
        damped = curvature + damping * np.diag(np.diag(curvature))
        tries.append(values - length * np.linalg.solve(damped, gradient))
    sums = (residuals(seen, [unpack(row) for row in tries], renderer, rays) ** 2).sum(axis=1)
    best = int(sums.argmin())
    return tries[best], float(sums[0]), float(sums[best])

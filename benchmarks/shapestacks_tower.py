"""The tower of ShapeStacks' example recording in numbers, and the search that measured them.

The recording shows one tower from two cameras, whose places are known, as a picture, as
anti-aliased masks and as depth. Blocks rest on each other, so that height follows from size; the
other numbers are those with which the ray caster draws masks, depth and shading best.

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
_STEPS = ((1.0, 1e-4), (1.0, 1e-2), (0.5, 1e-2), (3.0, 3e-2), (8.0, 3e-2), (0.3, 0.1))  # length, damping
_SIDE_STEP, _PLACE_STEP, _YAW_STEP = 0.015, 0.02, 2.0  # of differences: about half a pixel
_DEPTH_WEIGHT, _COLOUR_WEIGHT = 1 / 4, 1 / 60  # a level of either against a pixel's coverage
_MOST = 1.5, 0.5  # such a residual counts, of depth and of colour


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


RECORDED = (
    Block(CYLINDER, "green", (0.359, 0.383), (-0.151, 1.125)),
    Block(CUBOID, "blue", (0.260, 0.479, 0.350), (-0.350, 0.972), 21.0),
    Block(CYLINDER, "magenta", (0.443, 0.277), (-0.121, 1.247)),
    Block(CYLINDER, "yellow", (0.252, 0.366), (-0.064, 1.152)),
    Block(SPHERE, "red", (0.340,), (-0.071, 1.155)),
)

GUESS = (
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
        scale: `[C, 2]` float: level = scale[0] / depth + scale[1].
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


def depth_scale(depth: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[C, 2]`: how the recorded levels follow from 1 / depth.

    A depth buffer holds a multiple of it plus a constant. Levels at the ends of the range are cut
    off, and where the tower stands the room is not seen: both are left out.

    Args:
        depth: `[C, 224, 224]` recorded levels.
        room: `[C, 224, 224]` depth of the empty room.
    """
    scale = []
    for recorded, drawn in zip(depth, room, strict=True):
        terms = np.stack([1 / drawn, np.ones_like(drawn)], axis=-1)
        used = (recorded > 3) & (recorded < 252)
        for _ in range(4):
            factors = np.linalg.lstsq(terms[used], recorded[used], rcond=None)[0]
            used &= np.abs(terms @ factors - recorded) < 5
        scale.append(factors)
    return np.array(scale)


def residuals(
    seen: Seen, towers: Sequence[Sequence[Block]], renderer: Renderer, rays: int = 3
) -> NDArray[np.float64]:
    """`[B, ...]`: how far what is drawn is from masks, depth and colours of the recording.

    Depth and colour count where the tower covers a pixel in both; their residuals are cut off, so
    that pixels between two blocks, which mix in one of the two, do not decide.

    Args:
        seen: The recording.
        towers: B of them.
        renderer: Any textures: the room does not count.
        rays: A pixel and side, an odd number: edges are placed to a fraction of a pixel.
    """
    count, part = len(towers), slice((NATIVE - _WINDOW) // 2, (NATIVE + _WINDOW) // 2)
    drawn = renderer.render(scenes(towers, _WINDOW), _WINDOW * rays, samples=1, depth=True)
    images, masks, depth = (x.cpu().numpy().reshape(2, count, *x.shape[1:]) for x in drawn)
    shape = (2, count, _WINDOW, rays, _WINDOW, rays, 3)
    painted = np.array(((0, 0, 0), *PARTS), float)[masks].reshape(shape).mean(axis=(3, 5))
    colours = images.astype(float).reshape(shape).mean(axis=(3, 5))
    middle = slice(rays // 2, None, rays)
    with np.errstate(divide="ignore"):
        factor, constant = seen.scale.T[:, :, None, None, None]
        levels = factor / depth[:, :, middle, middle] + constant

    parts = seen.parts[:, None, part, part]
    inside = (parts.max(axis=-1) > 0.99) & (masks[:, :, middle, middle] > 0)
    far = (levels - seen.depth[:, None, part, part]) * inside * _DEPTH_WEIGHT
    shade = (colours - seen.rgb[:, None, part, part]) * inside[..., None] * _COLOUR_WEIGHT
    terms = (painted - parts, far.clip(-_MOST[0], _MOST[0]), shade.clip(-_MOST[1], _MOST[1]))
    return np.concatenate([x.swapaxes(0, 1).reshape(count, -1) for x in terms], axis=1)


def fit(
    seen: Seen, renderer: Renderer, start: Sequence[Block] = GUESS, iterations: int = 40
) -> tuple[tuple[Block, ...], list[float]]:
    """Gauss-Newton, first on pixels, then on nine rays a pixel; prints the sum of squares.

    Returns:
        The tower, and the course of the sums of squares.
    """
    values, course = pack(start), list[float]()
    step = np.concatenate([_differences(block) for block in start])
    for rays, widen in ((1, 1.5), (3, 1.0)):
        for _ in range(iterations):
            values, before, after = _improve(values, step * widen, seen, renderer, rays)
            course.append(after)
            print(f"{rays} x {rays} rays: {before:.1f} -> {after:.1f}", flush=True)
            if after > 0.999 * before:
                break
    return unpack(values), course


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

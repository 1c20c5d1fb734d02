"""What floors and walls look like: procedural textures, or genuine ones that the user has.

Shapes: F floors, W walls, S pixels to a side. Image row 0 is v = 0 of the surface. Nothing genuine
is shipped: ShapeStacks' textures are read from the user's copy of the data, those of the GQN rooms
from the wheel `labmaze`.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from envs import patterns
from envs.patterns import Drawing, Picture, coloured, noise, shades, to_uint8, tones

STACK_FILES = ("003", "001", "005", "002", "006", "004")
"""ShapeStacks' texture files by the number in an image's name: w=0 and f=0 are 003.png."""

ROOM_FLOORS = ("yellow", "white", "blue")
ROOM_WALLS = ("red", "green", "cerise", "orange", "yellow")


class SurfaceTextures(NamedTuple):
    """The textures that a renderer draws stages with.

    Attributes:
        floors: `[F, S, S, 3]` uint8 RGB.
        walls: `[W, S, S, 3]` uint8 RGB.
        source: Where they come from: "procedural", "labmaze 1.0.6", "files in ...".
    """

    floors: Tensor
    walls: Tensor
    source: str


def stack_textures(folder: str | Path | None = None, size: int = 512) -> SurfaceTextures:
    """Six floors and six walls for the towers.

    Args:
        folder: ShapeStacks' own `mjcf/textures`, with `floor/001.png` to `wall/006.png`; they come
            in the order of the names of its images. Procedural look-alikes unless given.
        size: S, a power of two.
    """
    _check_size(size)
    if folder is None:
        return _procedural_stack(size)
    folder = Path(folder).expanduser()
    surfaces = []
    for surface in ("floor", "wall"):
        paths = [folder / surface / f"{number}.png" for number in STACK_FILES]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise FileNotFoundError(
                f"ShapeStacks' textures need floor/001.png to wall/006.png in {folder} "
                f"(mjcf/textures of the release), but there is no {missing}; leave the folder out "
                "for procedural ones."
            )
        surfaces.append(torch.stack([_read_png(path, size) for path in paths]))
    floors, walls = surfaces
    return SurfaceTextures(floors, walls, f"files in {folder}")


def room_textures(
    source: Literal["auto", "labmaze", "procedural"] = "auto", size: int = 512
) -> SurfaceTextures:
    """Three floors (`ROOM_FLOORS`) and five walls (`ROOM_WALLS`) for the rooms.

    Args:
        source: "labmaze" for the genuine ones, which are those of DeepMind Lab; "auto" takes them
            if that package is installed, else the procedural look-alikes.
        size: S, a power of two.
    """
    _check_size(size)
    if source not in ("auto", "labmaze", "procedural"):
        raise ValueError(f"source is auto, labmaze or procedural, but got {source!r}.")
    folder = None if source == "procedural" else _labmaze_folder()
    if folder is None and source == "labmaze":
        raise FileNotFoundError(
            "the genuine textures of the rooms need the package labmaze (pip install labmaze, "
            "Python 3.12 or older); source='procedural' needs nothing."
        )
    return _procedural_room(size) if folder is None else _labmaze_room(folder, size)


def _check_size(size: int) -> None:
    if size < 16 or size & (size - 1):
        raise ValueError(f"a texture's size is a power of two of at least 16, but got {size}.")


def _read_png(path: Path, size: int) -> Tensor:
    """`[S, S, 3]` uint8 RGB, of a grey, palette, RGB or RGBA file."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # palettes resolved, alpha dropped, BGR
    if image is None:
        raise ValueError(f"{path} is not a readable picture; copy it again.")
    if image.shape[0] != image.shape[1] or len(image) < size:
        height, width = image.shape[:2]
        raise ValueError(
            f"{path} needs to be square and at least {size} wide, is {width}x{height}."
        )
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(image[..., ::-1].copy())


# --- GQN rooms ------------------------------------------------------------------------------------

_LABMAZE_FLOORS = ("style_01/floor_orange_bright_d.png", "style_01/floor_blue_bright_d.png")
_LABMAZE_WALLS = (
    "style_01/wall_red_bright_d.png",
    "style_01/wall_green_bright_d.png",
    "style_01/wall_cerise_d.png",
    "style_03/wall_orange_bright_d.png",
    "style_05/wall_yellow_d.png",
)

# Mean and standard deviation per channel of the genuine textures.
_FLOOR_COLOURS = (
    ((247, 219, 105), (5, 7, 3)),
    ((250, 250, 250), (4, 4, 4)),
    ((111, 148, 170), (5, 8, 9)),
)
_WALL_COLOURS = (
    ((213, 124, 104), (32, 16, 11)),
    ((166, 197, 156), (20, 25, 17)),
    ((169, 65, 103), (36, 15, 23)),
    ((233, 119, 14), (36, 27, 17)),
    ((227, 172, 23), (24, 24, 42)),
)


def _labmaze_folder() -> Path | None:
    """Where the package keeps its textures; importing it would load compiled code."""
    spec = importlib.util.find_spec("labmaze")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "assets"
    return folder if all((folder / name).is_file() for name in _LABMAZE_WALLS) else None


@lru_cache(maxsize=4)
def _labmaze_room(folder: Path, size: int) -> SurfaceTextures:
    yellow, blue = (_read_png(folder / name, size) for name in _LABMAZE_FLOORS)
    grey = yellow.numpy().astype(float) @ np.array([0.299, 0.587, 0.114])
    white = to_uint8(coloured(grey, *_FLOOR_COLOURS[1]))  # not in the package
    walls = [_read_png(folder / name, size) for name in _LABMAZE_WALLS]
    version = metadata.version("labmaze")
    return SurfaceTextures(
        torch.stack([yellow, white, blue]), torch.stack(walls), f"labmaze {version}"
    )


@lru_cache(maxsize=4)
def _procedural_room(size: int) -> SurfaceTextures:
    floors = [_honeycomb(size)] * 3
    walls = [_circuits(size)] * 3 + [_discs(size), _squares(size)]
    return SurfaceTextures(
        _stack([coloured(t, *c) for t, c in zip(floors, _FLOOR_COLOURS, strict=True)]),
        _stack([coloured(t, *c) for t, c in zip(walls, _WALL_COLOURS, strict=True)]),
        "procedural",
    )


def _stack(pictures: Sequence[Picture]) -> Tensor:
    return torch.stack([to_uint8(picture) for picture in pictures])


def _honeycomb(size: int) -> Picture:
    """Floors: hexagons, some of them darker."""
    cell, depth = patterns.hexagons(size, 10, 8)
    odd = tones(cell, 11)
    tone = np.where(odd > 0.75, -2.0 - odd, 0.3 * odd)
    return tone - 0.8 * (depth < 0.06)


def _circuits(size: int) -> Picture:
    """Red, green and cerise walls: overlapping panels with conductors, and bars along the foot."""
    draw = Drawing(size, 0.0)
    for k, (x, y, w, h, tone) in enumerate(patterns.uniform(21, 26, 5).tolist()):
        left, top, right, bottom = x, y * 0.9, x + 0.1 + 0.25 * w, y * 0.9 + 0.08 + 0.25 * h
        draw.rectangle(left - 0.006, top - 0.006, right + 0.006, bottom + 0.006, -0.9)
        draw.rectangle(left, top, right, bottom, 0.2 + 0.5 * tone if k % 3 else -0.1)
    for x, y, a, b, _ in patterns.uniform(22, 14, 5).tolist():
        end = (x + 0.4 * a - 0.2, y + 0.5 * b - 0.25)
        draw.path([(x, y), (x, end[1]), end], 0.006, -2.0)
        draw.disc(*end, 0.011, -2.0)
        draw.disc(*end, 0.005, 0.2)
    draw.rectangle(0, 0, 1, 0.035, -1.2)
    draw.rectangle(0, 0.915, 1, 0.97, 0.0)
    for k in range(50):
        draw.rectangle(k / 50, 0.915, (k + 0.6) / 50, 0.97, -2.2)
    return draw.picture()


def _discs(size: int) -> Picture:
    """The orange wall: four large discs in a panel between light posts."""
    draw = Drawing(size, 0.0)
    draw.rectangle(0, 0, 0.06, 1, 1.6)
    draw.rectangle(0.94, 0, 1, 1, 1.6)
    for start, stop in (((0.28, 0.28), (0.72, 0.28)), ((0.28, 0.28), (0.28, 0.72))):
        draw.path([start, stop], 0.009, -2.0)
    for x in (0.28, 0.72):
        for y in (0.28, 0.72):
            for radius, tone in ((0.165, -2.0), (0.155, 0.0), (0.125, -2.0)):
                draw.disc(x, y, radius, tone)
    draw.rectangle(0, 0.035, 1, 0.045, -2.0)
    draw.rectangle(0, 0.96, 1, 1, -2.0)
    return draw.picture()


def _squares(size: int) -> Picture:
    """The yellow wall: small squares, every fourth darker, between light joints."""
    u, v = patterns.coordinates(size)
    dark = patterns.uniform(31, 10, 10)[(v * 10).astype(int), (u * 10).astype(int)] < 0.25
    joint = np.minimum(np.abs(u * 10 - np.round(u * 10)), np.abs(v * 10 - np.round(v * 10))) < 0.06
    return np.where(joint, 2.0, np.where(dark, -1.5, 0.0))


# --- ShapeStacks ----------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _procedural_stack(size: int) -> SurfaceTextures:
    floors: list[Callable[[int], Picture]] = [
        _boards,
        _stone_slabs,
        _parquet,
        _chips,
        _checks,
        _granite,
    ]
    walls: list[Callable[[int], Picture]] = [
        _vents,
        _dark_bricks,
        _chipboard,
        _dark_checks,
        _panels,
        _concrete,
    ]
    return SurfaceTextures(
        _stack([floor(size) for floor in floors]),
        _stack([wall(size) for wall in walls]),
        "procedural",
    )


def _boards(size: int) -> Picture:
    board, edge = patterns.planks(size, 12, 3, 41)
    grain = noise(size, 16, 64, 42, octaves=3) - 0.5
    tone = 0.06 * tones(board, 43) + 0.6 * grain - 0.18 * (edge < 0.03)
    return np.array([155, 126, 88]) * (1 + tone[..., None])


def _stone_slabs(size: int) -> Picture:
    u, v = patterns.coordinates(size)
    joint = np.minimum(np.abs(u * 4 - np.round(u * 4)), np.abs(v * 4 - np.round(v * 4))) < 0.01
    speckle = noise(size, 160, 160, 51) - 0.5
    tone = 0.2 * speckle + 0.05 * (noise(size, 5, 5, 52, octaves=3) - 0.5) + 0.1 * joint
    return np.array([114, 114, 114]) * (1 + tone[..., None])


def _parquet(size: int) -> Picture:
    strip, edge = patterns.basket(size, 8, 5)
    grain = noise(size, 64, 64, 61, octaves=2) - 0.5
    tone = 0.12 * tones(strip, 62) + 0.15 * grain - 0.55 * (edge < 0.1)
    return np.array([130, 92, 59]) * (1 + tone[..., None])


def _chips(size: int) -> Picture:
    piece, depth = patterns.cells(size, 72, 71, stretch=2.2)
    palette = ((155, 135, 106), (128, 106, 79), (103, 87, 70), (168, 151, 122), (88, 79, 67))
    shade = shades(piece, palette, 72)
    return shade * (1 + 0.3 * (noise(size, 64, 64, 73) - 0.5) - 0.35 * (depth < 0.08))[..., None]


def _granite(size: int) -> Picture:
    piece, depth = patterns.cells(size, 128, 81)
    palette = ((118, 99, 91), (103, 86, 79), (132, 116, 106), (88, 74, 68), (143, 130, 121))
    return shades(piece, palette, 82) * (1 - 0.3 * (depth < 0.1))[..., None]


def _checks(size: int) -> Picture:
    return _tiles(size, ((190, 190, 184), (34, 34, 36), (78, 124, 136), (150, 150, 128)), 91)


def _dark_checks(size: int) -> Picture:
    return _tiles(size, ((170, 170, 164), (34, 34, 36), (95, 128, 142), (150, 145, 120)), 92)


def _tiles(size: int, palette: Sequence[Sequence[float]], seed: int) -> Picture:
    """Large tiles between dark joints; the last colour of the palette is speckled."""
    u, v = patterns.coordinates(size)
    i, j = np.floor(u * 4).astype(int), np.floor(v * 4).astype(int)
    kind = (patterns.uniform(seed, 16).argsort() // 4)[4 * j + i]  # four tiles of each
    speckled = (kind == len(palette) - 1) * (noise(size, 128, 128, seed + 1) > 0.55)
    tone = 1 + 0.15 * (noise(size, 32, 32, seed + 2, octaves=3) - 0.5) - 0.6 * speckled
    joint = np.minimum(np.abs(u * 4 - np.round(u * 4)), np.abs(v * 4 - np.round(v * 4))) < 0.04
    return np.where(joint[..., None], 28.0, np.asarray(palette, float)[kind] * tone[..., None])


def _vents(size: int) -> Picture:
    draw = Drawing(size, 118.0)
    for x in (0.0, 0.5):
        draw.path([(x, 0), (x, 1)], 0.006, 84.0)
    for x, y in ((0.12, 0.3), (0.55, 0.62)):
        draw.path([(x, y), (x + 0.12, y), (x + 0.2, y + 0.12), (x + 0.34, y + 0.12)], 0.05, 40.0)
        draw.rectangle(x + 0.22, y + 0.1, x + 0.34, y + 0.14, 70.0)
        for k in range(12):
            draw.rectangle(x + 0.22 + k * 0.01, y + 0.1, x + 0.225 + k * 0.01, y + 0.14, 20.0)
    return _grey(draw.picture() * (1 + 0.2 * (noise(size, 8, 8, 101, octaves=4) - 0.5)))


def _dark_bricks(size: int) -> Picture:
    brick, edge = patterns.bricks(size, 24, 8)
    tone = 70 * (1 + 0.25 * tones(brick, 111) + 0.3 * (noise(size, 64, 64, 112, octaves=2) - 0.5))
    return _grey(np.where(edge < 0.08, 26.0, tone))


def _chipboard(size: int) -> Picture:
    return _chips(size) * np.array([0.72, 0.66, 0.6])


def _panels(size: int) -> Picture:
    u, v = patterns.coordinates(size)
    joint = np.minimum(np.abs(u * 8 - np.round(u * 8)), np.abs(v * 4 - np.round(v * 4)) * 2) < 0.02
    return _grey(120 * (1 + 0.12 * (noise(size, 128, 128, 121) - 0.5) - 0.35 * joint))


def _concrete(size: int) -> Picture:
    draw = Drawing(size, 1.0)
    for x, y in patterns.uniform(131, 60, 2).tolist():
        draw.disc(x, y, 0.004, 0.5)
    return _grey(128 * draw.picture() * (1 + 0.25 * (noise(size, 6, 6, 132, octaves=6) - 0.5)))


def _grey(tone: Picture) -> Picture:
    return np.repeat(tone[..., None], 3, axis=-1)

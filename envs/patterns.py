"""Procedural patterns for floors and walls: wood, stone, tiles, hexagons, panels.

A pattern is a function of the side S in pixels and of a seed. It repeats without a seam in both
directions, and one seed gives the same picture at every side, apart from what is too fine for it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch

from envs.counter_rng import bits, fold

Picture = np.ndarray
"""`[S, S]` float64 tones or `[S, S, 3]` RGB from 0 to 255."""


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Numbers in [0, 1) of this shape that depend on the seed alone."""
    draws = bits(fold(seed, 0)[None], math.prod(shape))[0].numpy().view(np.uint64)
    return ((draws >> np.uint64(11)) / 2.0**53).reshape(shape)


def coordinates(side: int) -> tuple[np.ndarray, np.ndarray]:
    """`u` to the right and `v` downwards at the pixel centres, in [0, 1)."""
    places = (np.arange(side) + 0.5) / side
    v, u = np.meshgrid(places, places, indexing="ij")
    return u, v


def noise(side: int, across: int, down: int, seed: int, octaves: int = 1) -> Picture:
    """Smooth noise in [0, 1] with this many bumps in each direction; octaves add finer ones."""
    u, v = coordinates(side)
    total, weights = np.zeros((side, side)), 0.0
    for octave in range(octaves):
        columns, rows, weight = across << octave, down << octave, 0.5**octave
        grid = uniform(seed + octave, rows, columns)
        x, y = u * columns - 0.5, v * rows - 0.5
        i, j = np.floor(x).astype(int), np.floor(y).astype(int)
        fx, fy = _smooth(x - i), _smooth(y - j)
        corner = [[grid[(j + b) % rows, (i + a) % columns] for a in (0, 1)] for b in (0, 1)]
        top = corner[0][0] + fx * (corner[0][1] - corner[0][0])
        bottom = corner[1][0] + fx * (corner[1][1] - corner[1][0])
        total += weight * (top + fy * (bottom - top))
        weights += weight
    return total / weights


def cells(side: int, count: int, seed: int, stretch: float = 1.0) -> tuple[np.ndarray, Picture]:
    """A mosaic of `count` x `count` irregular pieces, flakes of random direction if stretched.

    Returns:
        The number of the piece at each pixel, `[S, S]` from 0 to `count`^2 - 1, and how far into
        it the pixel is: near 0 at the border between two pieces.
    """
    u, v = coordinates(side)
    jitter = uniform(seed, count, count, 2)
    angle = uniform(seed + 1, count, count) * math.pi
    i, j = np.floor(u * count).astype(int), np.floor(v * count).astype(int)
    reach = 1 if stretch <= 1.5 else 2
    first, second = np.full((2, side, side), np.inf)
    piece = np.zeros((side, side), int)
    for b in range(-reach, reach + 1):
        for a in range(-reach, reach + 1):
            row, column = (j + b) % count, (i + a) % count
            x = u * count - (i + a) - jitter[row, column, 0]
            y = v * count - (j + b) - jitter[row, column, 1]
            c, s = np.cos(angle[row, column]), np.sin(angle[row, column])
            distance = np.hypot((c * x + s * y) / stretch, c * y - s * x)
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            piece = np.where(nearer, row * count + column, piece)
            first = np.where(nearer, distance, first)
    return piece, second - first


def planks(side: int, rows: int, length: int, seed: int) -> tuple[np.ndarray, Picture]:
    """Floorboards: the number of each pixel's board, and the distance in boards to its edge.

    Args:
        side: Pixels.
        rows: Boards across the picture.
        length: Boards along it; neighbouring rows are shifted against each other.
        seed: Of the shifts.
    """
    u, v = coordinates(side)
    row = np.floor(v * rows).astype(int)
    along = u * length + uniform(seed, rows)[row]
    board = row * length + np.floor(along).astype(int) % length
    across = v * rows - row
    edge = np.minimum(np.minimum(across, 1 - across), _to_integer(along) * rows / length)
    return board, edge


def basket(side: int, blocks: int, strips: int) -> tuple[np.ndarray, Picture]:
    """Parquet: squares of parallel strips, every second one turned. `blocks` has to be even."""
    u, v = coordinates(side)
    i, j = np.floor(u * blocks).astype(int), np.floor(v * blocks).astype(int)
    x, y = u * blocks - i, v * blocks - j
    turned = (i + j) % 2 == 1
    across, along = np.where(turned, x, y), np.where(turned, y, x)
    strip = np.floor(across * strips).astype(int)
    edge = np.minimum(_to_integer(across * strips), _to_integer(along) * strips)
    return (j * blocks + i) * strips + strip, edge


def bricks(side: int, rows: int, columns: int) -> tuple[np.ndarray, Picture]:
    """Running bond: every second row is shifted by half a brick. `rows` has to be even."""
    u, v = coordinates(side)
    row = np.floor(v * rows).astype(int)
    along = u * columns + 0.5 * (row % 2)
    brick = row * columns + np.floor(along).astype(int) % columns
    edge = np.minimum(_to_integer(v * rows), _to_integer(along) * rows / columns)
    return brick, edge


def hexagons(side: int, columns: int, rows: int) -> tuple[np.ndarray, Picture]:
    """A honeycomb: the cell at each pixel, and the distance to its edge (.5 in its middle).

    `columns` has to be even: every second one is shifted by half a cell.
    """
    u, v = coordinates(side)
    best, second = np.full((2, side, side), np.inf)
    cell = np.zeros((side, side), int)
    column = np.floor(u * columns).astype(int)
    for a in (-1, 0, 1, 2):
        i = column + a
        shift = 0.5 * (i % 2)
        row = np.floor(v * rows - shift + 0.5).astype(int)
        for b in (-1, 0, 1):
            x = (u * columns - i) * math.sqrt(3) / 2  # in units of the cell's height
            y = v * rows - shift - (row + b)
            distance = np.hypot(x, y)
            nearer = distance < best
            second = np.where(nearer, best, np.minimum(second, distance))
            cell = np.where(nearer, (row + b) % rows * columns + i % columns, cell)
            best = np.where(nearer, distance, best)
    return cell, (second - best) / 2


class Drawing:
    """Lines and shapes on a torus: what leaves on one side comes in on the other.

    Places are fractions of the side; tones are numbers, as in the pictures they are added to.
    """

    _OVERSAMPLING = 2

    def __init__(self, side: int, tone: float):
        self._side, self._fine = side, side * self._OVERSAMPLING
        self._canvas = np.full((self._fine, self._fine), tone, np.float32)

    def rectangle(self, left: float, top: float, right: float, bottom: float, tone: float) -> None:
        """A filled rectangle."""
        for dx, dy in self._shifts():
            start, stop = self._pixel(left + dx, top + dy), self._pixel(right + dx, bottom + dy)
            cv2.rectangle(self._canvas, start, (stop[0] - 1, stop[1] - 1), tone, cv2.FILLED)

    def path(self, points: Sequence[tuple[float, float]], width: float, tone: float) -> None:
        """Straight lines from point to point."""
        thickness = max(1, round(width * self._fine))
        for dx, dy in self._shifts():
            pixels = [self._pixel(x + dx, y + dy) for x, y in points]
            for start, stop in pairwise(pixels):
                cv2.line(self._canvas, start, stop, tone, thickness)

    def disc(self, x: float, y: float, radius: float, tone: float) -> None:
        """A filled disc."""
        for dx, dy in self._shifts():
            centre = self._pixel(x + dx, y + dy)
            cv2.circle(self._canvas, centre, round(radius * self._fine), tone, cv2.FILLED)

    def picture(self) -> Picture:
        """The drawing at its final size."""
        shape = (self._side, self._side)
        return cv2.resize(self._canvas, shape, interpolation=cv2.INTER_AREA).astype(np.float64)

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self._fine), round(y * self._fine)

    @staticmethod
    def _shifts() -> list[tuple[int, int]]:
        return [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]


def shades(number: np.ndarray, palette: Sequence[Sequence[float]], seed: int) -> Picture:
    """Gives each piece of a mosaic one colour of the palette: `[S, S, 3]`."""
    picks = (uniform(seed, int(number.max()) + 1) * len(palette)).astype(int)
    return np.asarray(palette, float)[picks[number]]


def tones(number: np.ndarray, seed: int) -> Picture:
    """Gives each piece of a mosaic a number in [-1, 1]: `[S, S]`."""
    return uniform(seed, int(number.max()) + 1)[number] * 2 - 1


def coloured(tone: Picture, mean: Sequence[float], spread: Sequence[float]) -> Picture:
    """Tones to RGB with this mean and standard deviation per channel, kept within 0 to 255."""
    tone = (tone - tone.mean()) / tone.std()
    target, deviation = np.asarray(mean, float), np.asarray(spread, float)
    centre, scale = target.copy(), deviation.copy()
    for _ in range(20):  # clipping moves both, so aim a little further until they are met
        picture = np.clip(centre + scale * tone[..., None], 0, 255)
        mean, spread_now = picture.mean(axis=(0, 1)), picture.std(axis=(0, 1))
        if np.abs(mean - target).max() < 0.1 and np.abs(spread_now - deviation).max() < 0.1:
            break
        centre += target - mean
        scale *= deviation / np.maximum(spread_now, 1e-6)
    return picture


def to_uint8(picture: Picture) -> torch.Tensor:
    """`[S, S, 3]` RGB to the tensor of a texture."""
    return torch.from_numpy(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _smooth(x: np.ndarray) -> np.ndarray:
    return x * x * (3 - 2 * x)


def _to_integer(x: np.ndarray) -> np.ndarray:
    """The distance to the nearest integer."""
    return np.abs(x - np.round(x))

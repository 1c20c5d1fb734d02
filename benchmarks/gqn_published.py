"""Five published rooms of rooms_ring_camera in numbers, as measured on five frames each.

Camera angles come from the edge between walls and sky, which fixes them up to quarter turns, and
from all frames of a room having to show one floor and the same objects; objects and lamps from a
search for the numbers that draw the frames best. Axes are turned such that the first frame's angle
is below 90 degrees.
"""

from __future__ import annotations

from typing import NamedTuple


class Thing(NamedTuple):
    """An object: shape, half sizes, place, yaw and colour as in `envs.rooms.Rooms`."""

    shape: str
    size: tuple[float, float, float]
    place: tuple[float, float]
    yaw: float
    colour: tuple[float, float, float]


class PublishedRoom(NamedTuple):
    """A room and the angles on the camera's ring, in degrees, that it was seen from."""

    floor: str
    wall: str
    lamp: tuple[float, float, float]
    angles: tuple[float, ...]
    objects: tuple[Thing, ...]


PUBLISHED = (
    PublishedRoom(
        "white",
        "cerise",
        (-1.5, 1.42, 6.38),
        (59.2, 260.6, 316.6, 281.3, 225.1),
        (
            Thing("triangle", (0.722, 0.23, 0.625), (1.16, -0.99), 0.86, (0.98, 0.06, 0.19)),
            Thing("cylinder", (0.313, 0.313, 0.38), (-1.15, 1.29), 0.0, (0.92, 0.08, 0.95)),
        ),
    ),
    PublishedRoom(
        "blue",
        "red",
        (-2.41, 1.78, 6.79),
        (36.3, 358.3, 52.6, 355.4, 354.7),
        (
            Thing("triangle", (0.729, 0.238, 0.631), (-0.16, -1.18), 1.71, (0.25, 0.82, 0.95)),
            Thing("sphere", (0.442, 0.442, 0.442), (-0.42, 0.42), 0.0, (0.76, 1.0, 0.28)),
            Thing("icosahedron", (0.466, 0.466, 0.466), (-0.92, 0.45), 0.0, (0.37, 0.17, 0.75)),
        ),
    ),
    PublishedRoom(
        "blue",
        "green",
        (-3.48, 3.39, 6.29),
        (45.9, 350.5, 267.7, 359.6, 29.9),
        (
            Thing("triangle", (0.704, 0.239, 0.61), (-0.61, -0.67), 2.45, (0.98, 0.45, 0.24)),
            Thing("triangle", (0.721, 0.234, 0.625), (0.62, 0.56), 1.28, (0.04, 0.98, 0.99)),
        ),
    ),
    PublishedRoom(
        "blue",
        "yellow",
        (-2.83, 1.55, 6.71),
        (66.9, 301.0, 101.9, 191.5, 330.1),
        (
            Thing("sphere", (0.441, 0.441, 0.441), (-0.58, -1.3), 0.0, (0.09, 0.17, 0.99)),
            Thing("cone", (0.4, 0.4, 0.371), (-0.34, -0.57), 0.0, (1.0, 0.3, 1.0)),
        ),
    ),
    PublishedRoom(
        "white",
        "red",
        (-1.81, -3.16, 6.85),
        (67.6, 64.6, 72.9, 276.7, 188.7),
        (
            Thing("sphere", (0.476, 0.476, 0.476), (0.38, -0.44), 0.0, (1.0, 1.0, 0.29)),
            Thing("cone", (0.407, 0.407, 0.391), (-1.3, -0.85), 0.0, (1.0, 0.26, 0.4)),
            Thing("triangle", (0.714, 0.236, 0.618), (0.09, -1.41), 1.06, (0.4, 0.94, 0.18)),
        ),
    ),
)

"""The recipe of the GQN rooms: one to three objects on the floor of a square room.

Shapes: B rooms, N places for objects in each (3, as drawn here). A room is a pure function of a
seed and an index: it does not depend on the batch that it is drawn in. Lengths are in world units,
z is up, and the floor is z = 0 with |x|, |y| <= 3.5.

Published are the room, the seven shapes, the number of objects and the ring that the camera moves
on. Camera, sizes, colours and the lamp's places were measured on published frames
(`benchmarks/gqn_published.py`). How objects are placed is unknown: here uniformly, not touching.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.counter_rng import bits, fold, integers
from envs.solids import SOLIDS, Camera, RoomStage, Solids, SolidScene
from envs.textures import ROOM_FLOORS, ROOM_WALLS

ROOM_SHAPES = ("box", "sphere", "cylinder", "capsule", "cone", "icosahedron", "triangle")
"""The seven shapes, by shape number."""

MAX_OBJECTS = 3
VIEWS = 10
"""Views of every scene of the published set."""

RING_RADIUS, CAMERA_HEIGHT, FIELD_OF_VIEW = 3.5, 0.75, 50.0
"""The camera's ring, which it looks at the room's axis from, horizontally; degrees."""

PLACE_LIMIT = 1.5
"""Largest |x| and |y| of an object's centre; they reach 1.42 in the published frames."""
_TRIES = 24  # places drawn for an object until one is free

# Half sizes in x, y and z, from and to. Where x and y are the same number they are drawn together.
_SIZES = {
    "box": ((0.1, 0.45), (0.1, 0.45), (0.1, 0.45)),
    "sphere": ((0.11, 0.48),) * 3,
    "cylinder": ((0.12, 0.37), (0.12, 0.37), (0.2, 0.5)),
    "capsule": ((0.2, 0.36), (0.2, 0.36), (0.525, 0.525)),
    "cone": ((0.405, 0.405), (0.405, 0.405), (0.38, 0.38)),
    "icosahedron": ((0.44, 0.44),) * 3,
    "triangle": ((0.715, 0.715), (0.236, 0.236), (0.62, 0.62)),
}
_TRIANGLE_ROOM = 0.55
_SATURATION = (0.7, 1.0)
_LIGHT = ((1.5, 3.4), (1.5, 3.4), (6.3, 6.8))  # where the light may be: |x|, |y| and z


class Rooms(NamedTuple):
    """What stands where, in which colours; `room_scene` makes it drawable.

    Attributes:
        shape: `[B, N]` int64, an index into `ROOM_SHAPES`.
        size: `[B, N, 3]` float32, half of the width, depth and height; x = y for round shapes.
        colour: `[B, N, 3]` float32 RGB in [0, 1].
        place: `[B, N, 2]` float32, x and y of the centre.
        yaw: `[B, N]` float32, radians, counter-clockwise seen from above.
        present: `[B, N]` bool; those that are there come first.
        floor: `[B]` int64, an index into `ROOM_FLOORS`.
        wall: `[B]` int64, an index into `ROOM_WALLS`.
        light: `[B, 3]` float32, where the light is that casts shadows.
    """

    shape: Tensor
    size: Tensor
    colour: Tensor
    place: Tensor
    yaw: Tensor
    present: Tensor
    floor: Tensor
    wall: Tensor
    light: Tensor


def draw_rooms(
    seed: int | Tensor, index: Tensor, objects: tuple[int, int] = (1, MAX_OBJECTS)
) -> Rooms:
    """The rooms with these numbers.

    Args:
        seed: Of the dataset; its rooms are `index` 0, 1, 2 and so on.
        index: `[B]` int64; its device is where the rooms are made.
        objects: How many objects a room has, from and to; uniform.
    """
    key, tables, (low, high) = fold(seed, index, index.device), _tables(index.device), objects
    whole = bits(fold(key, 0), 6)
    each = bits(fold(key, 1), 8 * MAX_OBJECTS).unflatten(1, (MAX_OBJECTS, 8))
    count = low + integers(whole[:, :1], high - low + 1)
    shape = integers(each[..., 0], len(ROOM_SHAPES))
    ranges = tables.sizes[shape]  # [B, N, 3, 2]
    share = _fractions(each[..., 1:4])
    share[..., 1] = torch.where(shape == ROOM_SHAPES.index("box"), share[..., 1], share[..., 0])
    size = _between(ranges, share)
    return Rooms(
        shape=shape,
        size=size,
        colour=vivid(
            _fractions(each[..., 4]), _between(tables.saturation, _fractions(each[..., 5]))
        ),
        place=_places(fold(key, 2), footprints(shape, size)),
        yaw=2 * math.pi * _fractions(each[..., 6]),
        present=torch.arange(MAX_OBJECTS, device=index.device) < count,
        floor=integers(whole[:, 1], len(ROOM_FLOORS)),
        wall=integers(whole[:, 2], len(ROOM_WALLS)),
        light=_light(whole[:, 3:6], tables.light),
    )


def view_angles(seed: int | Tensor, index: Tensor, views: int = VIEWS) -> Tensor:
    """`[B, views]` float32: where on the ring the camera stands for each view, in [0, 2 pi)."""
    key = fold(fold(seed, index, index.device), 3)
    return 2 * math.pi * _fractions(bits(key, views))


def ring_camera(angle: Tensor) -> Camera:
    """Cameras at these `[B]` angles of the ring, which look at the room's axis."""
    angle = angle.double()  # so that every device agrees
    x, y = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    right, up, backward = [(-y, x, zero), (zero, zero, one), (x, y, zero)]
    columns = [torch.stack(column, dim=-1) for column in (right, up, backward)]
    position = torch.stack([RING_RADIUS * x, RING_RADIUS * y, CAMERA_HEIGHT * one], dim=-1)
    return Camera(position.float(), torch.stack(columns, dim=-1).float(), FIELD_OF_VIEW)


def camera_rows(angle: Tensor) -> Tensor:
    """`[..., 5]` float32: cameras as the dataset's files describe them, for these angles.

    That is x and y on the unit circle, height 0, yaw in [0, 2 pi) and pitch 0. The yaw's sense of
    rotation in the published files is not known; here it is the direction of view.
    """
    angle = angle.double()
    zero = torch.zeros_like(angle)
    yaw = (angle + math.pi) % (2 * math.pi)
    return torch.stack([angle.cos(), angle.sin(), zero, yaw, zero], dim=-1).float()


def room_scene(rooms: Rooms, camera: Camera) -> SolidScene:
    """These rooms seen by these cameras, one each; object n of a room has the owner n + 1."""
    return SolidScene(
        solids=_solids(rooms), stage=RoomStage(rooms.floor, rooms.wall, rooms.light), camera=camera
    )


def _solids(rooms: Rooms) -> Solids:
    """Every object as a primitive of its own shape, standing on the floor: `[B, N]`."""
    width, depth, height = rooms.size.unbind(-1)
    is_capsule, is_triangle = (rooms.shape == ROOM_SHAPES.index(s) for s in ("capsule", "triangle"))
    # A capsule's lower cap is sunk in the floor: what stands on it has straight sides.
    half = height - torch.where(is_capsule, width / 2, 0)
    radius = height * 4 / 3  # of a triangle: its centre is at a third of its height
    middle = torch.where(is_triangle, radius / 2, half)
    standing = torch.stack([width, depth, half], dim=-1)
    framed = torch.stack([radius, depth, radius], dim=-1)
    return Solids(
        kind=_tables(rooms.shape.device).kind[rooms.shape],
        size=torch.where(is_triangle[..., None], framed, standing),
        position=torch.cat([rooms.place, middle[..., None]], dim=-1),
        rotation=_upright(rooms.yaw),
        colour=rooms.colour,
        owner=torch.arange(1, width.shape[1] + 1, device=width.device) * rooms.present,
    )


def _upright(yaw: Tensor) -> Tensor:
    """`[..., 3, 3]`: turned about the vertical."""
    c, s = yaw.double().cos().float(), yaw.double().sin().float()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [(c, -s, zero), (s, c, zero), (zero, zero, one)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _light(draws: Tensor, ranges: Tensor) -> Tensor:
    """`[B, 3]`: off the room's axis in both directions; the lowest bits are the signs."""
    sides = 1 - 2 * (draws & 1)
    sides[:, 2] = 1
    return _between(ranges, _fractions(draws)) * sides


def _places(key: Tensor, footprint: Tensor) -> Tensor:
    """`[B, N, 2]`: uniform in a square, each object clear of those before it.

    Of the places drawn for an object the first that is free is taken, or, should none be, the one
    with the most room.

    Args:
        key: `[B]` int64.
        footprint: `[B, N]` float32, the radius of the disc that an object keeps free of others.
    """
    draws = _fractions(bits(key, 2 * MAX_OBJECTS * _TRIES)) * 2 - 1
    tries = PLACE_LIMIT * draws.unflatten(1, (MAX_OBJECTS, _TRIES, 2))
    rank = torch.arange(_TRIES, 0, -1, device=key.device) * 100.0
    row = torch.arange(len(key), device=key.device)
    taken = tries[:, 0, :1]
    for k in range(1, MAX_OBJECTS):
        apart = distance(tries[:, k, :, None] - taken[:, None])  # [B, tries, k]
        room = (apart - footprint[:, None, :k]).amin(dim=-1) - footprint[:, k, None]
        best = torch.where(room >= 0, rank, room).argmax(dim=1)
        taken = torch.cat([taken, tries[row, k, best][:, None]], dim=1)
    return taken


def footprints(shape: Tensor, size: Tensor) -> Tensor:
    """Radii of the discs that objects keep free of each other: `[...]`, for `[..., 3]` sizes.

    Half the diagonal of a box, the radius of round shapes, and a little less than half the width of
    triangles, which stand closer to others in the published frames.
    """
    diagonal = distance(size[..., :2])
    flat = torch.where(shape == ROOM_SHAPES.index("triangle"), _TRIANGLE_ROOM, size[..., 0])
    return torch.where(shape == ROOM_SHAPES.index("box"), diagonal, flat)


def vivid(hue: Tensor, saturation: Tensor) -> Tensor:
    """`[..., 3]` RGB of these hues, in [0, 1), and saturations, at full value."""
    turns = torch.stack([6 * hue, 6 * hue + 4, 6 * hue + 2], dim=-1)
    ramp = (turns % 6 - 3).abs() - 1
    return 1 - saturation[..., None] * (1 - ramp.clamp(0, 1))


def _between(ranges: Tensor, share: Tensor) -> Tensor:
    """So far from `ranges[..., 0]` to `ranges[..., 1]`.

    In two steps: what `lerp` fuses into one is not the same in every place of a vector.
    """
    return ranges[..., 0] + (ranges[..., 1] - ranges[..., 0]) * share


def distance(vector: Tensor) -> Tensor:
    """`[...]`, the length of `[..., 2]` vectors, the same in every place of a batch."""
    x, y = vector.unbind(-1)
    return (x * x + y * y).sqrt()


def _fractions(draws: Tensor) -> Tensor:
    """Random bits to float32 in [0, 1), the same on every device."""
    return integers(draws, 1 << 23).float() * 2.0**-23


class _Tables(NamedTuple):
    """Constants on a device.

    Attributes:
        kind: `[7]` int64, the primitive that a shape is, an index into `SOLIDS`.
        sizes: `[7, 3, 2]`, the smallest and the largest half size of every shape.
        light: `[3, 2]`, where the light may be.
        saturation: `[2]`.
    """

    kind: Tensor
    sizes: Tensor
    light: Tensor
    saturation: Tensor


@lru_cache(maxsize=16)
def _tables(device: torch.device) -> _Tables:
    with torch.inference_mode(False):  # they outlive the caller's mode
        kind = torch.tensor([SOLIDS.index(shape) for shape in ROOM_SHAPES])
        sizes = torch.tensor([_SIZES[shape] for shape in ROOM_SHAPES])
        tables = _Tables(kind, sizes, torch.tensor(_LIGHT), torch.tensor(_SATURATION))
        return _Tables(*(table.to(device) for table in tables))

"""Scenes of solid shapes as data: primitives, where they stand, and the camera that looks at them.

Shapes: B scenes, P primitives in each, padded with empty slots. World units, z up. A scene says
nothing about pixels; `envs.raycast` turns it into images, masks and depth.
"""

from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

SOLIDS = ("sphere", "box", "cylinder", "capsule", "cone", "icosahedron", "triangle")
"""The primitives, by kind number."""

_Rows = TypeVar("_Rows", bound="_Batch")


@dataclass(frozen=True)
class _Batch:
    """A record whose tensors share their first axis, the scenes; other fields hold for all."""

    def __len__(self) -> int:
        return next(len(value) for value in self._values() if not isinstance(value, float | int))

    def __getitem__(self: _Rows, rows: slice | Tensor) -> _Rows:
        """The scenes of these rows."""
        return type(self)(*(v if isinstance(v, float | int) else v[rows] for v in self._values()))

    def to(self: _Rows, device: torch.device | str) -> _Rows:
        """The same scenes on this device; tensors that are there already are shared."""
        return type(self)(
            *(v if isinstance(v, float | int) else v.to(device) for v in self._values())
        )

    def key(self) -> tuple[Hashable, ...]:
        """Equal for records of equal values; the host waits for a device that holds them."""
        return tuple(
            v if isinstance(v, float | int) else v.cpu().numpy().tobytes() for v in self._values()
        )

    def _values(self) -> list:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Camera(_Batch):
    """Pinhole cameras, one a scene; images are square.

    Attributes:
        position: `[B, 3]` float32.
        rotation: `[B, 3, 3]` float32, camera to world: the columns are right, up and backward, so
            the camera looks along its own -z.
        fovy: Vertical field of view in degrees, the same for all.
    """

    position: Tensor
    rotation: Tensor
    fovy: float


@dataclass(frozen=True)
class Solids(_Batch):
    """Primitives in world space.

    The axis of cylinders, capsules and cones is their own z; a cone's apex is at +z.

    Attributes:
        kind: `[B, P]` int64, an index into `SOLIDS`.
        size: `[B, P, 3]` float32 half sizes: sphere (radius x 3), or the radii of an ellipsoid; box
            (x, y, z); cylinder and cone (radius, radius, half height); capsule (radius, radius,
            half length of the part between the caps); icosahedron (circumradius x 3); triangle
            (circumradius, half depth, circumradius): an upright frame of three mitred rods in its
            x-z plane, a corner at +z.
        position: `[B, P, 3]` float32, the centre.
        rotation: `[B, P, 3, 3]` float32, own axes to world.
        colour: `[B, P, 3]` float32 RGB in [0, 1].
        owner: `[B, P]` int64: the object, 1 to 255, whose mask the primitive belongs to; several
            may share one. 0 is an empty slot and not drawn.
    """

    kind: Tensor
    size: Tensor
    position: Tensor
    rotation: Tensor
    colour: Tensor
    owner: Tensor


@dataclass(frozen=True)
class StackStage(_Batch):
    """The ShapeStacks room: a floor, two walls, sky, and five directional lights.

    Attributes:
        floor: `[B]` int64, an index into the floor textures.
        wall: `[B]` int64, an index into the wall textures.
        light: `[B]` int64, 0 to 4: the light that casts shadows. All five shine.
    """

    floor: Tensor
    wall: Tensor
    light: Tensor


@dataclass(frozen=True)
class RoomStage(_Batch):
    """The GQN room: 7 x 7 and 2 high, under a plain sky.

    Attributes:
        floor: `[B]` int64, an index into the floor textures.
        wall: `[B]` int64, an index into the wall textures.
        light: `[B, 3]` float32, the position of the light that casts shadows.
    """

    floor: Tensor
    wall: Tensor
    light: Tensor


@dataclass(frozen=True)
class SolidScene(_Batch):
    """Everything a picture of solids needs.

    Attributes:
        solids: The primitives.
        stage: Where they stand; its kind selects surfaces and light.
        camera: Who looks.
    """

    solids: Solids
    stage: StackStage | RoomStage
    camera: Camera

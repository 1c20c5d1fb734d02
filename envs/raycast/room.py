"""The GQN room: surfaces, a lamp above it, and a light that goes with the camera.

What the published frames were lit with is not documented. The constants are a least-squares fit to
floors and walls of 25 published frames of five rooms: a headlight parallel to the camera's axis,
and MuJoCo's spotlight, straight down (its exponent is 10; 8 fits as well, from a little lower).
Textures measure 2 x 2 units there, and are mirrored for those who stand in the room.

Shapes: N scenes, R rays of each, H rays that meet a solid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.cast import Primitives, pairs_from, shadowed
from envs.raycast.planes import Box, Plane, PlaneHits, distances
from envs.raycast.rays import Rays, dot, pick
from envs.solids import Camera, RoomStage

AMBIENT = 0.36
HEADLIGHT = 0.58  # parallel to the camera's axis
LAMP = 0.94
LAMP_SQUARINGS = 3  # the lamp shines down; at an angle it is weaker by the cosine's 8th power
SKY = (154 / 255, 226 / 255, 250 / 255)

_BOX = Box(half=3.5, height=2.0)
_TILE = 1 / 2  # textures per unit
_STANDING = (0, -0.5, 1)  # one over a wall's height
_PLANES = (
    Plane(2, 0.0, 1, (_TILE, 0, 0.5), (_TILE, 0, 0.5), False, _TILE),
    Plane(0, 3.5, -1, (0, _TILE, 0.5), _STANDING, True, _TILE),
    Plane(0, -3.5, 1, (0, -_TILE, 0.5), _STANDING, True, _TILE),
    Plane(1, 3.5, -1, (-_TILE, 0, 0.5), _STANDING, True, _TILE),
    Plane(1, -3.5, 1, (_TILE, 0, 0.5), _STANDING, True, _TILE),
)


class RoomLook:
    """Surfaces and light of N GQN rooms.

    Args:
        stage: The rooms.
        camera: Which brings the headlight.
    """

    planes: tuple[Plane, ...] = _PLANES
    box = _BOX

    def __init__(self, stage: RoomStage, camera: Camera) -> None:
        self.floor, self.wall = stage.floor, stage.wall
        self.lamp = stage.light.t()[..., None]  # [3, N, 1]
        self.backward = camera.rotation[..., 2].t()  # [3, N]

    def scene_numbers(self) -> Tensor:
        """`[N, 8]` float32: place of the lamp, and the camera's axis."""
        return F.pad(torch.cat([self.lamp[..., 0], self.backward]).t(), (0, 2))

    def plane_numbers(self) -> Tensor:
        """`[2, N * J]` float32: how far the lamp is in front, and the light without it."""
        facing = torch.stack([plane.normal * self.backward[plane.axis] for plane in _PLANES], dim=1)
        return torch.stack([distances(_PLANES, self.lamp), _steady(facing)]).flatten(1)

    def shadowed(self, solids: Primitives, point: Tensor) -> Tensor:
        """`[N, R]` bool: which points, `[3, N, R]`, the lamp does not reach."""
        pairs = pairs_from(solids, point, self.lamp)
        scene = pairs.ray // point.shape[2]
        towards = self.lamp[..., 0].index_select(1, scene)
        towards = towards - point.flatten(1).index_select(1, pairs.ray)
        return shadowed(solids, point, pairs, towards, torch.ones_like(towards[0]))

    def on_planes(self, hits: PlaneHits, rays: Rays) -> tuple[Tensor, Tensor]:
        """`[N, R]` float32 each: what a texture is multiplied with in shadows; what light adds."""
        apart, steady = self.plane_numbers()
        lamp = _lamp(self.lamp - hits.point, pick(apart, hits.row))
        return pick(steady, hits.row), lamp

    def on_solids(
        self,
        colour: Tensor,
        normal: Tensor,
        point: Tensor,
        view: Tensor,
        scene: Tensor,
        dark: Tensor,
    ) -> Tensor:
        """`[3, H]` float32: the colours of solids (see `Look`)."""
        to_lamp = self.lamp[..., 0].index_select(1, scene) - point
        lamp = _lamp(to_lamp, dot(normal, to_lamp))
        light = _steady(dot(normal, self.backward.index_select(1, scene))) + lamp * ~dark
        return (colour * light).clamp_(max=1)

    def sky(self, direction: Tensor) -> Tensor:
        """`[3, M]` float32: the same everywhere."""
        return torch.tensor(SKY, device=direction.device)[:, None].expand_as(direction)


def _steady(facing: Tensor) -> Tensor:
    """The light that casts no shadow, by the cosine between normal and camera axis."""
    return (AMBIENT + HEADLIGHT * facing.clamp(min=0)).clamp_(max=1)


def _lamp(to_lamp: Tensor, apart: Tensor) -> Tensor:
    """The lamp's light where it is not blocked.

    Args:
        to_lamp: `[3, ...]` from the point to the lamp.
        apart: `[...]` how far the lamp is in front of the surface.
    """
    per_distance = 1 / dot(to_lamp, to_lamp).sqrt()
    beam = (to_lamp[2] * per_distance).clamp(min=0)
    for _ in range(LAMP_SQUARINGS):
        beam = beam * beam
    return (LAMP * (apart * per_distance).clamp(min=0) * beam).clamp_(max=1)

"""The GQN room: surfaces, one lamp, and a light that goes with the camera.

Shapes: N scenes, R rays of each, H rays that meet a solid.
"""

import torch
from torch import Tensor

from envs.raycast.cast import Primitives, pairs_from, shadowed
from envs.raycast.planes import Box, Plane, PlaneHits, distances
from envs.raycast.rays import Rays, dot, pick
from envs.solids import RoomStage

# Starting values; the exact light of the genuine frames is unknown.
_AMBIENT = 0.3
_HEADLIGHT = 0.2
_LAMP = 0.5
_SKY = (154 / 255, 226 / 255, 250 / 255)

_BOX = Box(half=3.5, height=2.0)
_FLOOR_TILE = 1 / 7  # textures per unit: once over the floor
_WALL_TILE = 3 / 7  # three over a wall's width, and one over its height
_PLANES = (
    Plane(2, 0.0, 1, (_FLOOR_TILE, 0, 0.5), (-_FLOOR_TILE, 0, 0.5), False, _FLOOR_TILE),
    Plane(0, 3.5, -1, (0, -_WALL_TILE, 0.5), (0, -0.5, 1), True, _WALL_TILE),
    Plane(0, -3.5, 1, (0, _WALL_TILE, 0.5), (0, -0.5, 1), True, _WALL_TILE),
    Plane(1, 3.5, -1, (_WALL_TILE, 0, 0.5), (0, -0.5, 1), True, _WALL_TILE),
    Plane(1, -3.5, 1, (-_WALL_TILE, 0, 0.5), (0, -0.5, 1), True, _WALL_TILE),
)


class RoomLook:
    """Surfaces and light of N GQN rooms."""

    planes: tuple[Plane, ...] = _PLANES
    box = _BOX

    def __init__(self, stage: RoomStage) -> None:
        self.floor, self.wall = stage.floor, stage.wall
        self.lamp = stage.light.t()[..., None]  # [3, N, 1]
        self.lamp_apart = distances(_PLANES, self.lamp).flatten()  # [N * J]

    def shadowed(self, solids: Primitives, point: Tensor) -> Tensor:
        """`[N, R]` bool: which points, `[3, N, R]`, the lamp does not reach."""
        pairs = pairs_from(solids, point, self.lamp)
        scene = pairs.ray // point.shape[2]
        towards = self.lamp[..., 0].index_select(1, scene) - point.flatten(1).index_select(
            1, pairs.ray
        )
        return shadowed(solids, point, pairs, towards, torch.ones_like(towards[0]))

    def on_planes(self, hits: PlaneHits, rays: Rays, dark: Tensor) -> Tensor:
        """`[N, R]` float32: what the texture is multiplied with."""
        to_lamp = self.lamp - hits.point
        cosine = pick(self.lamp_apart, hits.row) / dot(to_lamp, to_lamp).sqrt()
        lamp = cosine.clamp(min=0) * ~dark
        return _AMBIENT + _HEADLIGHT * hits.cosine + _LAMP * lamp

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
        cosine = dot(normal, to_lamp) / dot(to_lamp, to_lamp).sqrt()
        light = _AMBIENT + _HEADLIGHT * dot(normal, view) + _LAMP * cosine.clamp(min=0) * ~dark
        return (colour * light).clamp_(0, 1)

    def sky(self, direction: Tensor) -> Tensor:
        """`[3, M]` float32: the same everywhere."""
        return torch.tensor(_SKY, device=direction.device)[:, None].expand_as(direction)

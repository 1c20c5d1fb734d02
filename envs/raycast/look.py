"""What a stage has to say about light; `stack` and `room` say it.

Shapes: N scenes, R rays of each, J planes, H rays that meet a solid, M rays into the sky.
"""

from typing import Protocol

from torch import Tensor

from envs.raycast.cast import Primitives
from envs.raycast.planes import Box, Plane, PlaneHits
from envs.raycast.rays import Rays

LIFT = 0.002
"""How far above a surface its shadow rays start."""


class Look(Protocol):
    """Surfaces and light of N scenes.

    Attributes:
        planes: The room's surfaces.
        box: Where they end.
        floor: `[N]` int64, numbers of the floor textures.
        wall: `[N]` int64, numbers of the wall textures.
    """

    planes: tuple[Plane, ...]
    box: Box
    floor: Tensor
    wall: Tensor

    def scene_numbers(self) -> Tensor:
        """`[N, 8]` float32: what the kernels need to know of the light."""

    def plane_numbers(self) -> Tensor:
        """`[columns, N * J]` float32: likewise, of the light on each plane."""

    def shadowed(self, solids: Primitives, point: Tensor) -> Tensor:
        """`[N, R]` bool: which points, `[3, N, R]`, the light does not reach."""

    def on_planes(self, hits: PlaneHits, rays: Rays) -> tuple[Tensor, Tensor]:
        """`[N, R]` float32 each: what a texture is multiplied with in shadows; what light adds."""

    def on_solids(
        self,
        colour: Tensor,
        normal: Tensor,
        point: Tensor,
        view: Tensor,
        scene: Tensor,
        dark: Tensor,
    ) -> Tensor:
        """`[3, H]` float32: the colours of solids.

        Args:
            colour: `[3, H]`, of the material.
            normal: `[3, H]`.
            point: `[3, H]`.
            view: `[3, H]`, unit vectors to the camera.
            scene: `[H]` int64.
            dark: `[H]` bool.
        """

    def sky(self, direction: Tensor) -> Tensor:
        """`[3, M]` float32: the colours of the sky in these directions, `[3, M]` of length 1."""

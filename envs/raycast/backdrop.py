"""A room before anything stands in it: where rays meet it, and what they see there.

Where is the same in all pictures from one camera; what is the same in all pictures of one room,
whatever moves in it.

Shapes: N scenes, R rays of each, J planes, M rays that do not end in the sky.
"""

import math
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.atlas import Atlas, Taps
from envs.raycast.look import LIFT, Look
from envs.raycast.planes import meet, per_unit, texture_place
from envs.raycast.rays import camera_rays, pick
from envs.solids import Camera

T = TypeVar("T")


class Outlook:
    """Where rays meet the planes of N rooms. Colours' share of it is computed when needed.

    Args:
        look: What planes there are.
        camera: Who looks.
        atlas: What textures are filtered by.
        size: Pixels of a side of the image.
        samples: Rays per pixel and side.
        pixels: Which pixels of the image.

    Attributes:
        rays: R of each camera.
        hits: Where they meet the planes.
        depth: `[N, R]` float32, infinite in the sky.
    """

    def __init__(
        self, look: Look, camera: Camera, atlas: Atlas, size: int, samples: int, pixels: slice
    ) -> None:
        self._planes, self._half, self._atlas = look.planes, look.box.half, atlas
        self._spacing = 2 * math.tan(math.radians(camera.fovy) / 2) / (size * samples)
        self.rays = camera_rays(camera, size, samples, pixels)
        self.hits = meet(look.planes, look.box, self.rays)
        self.depth = torch.where(self.hits.sky, math.inf, self.hits.depth)

    @cached_property
    def start(self) -> Tensor:
        """`[3, N, R]` float32: points of the planes, moved off them for shadow rays."""
        half = self._half - LIFT
        x, y, z = self.hits.point
        return torch.stack([x.clamp(-half, half), y.clamp(-half, half), z.clamp(min=LIFT)])

    @cached_property
    def shown(self) -> Tensor:
        """`[M]` int64: which rays meet a plane, as n * R + r."""
        return (~self.hits.sky).flatten().nonzero()[:, 0]

    @cached_property
    def taps(self) -> Taps:
        """M, the texels that they see, whatever the texture."""
        hits, planes = self.hits, self._planes
        u, v = texture_place(planes, hits)
        scale = self._spacing * self._atlas.side * per_unit(planes, str(u.device))
        footprint = pick(scale, hits.plane) * hits.distance / hits.cosine.clamp(min=0.01)
        shown = (x.flatten().index_select(0, self.shown) for x in (u, v, footprint))
        return self._atlas.taps(*shown)


class Backdrop:
    """What rays see of N rooms without solids.

    Args:
        outlook: Where they meet the rooms.
        look: The light there.
        atlas: The textures.
        texture: `[N, J]` int64, which of them the planes have.
    """

    def __init__(self, outlook: Outlook, look: Look, atlas: Atlas, texture: Tensor) -> None:
        hits, rays, shown = outlook.hits, outlook.rays, outlook.shown
        sky = hits.sky.flatten().nonzero()[:, 0]
        sight = rays.direction.flatten(1).index_select(1, sky)
        sight = sight / rays.length.index_select(0, sky % len(rays.length))
        of = texture.flatten().index_select(0, hits.row.flatten().index_select(0, shown))
        colour = torch.empty(hits.sky.numel(), 4, device=sky.device)
        colour.index_copy_(0, shown, atlas.sample(of, outlook.taps))
        colour.index_copy_(0, sky, as_rows(look.sky(sight)))
        steady, rest = look.on_planes(hits, rays)
        self._colour = colour  # [N * R, 4], multiplied with the light, which is 1 in the sky
        self._steady = steady.masked_fill_(hits.sky, 1)  # [N, R], what shines in shadows too
        self._rest = rest.masked_fill_(hits.sky, 0)

    def colours(self, dark: Tensor) -> Tensor:
        """`[N * R, 4]` float32 in [0, 1], with `[N, R]` bool shadows; the fourth is anything."""
        light = self._steady + self._rest * ~dark
        return (self._colour * light.view(-1, 1)).clamp_(max=1)


class Recent:
    """What was made last, by keys.

    Args:
        most: How many rays to remember, in all that is kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._rays = most, 0
        self._kept: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, rays: int, make: Callable[[], T]) -> T:
        """What was made for this key before, or is made now, of so many rays."""
        found = self._kept.get(key)
        if found is None:
            found = make()
            if self._rays + rays > self._most:
                self._kept.clear()
                self._rays = 0
            self._kept[key] = found
            self._rays += rays
        return found


def as_rows(colour: Tensor) -> Tensor:
    """`[3, M]` as `[M, 4]`."""
    return F.pad(colour.t(), (0, 1))

"""A room before anything stands in it: where rays meet it, and what its surfaces look like.

It is the same in every picture of a room that one camera sees, whatever moves in it.

Shapes: N scenes, R rays of each, J planes.
"""

import math
from collections.abc import Callable, Hashable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.atlas import Atlas
from envs.raycast.look import LIFT, Look
from envs.raycast.planes import meet, per_unit, texture_place
from envs.raycast.rays import camera_rays, pick
from envs.solids import Camera


class Backdrop:
    """What rays see of N rooms without solids. Surfaces are computed when they are asked for.

    Args:
        look: Planes and light of the rooms.
        camera: Who looks.
        atlas: The textures.
        texture: `[N, J]` int64, which of them the planes have.
        size: Pixels of a side of the image.
        samples: Rays per pixel and side.
        pixels: Which pixels of the image.

    Attributes:
        rays: R of each camera.
        hits: Where they meet the planes.
        depth: `[N, R]` float32, infinite in the sky.
    """

    def __init__(
        self,
        look: Look,
        camera: Camera,
        atlas: Atlas,
        texture: Tensor,
        size: int,
        samples: int,
        pixels: slice,
    ) -> None:
        self._look, self._atlas, self._texture = look, atlas, texture
        self._spacing = 2 * math.tan(math.radians(camera.fovy) / 2) / (size * samples)
        self.rays = camera_rays(camera, size, samples, pixels)
        self.hits = meet(look.planes, look.box, self.rays)
        self.depth = torch.where(self.hits.sky, math.inf, self.hits.depth)

    @cached_property
    def start(self) -> Tensor:
        """`[3, N, R]` float32: points of the surfaces, moved off them for shadow rays."""
        half = self._look.box.half - LIFT
        x, y, z = self.hits.point
        return torch.stack([x.clamp(-half, half), y.clamp(-half, half), z.clamp(min=LIFT)])

    @cached_property
    def light(self) -> tuple[Tensor, Tensor]:
        """`[N, R]` float32 each: what shines in shadows too, and the rest; in the sky 1 and 0."""
        steady, rest = self._look.on_planes(self.hits, self.rays)
        return torch.where(self.hits.sky, 1, steady), torch.where(self.hits.sky, 0, rest)

    @cached_property
    def surface(self) -> Tensor:
        """`[N * R, 4]` float32: colours of textures and sky, to be multiplied with the light."""
        hits, rays, planes = self.hits, self.rays, self._look.planes
        device = str(hits.sky.device)
        u, v = texture_place(planes, hits)
        scale = self._spacing * self._atlas.side * per_unit(planes, device)
        footprint = pick(scale, hits.plane) * hits.distance / hits.cosine.clamp(min=0.01)
        first = pick((self._texture * self._atlas.stride).int().flatten(), hits.row)
        shown = (~hits.sky).flatten().nonzero()[:, 0]
        places = (x.flatten().index_select(0, shown) for x in (first, u, v, footprint))
        sky = hits.sky.flatten().nonzero()[:, 0]
        sight = rays.direction.flatten(1).index_select(1, sky)
        sight = sight / rays.length.index_select(0, sky % len(rays.length))
        colour = torch.empty(hits.sky.numel(), 4, device=device)
        colour.index_copy_(0, shown, self._atlas.sample(*places))
        return colour.index_copy_(0, sky, as_rows(self._look.sky(sight)))

    def colours(self, dark: Tensor) -> Tensor:
        """`[N * R, 4]` float32 in [0, 1], with `[N, R]` bool shadows; the fourth is anything."""
        steady, rest = self.light
        return (self.surface * (steady + rest * ~dark).view(-1, 1)).clamp_(max=1)


class Recent:
    """The backdrops that were made last, for rooms that are drawn again with other solids.

    Args:
        rays: How many rays to remember, in all of them.
    """

    def __init__(self, rays: int) -> None:
        self._rays = rays
        self._kept: dict[Hashable, Backdrop] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Backdrop]) -> Backdrop:
        """What was made for this key before, or is made now."""
        found = self._kept.get(key)
        if found is None:
            found = make()
            if (len(self._kept) + 1) * found.depth.numel() > self._rays:
                self._kept.clear()
            self._kept[key] = found
        return found


def as_rows(colour: Tensor) -> Tensor:
    """`[3, M]` as `[M, 4]`."""
    return F.pad(colour.t(), (0, 1))

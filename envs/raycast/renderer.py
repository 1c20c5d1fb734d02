"""Scenes of solids to images, instance masks and depth, by casting rays.

No graphics library: torch alone, on CPU and CUDA. What each step computes is in the module that it
comes from: `rays`, `planes`, `cast` and `shapes`, `atlas`, and for the light `stack` and `room`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from envs.raycast.atlas import Atlas
from envs.raycast.backdrop import Backdrop, Outlook, Recent, as_rows
from envs.raycast.cast import Hits, Primitives, nearest, normals, primitives
from envs.raycast.look import LIFT, Look
from envs.raycast.planes import distances, into, per_distance, per_unit, texture_mapping
from envs.raycast.room import RoomLook
from envs.raycast.stack import StackLook
from envs.solids import Camera, RoomStage, SolidScene, StackStage
from envs.textures import SurfaceTextures

# Working sets that stay in a core's cache, and launches that fill a GPU.
_CPU_RAYS, _CUDA_RAYS = 1 << 17, 1 << 23
_REMEMBERED = 1 << 18  # rays, at about 150 bytes
_MOST_SCENES = 32768  # in a launch: the grid's second axis ends at 65535

T = TypeVar("T")


class Rendering(NamedTuple):
    """What B scenes look like.

    Attributes:
        images: `[B, S, S, 3]` uint8 RGB.
        masks: `[B, S, S]` uint8: the owner of what a pixel's centre shows, 0 for room and sky.
            `[0, S, S]` if not asked for.
        depth: `[B, S, S]` float32: distance along the viewing axis, at the pixel's centre; infinite
            in the sky. `[0, S, S]` if not asked for.
    """

    images: Tensor
    masks: Tensor
    depth: Tensor


class Renderer:
    """Draws scenes of solids.

    The picture of a scene is a function of the scene: it does not depend on what else is in the
    batch or on how the batch is split.

    Args:
        textures: Floors and walls, that the scenes' stages refer to by number.
        device: Where it is computed, and where the results lie.
        rays_per_chunk: How many rays are followed at a time, which bounds the memory: about 300
            bytes a ray. The default suits the device.
        fused: Whether to draw with Triton kernels, on CUDA, in which case no memory is needed
            beyond the results; None does so where they can run. They draw what plain torch draws,
            up to rounding.
    """

    def __init__(
        self,
        textures: SurfaceTextures,
        device: torch.device | str = "cpu",
        rays_per_chunk: int | None = None,
        fused: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        if rays_per_chunk is not None and rays_per_chunk < 1:
            raise ValueError(f"rays_per_chunk must be at least 1, got {rays_per_chunk}")
        default = _CPU_RAYS if self.device.type == "cpu" else _CUDA_RAYS
        self.rays_per_chunk = rays_per_chunk or default
        self.fused = self._can_fuse() if fused is None else fused
        if self.fused and not self._can_fuse():
            raise ValueError(f"fused kernels need Triton and a CUDA device, got {self.device}")
        self.floors, self.walls = len(textures.floors), len(textures.walls)
        self.atlas = Atlas(torch.cat([textures.floors, textures.walls]).to(self.device))
        self._recent = Recent(_REMEMBERED) if self.device.type == "cpu" else None

    def _can_fuse(self) -> bool:
        return self.device.type == "cuda" and importlib.util.find_spec("triton") is not None

    @torch.no_grad()
    def render(
        self,
        scene: SolidScene,
        size: int = 64,
        samples: int = 2,
        masks: bool = True,
        depth: bool = False,
    ) -> Rendering:
        """Draws every scene.

        Args:
            scene: What to draw, on any device.
            size: S, height and width of the images.
            samples: Rays per pixel and side, 1 to 3; 1 is the ray through the centre.
            masks: Whether to return masks.
            depth: Whether to return depth.
        """
        if samples not in (1, 2, 3):
            raise ValueError(f"samples must be 1, 2 or 3 rays per pixel and side, got {samples}")
        self._check(scene)
        scene = scene.to(self.device)
        count = len(scene)
        out = Rendering(
            torch.empty(count, size**2, 3, dtype=torch.uint8, device=self.device),
            torch.empty(count * masks, size**2, dtype=torch.uint8, device=self.device),
            torch.empty(count * depth, size**2, device=self.device),
        )
        if self.fused:
            self._render_fused(scene, out, size, samples)
            return Rendering(*(t.unflatten(1, (size, size)) for t in out))
        rows = max(1, self.rays_per_chunk // (size * samples) ** 2)
        pixels = max(1, min(size**2, self.rays_per_chunk // samples**2))
        for first in range(0, count, rows):
            part = scene if count <= rows else scene[first : first + rows]
            view = View(part, self.atlas, self.floors, size, self._recent)
            for start in range(0, size**2, pixels):
                window = slice(start, start + pixels)
                target = Rendering(*(tensor[first : first + rows, window] for tensor in out))
                view.draw(target, samples, window)
        return Rendering(*(t.unflatten(1, (size, size)) for t in out))

    def _render_fused(self, scene: SolidScene, out: Rendering, size: int, samples: int) -> None:
        from envs.raycast.kernels import SceneTables

        for first in range(0, len(scene), _MOST_SCENES):
            rows = slice(first, first + _MOST_SCENES)
            view = View(scene[rows], self.atlas, self.floors, size)
            tables = SceneTables(view, self.atlas)
            images, masks, depth = (tensor[rows] for tensor in out)
            tables.draw(images, size, samples)
            if len(masks) or len(depth):
                tables.measure(masks, depth, size)

    def _check(self, scene: SolidScene) -> None:
        """Refuses textures that are not there, where looking at their numbers costs nothing."""
        if scene.stage.floor.is_cuda:
            return  # the host would have to wait for the device; they are clamped instead
        for name, number, have in (
            ("floor", scene.stage.floor, self.floors),
            ("wall", scene.stage.wall, self.walls),
        ):
            low, high = map(int, number.aminmax()) if len(number) else (0, 0)
            if low < 0 or high >= have:
                raise ValueError(
                    f"the scenes' {name} textures must be numbers from 0 to {have - 1}, "
                    f"got {low} to {high}"
                )


class View:
    """N scenes, ready to be looked at.

    Shapes: R rays of each scene, H rays that meet a solid.
    """

    def __init__(
        self,
        scene: SolidScene,
        atlas: Atlas,
        floors: int,
        size: int,
        recent: Recent | None = None,
    ) -> None:
        self.scene, self.atlas, self.floors, self.size = scene, atlas, floors, size
        self.solids: Primitives = primitives(scene.solids)
        stage = scene.stage
        self.look: Look = (
            StackLook(stage) if isinstance(stage, StackStage) else RoomLook(stage, scene.camera)
        )
        self._recent = recent

    @cached_property
    def texture(self) -> Tensor:
        """`[N, J]` int64: which textures the planes have."""
        stage, walls = self.scene.stage, len(self.atlas.texels) // self.atlas.stride - self.floors
        floor = stage.floor.clamp(0, self.floors - 1)
        wall = self.floors + stage.wall.clamp(0, walls - 1)
        return torch.stack([wall if plane.is_wall else floor for plane in self.look.planes], dim=1)

    def plane_numbers(self) -> Tensor:
        """`[N * J, columns]` float32: all that the kernels need to know of the planes."""
        planes, device = self.look.planes, self.texture.device
        apart = distances(planes, self.scene.camera.position.t()[..., None])  # [N, J]
        towards = into(planes, str(device)) * per_distance(apart)[..., None]  # [N, J, 3]
        same = [*texture_mapping(planes, str(device)), self._texels_per_unit()]
        columns = [
            *towards.flatten(0, 1).t(),
            apart.flatten(),
            *(column.repeat(len(apart)) for column in same),
            self.texture.flatten().float(),
            *self.look.plane_numbers(),
        ]
        return torch.stack(columns, dim=1)

    def _texels_per_unit(self) -> Tensor:
        """`[J]` float32."""
        return per_unit(self.look.planes, str(self.texture.device)) * self.atlas.side

    def draw(self, out: Rendering, samples: int, pixels: slice) -> None:
        """Draws these pixels into views of the results, with `[N, pixels]` in front."""
        outlook = self._outlook(samples, pixels)
        solids = self._visible(outlook)
        colour = self._colours(outlook, solids, self._backdrop(outlook, samples, pixels))
        means = colour.view(len(out.images), samples**2, -1).sum(1)  # [N, pixels * 4]
        means = means.mul_(255 / samples**2).add_(0.5).view(*out.images.shape[:2], 4)
        out.images.copy_(means[..., :3])  # rounds towards zero
        if len(out.masks) or len(out.depth):
            if samples % 2 == 0:  # no ray of these goes through a pixel's centre
                samples, outlook = 1, self._outlook(1, pixels)
                solids = self._visible(outlook)
            self._measure(out, outlook, solids, samples)

    def _outlook(self, samples: int, pixels: slice) -> Outlook:
        """Where rays through these pixels meet the room."""
        camera, what = self.scene.camera, (self.size, samples, pixels)
        return self._recall((camera,), what, lambda: Outlook(self.look, camera, self.atlas, *what))

    def _backdrop(self, outlook: Outlook, samples: int, pixels: slice) -> Backdrop:
        """What these rays see there."""
        of = self.scene.camera, self.scene.stage
        return self._recall(
            of,
            (self.size, samples, pixels),
            lambda: Backdrop(outlook, self.look, self.atlas, self.texture),
        )

    def _recall(
        self,
        of: tuple[Camera | StackStage | RoomStage, ...],
        what: tuple[int, int, slice],
        make: Callable[[], T],
    ) -> T:
        """What is made of these for size, samples and pixels; a single scene's may be known."""
        if self._recent is None or len(self.scene) > 1:
            return make()
        _, samples, pixels = what
        rays = samples**2 * (pixels.stop - pixels.start)
        return self._recent.get((*(part.key() for part in of), str(what)), rays, make)

    def _visible(self, outlook: Outlook) -> Hits:
        """Where rays meet the first solid, unless the room is in front of it."""
        hits = nearest(self.solids, outlook.rays, self.scene.camera.rotation)
        visible = hits.t < outlook.depth.flatten().index_select(0, hits.ray)
        kept = visible.nonzero()[:, 0]
        return Hits(*(field.index_select(0, kept) for field in hits))

    def _colours(self, outlook: Outlook, solids: Hits, backdrop: Backdrop) -> Tensor:
        """`[N * R, 4]` float32 in [0, 1]; the fourth is anything."""
        look, rays = self.look, outlook.rays
        scene, ray = solids.ray // len(rays.length), solids.ray % len(rays.length)
        direction = rays.direction.flatten(1).index_select(1, solids.ray)
        origin = rays.origin[..., 0].index_select(1, scene)
        point = origin + solids.t * direction
        normal = normals(self.solids, solids, point)

        start = outlook.start.flatten(1).index_copy(1, solids.ray, point + LIFT * normal)
        dark = look.shadowed(self.solids, start.view_as(outlook.start))

        shaded = look.on_solids(
            self.solids.colour.index_select(1, solids.solid),
            normal,
            point,
            -direction / rays.length.index_select(0, ray),
            scene,
            dark.flatten().index_select(0, solids.ray),
        )
        return backdrop.colours(dark).index_copy_(0, solids.ray, as_rows(shaded))

    def _measure(self, out: Rendering, outlook: Outlook, solids: Hits, samples: int) -> None:
        """Writes masks and depth, from an odd number of rays per pixel and side."""
        depth = outlook.depth.flatten().index_copy(0, solids.ray, solids.t)
        masks = torch.zeros(depth.shape, dtype=torch.uint8, device=depth.device)
        masks[solids.ray] = self.solids.owner[solids.solid]
        for target, values in ((out.masks, masks), (out.depth, depth)):
            if len(target):
                rays = values.view(len(target), samples**2, -1)
                target.copy_(rays[:, samples**2 // 2])  # the one through the centre

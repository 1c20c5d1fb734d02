"""Scenes of solids to images, instance masks and depth, by casting rays.

No graphics library: torch alone, on CPU and CUDA. What each step computes is in the module that it
comes from: `rays`, `planes`, `cast` and `shapes`, `atlas`, and for the light `stack` and `room`.
"""

from __future__ import annotations

import importlib.util
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.atlas import Atlas
from envs.raycast.cast import Hits, Primitives, nearest, normals, primitives
from envs.raycast.look import LIFT, Look
from envs.raycast.planes import (
    PlaneHits,
    distances,
    into,
    meet,
    per_distance,
    per_unit,
    texture_mapping,
    texture_place,
)
from envs.raycast.rays import Rays, camera_rays, pick
from envs.raycast.room import RoomLook
from envs.raycast.stack import StackLook
from envs.solids import SolidScene, StackStage
from envs.textures import SurfaceTextures

# Working sets that stay in a core's cache, and launches that fill a GPU.
_CPU_RAYS, _CUDA_RAYS = 1 << 17, 1 << 23
_MOST_SCENES = 32768  # in a launch: the grid's second axis ends at 65535


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
            beyond the results. Off by default: the kernels have yet to run on a card.
    """

    def __init__(
        self,
        textures: SurfaceTextures,
        device: torch.device | str = "cpu",
        rays_per_chunk: int | None = None,
        fused: bool = False,
    ) -> None:
        self.device = torch.device(device)
        if rays_per_chunk is not None and rays_per_chunk < 1:
            raise ValueError(f"rays_per_chunk must be at least 1, got {rays_per_chunk}")
        default = _CPU_RAYS if self.device.type == "cpu" else _CUDA_RAYS
        self.rays_per_chunk = rays_per_chunk or default
        self.fused = fused
        if fused and not self._can_fuse():
            raise ValueError(f"fused kernels need Triton and a CUDA device, got {self.device}")
        self.floors, self.walls = len(textures.floors), len(textures.walls)
        self.atlas = Atlas(torch.cat([textures.floors, textures.walls]).to(self.device))

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
        kinds = tuple(scene.solids.kind[scene.solids.owner > 0].unique().tolist())
        rows = max(1, self.rays_per_chunk // (size * samples) ** 2)
        pixels = max(1, min(size**2, self.rays_per_chunk // samples**2))
        for first in range(0, count, rows):
            part = scene if count <= rows else scene[first : first + rows]
            view = View(part, kinds, self.atlas, self.floors, size)
            for start in range(0, size**2, pixels):
                window = slice(start, start + pixels)
                target = Rendering(*(tensor[first : first + rows, window] for tensor in out))
                view.draw(target, samples, window)
        return Rendering(*(t.unflatten(1, (size, size)) for t in out))

    def _render_fused(self, scene: SolidScene, out: Rendering, size: int, samples: int) -> None:
        from envs.raycast.kernels import SceneTables

        for first in range(0, len(scene), _MOST_SCENES):
            rows = slice(first, first + _MOST_SCENES)
            view = View(scene[rows], (), self.atlas, self.floors, size)
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
            if len(number) and not 0 <= int(number.min()) <= int(number.max()) < have:
                raise ValueError(
                    f"the scenes' {name} textures must be numbers from 0 to {have - 1}, "
                    f"got {int(number.min())} to {int(number.max())}"
                )


class View:
    """N scenes, ready to be looked at.

    Shapes: R rays of each scene, H rays that meet a solid.
    """

    def __init__(
        self, scene: SolidScene, kinds: tuple[int, ...], atlas: Atlas, floors: int, size: int
    ) -> None:
        self.scene, self.atlas, self.size = scene, atlas, size
        self.solids: Primitives = primitives(scene.solids, kinds)
        stage = scene.stage
        self.look: Look = (
            StackLook(stage) if isinstance(stage, StackStage) else RoomLook(stage, scene.camera)
        )
        walls = len(atlas.texels) // atlas.stride - floors
        floor, wall = stage.floor.clamp(0, floors - 1), floors + stage.wall.clamp(0, walls - 1)
        self.texture = torch.stack(
            [wall if plane.is_wall else floor for plane in self.look.planes], dim=1
        )  # [N, J]
        self.first_texel = (self.texture * atlas.stride).int().flatten()  # [N * J]

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
        rays = camera_rays(self.scene.camera, self.size, samples, pixels)
        behind, solids = self._cast(rays)
        colour = self._colours(rays, behind, solids, samples)
        means = colour.view(len(out.images), samples**2, -1).sum(1)  # [N, pixels * 4]
        means = means.mul_(255 / samples**2).add_(0.5).view(*out.images.shape[:2], 4)
        out.images.copy_(means[..., :3])  # rounds towards zero
        if len(out.masks) or len(out.depth):
            if samples % 2 == 0:  # no ray of these goes through a pixel's centre
                rays = camera_rays(self.scene.camera, self.size, 1, pixels)
                behind, solids = self._cast(rays)
            self._measure(out, behind, solids, samples)

    def _cast(self, rays: Rays) -> tuple[PlaneHits, Hits]:
        """What the rays meet: the room everywhere, and the solids in front of it."""
        behind = meet(self.look.planes, self.look.box, rays)
        hits = nearest(self.solids, rays, self.scene.camera.rotation)
        visible = hits.t < behind.depth.flatten().index_select(0, hits.ray)
        visible |= behind.sky.flatten().index_select(0, hits.ray)
        kept = visible.nonzero()[:, 0]
        return behind, Hits(*(field[kept] for field in hits))

    def _colours(self, rays: Rays, behind: PlaneHits, solids: Hits, samples: int) -> Tensor:
        """`[N * R, 4]` float32 in [0, 1]; the fourth is anything."""
        look, per_scene = self.look, behind.depth.shape[1]
        scene, ray = solids.ray // per_scene, solids.ray % per_scene
        direction = rays.direction.flatten(1).index_select(1, solids.ray)
        origin = rays.origin[..., 0].index_select(1, scene)
        point = origin + solids.t * direction
        normal = normals(self.solids, solids, point)

        start = self._lifted(behind.point)
        start.flatten(1).index_copy_(1, solids.ray, point + LIFT * normal)
        dark = look.shadowed(self.solids, start)

        light = look.on_planes(behind, rays, dark)
        colour = self._textured(behind, light, samples)
        sky = behind.sky.flatten().nonzero()[:, 0]
        sight = rays.direction.flatten(1).index_select(1, sky) / rays.length[sky % per_scene]
        colour.index_copy_(0, sky, _rows(look.sky(sight)))
        shaded = look.on_solids(
            self.solids.colour.index_select(1, solids.solid),
            normal,
            point,
            -direction / rays.length.index_select(0, ray),
            scene,
            dark.flatten().index_select(0, solids.ray),
        )
        return colour.index_copy_(0, solids.ray, _rows(shaded))

    def _lifted(self, point: Tensor) -> Tensor:
        """Points of the room's surfaces, moved off them."""
        half = self.look.box.half - LIFT
        x, y, z = point
        return torch.stack([x.clamp(-half, half), y.clamp(-half, half), z.clamp(min=LIFT)])

    def _textured(self, behind: PlaneHits, light: Tensor, samples: int) -> Tensor:
        """`[N * R, 4]`: the room's textures, times the light; 0 in the sky."""
        u, v = texture_place(self.look.planes, behind)
        between = 2 * math.tan(math.radians(self.scene.camera.fovy) / 2) / (self.size * samples)
        scale = between * self._texels_per_unit()
        footprint = pick(scale, behind.plane) * behind.distance / behind.cosine.clamp(min=0.01)
        first = pick(self.first_texel, behind.row)
        shown = (~behind.sky).flatten().nonzero()[:, 0]
        colour = torch.zeros(behind.sky.numel(), 4, device=light.device)
        numbers = (first, u, v, footprint, light)
        sampled = self.atlas.sample(*(x.flatten().index_select(0, shown) for x in numbers))
        return colour.index_copy_(0, shown, sampled.clamp_(max=1))

    def _measure(self, out: Rendering, behind: PlaneHits, solids: Hits, samples: int) -> None:
        """Writes masks and depth, from rays of which some go through the pixels' centres."""
        depth = torch.where(behind.sky, math.inf, behind.depth)
        depth.view(-1)[solids.ray] = solids.t
        masks = torch.zeros(depth.shape, dtype=torch.uint8, device=depth.device)
        masks.view(-1)[solids.ray] = self.solids.owner[solids.solid]
        side = samples if samples % 2 else 1
        for target, values in ((out.masks, masks), (out.depth, depth)):
            if len(target):
                target.copy_(values.view(len(depth), side * side, -1)[:, side * side // 2])


def _rows(colour: Tensor) -> Tensor:
    """`[3, M]` as `[M, 4]`."""
    return F.pad(colour.t(), (0, 1))

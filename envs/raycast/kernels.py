"""The whole picture in one kernel: a program follows the rays of a tile of pixels of one scene.

`renderer`, with the modules that it names, defines what is computed; this is the same in registers,
so that nothing is written to memory but the picture. Scenes are handed over as tables of float32,
one row a scene, a plane of a scene, or a primitive; see `SceneTables`.

Imported by the first renderer on a CUDA device, and only there: CUDA builds of torch bring Triton.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from envs.raycast import cast, planes, stack
from envs.raycast.atlas import Atlas
from envs.raycast.kernel_light import (
    LIFT,
    behind_walls,
    room_on_planes,
    room_on_solids,
    room_shadow_ray,
    room_sky,
    stack_on_planes,
    stack_on_solids,
    stack_shadow_ray,
    stack_sky,
    texture,
)
from envs.raycast.kernel_shapes import entry, normal

# A warp each: whether any ray of it comes near a solid is then one instruction, not three barriers,
# and a third fewer solids are near a tile than if it were four times as large.
_TILE_WIDTH, _TILE_HEIGHT = 8, 4
_SCENE, _SOLID = tl.constexpr(20), tl.constexpr(20)  # numbers in a row
_NEAREST = tl.constexpr(cast.NEAREST)
_FAR = tl.constexpr(planes.FAR)
_EDGE = tl.constexpr(planes.EDGE)
_INFINITY = tl.constexpr(float("inf"))


class SceneTables:
    """N scenes as tables, for `draw` and `measure`.

    Args:
        view: The scenes (`renderer.View`).
        atlas: The textures.
    """

    def __init__(self, view: Any, atlas: Atlas) -> None:
        solids, camera = view.solids, view.scene.camera
        self.scenes, self.per_scene = solids.reach.shape
        light = view.look.scene_numbers()  # [N, 8]
        self.scene = torch.cat([camera.position, camera.rotation.flatten(1), light], 1).contiguous()
        reach = solids.reach.view(1, -1)
        self.solid = torch.cat([solids.frame, solids.size, solids.colour, reach]).t()
        self.solid = torch.nn.functional.pad(self.solid, (0, 20 - self.solid.shape[1])).contiguous()
        self.kind = solids.kind.int()
        self.owner = solids.owner
        self.plane = view.plane_numbers().contiguous()  # [N * J, columns]
        self.atlas = atlas
        self.side = math.tan(math.radians(camera.fovy) / 2)
        self.box = view.look.box
        self.planes = len(view.look.planes)
        self.is_stack = isinstance(view.look, stack.StackLook)

    def draw(self, images: Tensor, size: int, samples: int) -> None:
        """Fills `[N, S * S, 3]` uint8 images."""
        self._launch(
            _draw,
            size,
            (self.atlas.packed(), self.atlas.side, self.atlas.levels - 1, images, samples),
            STACK=self.is_stack,
        )

    def measure(self, masks: Tensor, depth: Tensor, size: int) -> None:
        """Fills `[N, S * S]` masks (uint8) and depth (float32), or `[0, S * S]` for neither."""
        wanted = {"MASKS": len(masks) > 0, "DEPTH": len(depth) > 0}
        self._launch(_measure, size, (self.owner, masks, depth), **wanted)

    def _launch(self, kernel: Any, size: int, arguments: tuple, **constants: Any) -> None:
        tiles = triton.cdiv(size, _TILE_WIDTH) * triton.cdiv(size, _TILE_HEIGHT)
        with torch.cuda.device_of(self.scene):  # Triton launches on the current one
            kernel[(tiles, self.scenes)](
                self.scene,
                self.plane,
                self.solid,
                self.kind,
                self.per_scene,
                self.side,
                size,
                *arguments,
                PLANES=self.planes,
                COLUMNS=self.plane.shape[1],
                HALF=self.box.half,
                HEIGHT=self.box.height,
                WIDTH=_TILE_WIDTH,
                BLOCK=_TILE_WIDTH * _TILE_HEIGHT,
                **constants,
                num_warps=1,
            )


@triton.jit
def _pixels(size, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Row and column of the pixels of this program's tile."""
    tile = tl.program_id(0)
    across = tl.cdiv(size, WIDTH)
    place = tl.arange(0, BLOCK)
    row = tile // across * (BLOCK // WIDTH) + place // WIDTH
    return row, tile % across * WIDTH + place % WIDTH


@triton.jit
def _direction(scene, x, y):
    """The direction of the ray (x, y, -1) of the camera in a row of scenes."""
    dx = tl.load(scene + 3) * x + tl.load(scene + 4) * y - tl.load(scene + 5)
    dy = tl.load(scene + 6) * x + tl.load(scene + 7) * y - tl.load(scene + 8)
    dz = tl.load(scene + 9) * x + tl.load(scene + 10) * y - tl.load(scene + 11)
    return dx, dy, dz


@triton.jit
def _meet(scene, plane, dx, dy, dz, PLANES: tl.constexpr, COLUMNS: tl.constexpr,
          HALF: tl.constexpr, HEIGHT: tl.constexpr):  # fmt: skip
    """`planes.meet`: depth, number of the plane, and whether it is the sky."""
    nearest = dx * 0 - _INFINITY
    number = (dx * 0).to(tl.int32)
    for j in tl.static_range(PLANES):
        row = plane + j * COLUMNS
        here = tl.load(row) * dx + tl.load(row + 1) * dy + tl.load(row + 2) * dz
        number = tl.where(here >= nearest, j, number)
        nearest = tl.maximum(here, nearest)
    depth = 1 / tl.maximum(nearest, _FAR)
    x = tl.load(scene) + depth * dx
    y = tl.load(scene + 1) + depth * dy
    z = tl.load(scene + 2) + depth * dz
    room = tl.minimum(HALF - tl.maximum(tl.abs(x), tl.abs(y)), tl.minimum(HEIGHT - z, z))
    return depth, number, room < -_EDGE


@triton.jit
def _own(row, x, y, z):
    """A vector along the axes of the primitive in a row of solids."""
    return (
        tl.load(row + 3) * x + tl.load(row + 4) * y + tl.load(row + 5) * z,
        tl.load(row + 6) * x + tl.load(row + 7) * y + tl.load(row + 8) * z,
        tl.load(row + 9) * x + tl.load(row + 10) * y + tl.load(row + 11) * z,
    )


@triton.jit
def _nearest(scene, solid, kind, first, count, dx, dy, dz, limit):
    """`cast.nearest`: depth (`limit` where nothing is nearer), number of the solid, and normal."""
    depth, which = limit, (dx * 0).to(tl.int32) - 1
    nx, ny, nz = dx * 0, dx * 0, dx * 0
    per_length = 1 / (dx * dx + dy * dy + dz * dz)
    for p in range(count):
        row = solid + (first + p) * _SOLID
        rx = tl.load(scene) - tl.load(row)
        ry = tl.load(scene + 1) - tl.load(row + 1)
        rz = tl.load(scene + 2) - tl.load(row + 2)
        start = -(rx * dx + ry * dy + rz * dz) * per_length
        cx, cy, cz = rx + start * dx, ry + start * dy, rz + start * dz
        reach = tl.load(row + 18)
        near = cx * cx + cy * cy + cz * cz < reach * reach
        if tl.max(near.to(tl.int32), axis=0) > 0:
            shape = tl.load(kind + first + p)
            ox, oy, oz = _own(row, cx, cy, cz)
            ux, uy, uz = _own(row, dx, dy, dz)
            sx, sy, sz = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14)
            t = entry(shape, ox, oy, oz, ux, uy, uz, sx, sy, sz)
            better = near & (t + start > _NEAREST) & (t + start < depth)
            t = tl.where(better, t, 0.0)
            ax, ay, az = normal(shape, ox + t * ux, oy + t * uy, oz + t * uz, sx, sy, sz)
            bx = tl.load(row + 3) * ax + tl.load(row + 6) * ay + tl.load(row + 9) * az
            by = tl.load(row + 4) * ax + tl.load(row + 7) * ay + tl.load(row + 10) * az
            bz = tl.load(row + 5) * ax + tl.load(row + 8) * ay + tl.load(row + 11) * az
            depth = tl.where(better, t + start, depth)
            which = tl.where(better, first + p, which)
            nx, ny, nz = (
                tl.where(better, bx, nx),
                tl.where(better, by, ny),
                tl.where(better, bz, nz),
            )
    return depth, which, nx, ny, nz


@triton.jit
def _shadowed(solid, kind, first, count, x, y, z, dx, dy, dz, end):
    """`cast.shadowed`: whether a solid is between points and the light (1) or not (0)."""
    dark = (x * 0).to(tl.int32)
    per_length = 1 / (dx * dx + dy * dy + dz * dz)
    for p in range(count):
        row = solid + (first + p) * _SOLID
        rx, ry, rz = x - tl.load(row), y - tl.load(row + 1), z - tl.load(row + 2)
        start = -(rx * dx + ry * dy + rz * dz) * per_length
        cx, cy, cz = rx + start * dx, ry + start * dy, rz + start * dz
        reach = tl.load(row + 18)
        near = cx * cx + cy * cy + cz * cz < reach * reach
        if tl.max(near.to(tl.int32), axis=0) > 0:
            ox, oy, oz = _own(row, cx, cy, cz)
            ux, uy, uz = _own(row, dx, dy, dz)
            sx, sy, sz = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14)
            t = entry(tl.load(kind + first + p), ox, oy, oz, ux, uy, uz, sx, sy, sz)
            t += start
            dark = tl.where(near & (t > _NEAREST) & (t < end), 1, dark)
    return dark


@triton.jit
def _colour(scene, plane, solid, kind, first, count, between, atlas, texture_side, last_level,
            dx, dy, dz, PLANES: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr,
            HEIGHT: tl.constexpr, STACK: tl.constexpr):  # fmt: skip
    """Red, green and blue of rays, in [0, 1]."""
    room_depth, number, sky = _meet(scene, plane, dx, dy, dz, PLANES, COLUMNS, HALF, HEIGHT)
    limit = tl.where(sky, _INFINITY, room_depth)
    depth, which, nx, ny, nz = _nearest(scene, solid, kind, first, count, dx, dy, dz, limit)
    is_solid = which >= 0
    depth = tl.where(is_solid, depth, tl.where(sky, 0.0, room_depth))
    x = tl.load(scene) + depth * dx
    y = tl.load(scene + 1) + depth * dy
    z = tl.load(scene + 2) + depth * dz
    length = tl.sqrt(dx * dx + dy * dy + dz * dz)

    # Just above the surface, from where shadow rays start.
    edge: tl.constexpr = HALF - LIFT
    sx = tl.where(is_solid, x + LIFT * nx, tl.minimum(tl.maximum(x, -edge), edge))
    sy = tl.where(is_solid, y + LIFT * ny, tl.minimum(tl.maximum(y, -edge), edge))
    sz = tl.where(is_solid, z + LIFT * nz, tl.maximum(z, LIFT))
    if STACK:
        tx, ty, tz, end = stack_shadow_ray(scene, sx, sy, sz)
    else:
        tx, ty, tz, end = room_shadow_ray(scene, sx, sy, sz)
    dark = _shadowed(solid, kind, first, count, sx, sy, sz, tx, ty, tz, end)
    if STACK:
        dark = tl.where(behind_walls(sx, sy, sz, tx, ty, tz, end, HALF, HEIGHT), 1, dark)
    lit = 1.0 - dark

    # The room: its texture, times a number.
    row = plane + number * COLUMNS
    distance = depth * length
    cosine = tl.load(row + 3) / distance
    u = tl.load(row + 4) * x + tl.load(row + 5) * y + tl.load(row + 6)
    v = tl.load(row + 7) * y + tl.load(row + 8) * z + tl.load(row + 9)
    footprint = between * tl.load(row + 10) * distance / tl.maximum(cosine, 0.01)
    picture = tl.load(row + 11).to(tl.int32)
    red, green, blue = texture(atlas, picture, texture_side, last_level, u, v, footprint)
    if STACK:
        light = stack_on_planes(row, dx, dy, dz, length, cosine, lit)
    else:
        light = room_on_planes(scene, row, x, y, z, lit)
    red, green, blue = red * light, green * light, blue * light

    # The sky, and the solids.
    if STACK:
        ax, ay, az = stack_sky(dz / length)
    else:
        ax, ay, az = room_sky(dz)
    red, green, blue = tl.where(sky, ax, red), tl.where(sky, ay, green), tl.where(sky, az, blue)
    if tl.max(which, axis=0) >= 0:
        own = solid + tl.maximum(which, 0) * _SOLID
        mx, my, mz = tl.load(own + 15), tl.load(own + 16), tl.load(own + 17)
        if STACK:
            ax, ay, az = stack_on_solids(
                scene, mx, my, mz, nx, ny, nz, -dx / length, -dy / length, -dz / length, lit
            )
        else:
            ax, ay, az = room_on_solids(scene, mx, my, mz, nx, ny, nz, x, y, z, lit)
        red, green = tl.where(is_solid, ax, red), tl.where(is_solid, ay, green)
        blue = tl.where(is_solid, az, blue)
    return tl.minimum(red, 1.0), tl.minimum(green, 1.0), tl.minimum(blue, 1.0)


@triton.jit
def _draw(scene, plane, solid, kind, count, side, size, atlas, texture_side, last_level,
          images, samples, PLANES: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr,
          HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
          STACK: tl.constexpr):  # fmt: skip
    row, column = _pixels(size, WIDTH, BLOCK)
    number = tl.program_id(1)
    scene += number * _SCENE
    plane += number * PLANES * COLUMNS
    per_side = size * samples
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    for sample in range(samples * samples):
        x = (column * samples + sample % samples + 0.5) / per_side * 2 - 1
        y = 1 - (row * samples + sample // samples + 0.5) / per_side * 2
        dx, dy, dz = _direction(scene, x * side, y * side)
        r, g, b = _colour(
            scene, plane, solid, kind, number * count, count, 2 * side / per_side, atlas,
            texture_side, last_level, dx, dy, dz, PLANES, COLUMNS, HALF, HEIGHT, STACK,
        )  # fmt: skip
        red += r
        green += g
        blue += b
    shown = (row < size) & (column < size)
    scale = 255.0 / (samples * samples)
    pixel = images + (number.to(tl.int64) * size * size + row * size + column) * 3
    tl.store(pixel, (red * scale + 0.5).to(tl.uint8), mask=shown)
    tl.store(pixel + 1, (green * scale + 0.5).to(tl.uint8), mask=shown)
    tl.store(pixel + 2, (blue * scale + 0.5).to(tl.uint8), mask=shown)


@triton.jit
def _measure(scene, plane, solid, kind, count, side, size, owner, masks, depths,
             PLANES: tl.constexpr, COLUMNS: tl.constexpr, HALF: tl.constexpr,
             HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
             MASKS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    row, column = _pixels(size, WIDTH, BLOCK)
    number = tl.program_id(1)
    scene += number * _SCENE
    plane += number * PLANES * COLUMNS
    x = (column + 0.5) / size * 2 - 1
    y = 1 - (row + 0.5) / size * 2
    dx, dy, dz = _direction(scene, x * side, y * side)
    depth, _, sky = _meet(scene, plane, dx, dy, dz, PLANES, COLUMNS, HALF, HEIGHT)
    depth = tl.where(sky, _INFINITY, depth)
    depth, which, _, _, _ = _nearest(scene, solid, kind, number * count, count, dx, dy, dz, depth)
    shown = (row < size) & (column < size)
    pixel = number.to(tl.int64) * size * size + row * size + column
    if MASKS:
        label = tl.load(owner + tl.maximum(which, 0), mask=which >= 0, other=0)
        tl.store(masks + pixel, label, mask=shown)
    if DEPTH:
        tl.store(depths + pixel, depth, mask=shown)

"""The room around the solids, in closed form: planes that face inwards, and sky beyond them.

Shapes: N scenes, R rays of each, J planes. A ray meets the plane j at depth t_j, and 1 / t_j is
linear in its direction. The nearest plane ahead is therefore the one of the largest 1 / t_j, with
no division and no special cases: planes behind, parallel ones and those seen from their back have
1 / t_j <= 0. Room and planes end where the box around them does; beyond is sky.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.raycast.rays import Rays, pick

FAR = 1e-9  # 1 / t of a ray that meets nothing
EDGE = 1e-4  # how far outside the box a point on its surface may be rounded


class Plane(NamedTuple):
    """An axis-parallel plane that is visible from one side.

    Attributes:
        axis: 0, 1 or 2: the coordinate that is constant on it.
        at: Its value.
        normal: 1 or -1: the direction in which the plane faces.
        u: Texture coordinate as (factor of x, factor of y, constant).
        v: Likewise as (factor of y, factor of z, constant).
        is_wall: Whether it carries the wall texture rather than the floor's.
        per_unit: Textures per world unit.
    """

    axis: int
    at: float
    normal: int
    u: tuple[float, float, float]
    v: tuple[float, float, float]
    is_wall: bool
    per_unit: float


class Box(NamedTuple):
    """What the planes stand in: |x|, |y| <= half, 0 <= z <= height."""

    half: float
    height: float


class PlaneHits(NamedTuple):
    """Where rays meet the room.

    Attributes:
        depth: `[N, R]` float32. In the sky this and the rest are finite, and mean nothing.
        distance: `[N, R]` float32, from the camera.
        cosine: `[N, R]` float32, between the ray and the plane's normal.
        plane: `[N, R]` int32, the plane's number.
        row: `[N, R]` int32, scene times J plus plane: the row of a table of numbers per plane.
        point: `[3, N, R]` float32.
        sky: `[N, R]` bool.
    """

    depth: Tensor
    distance: Tensor
    cosine: Tensor
    plane: Tensor
    row: Tensor
    point: Tensor
    sky: Tensor


def meet(planes: tuple[Plane, ...], box: Box, rays: Rays) -> PlaneHits:
    """Where each ray meets the first plane."""
    apart = distances(planes, rays.origin)  # [N, J]
    nearness = per_distance(apart)
    each = [
        rays.direction[plane.axis] * (-plane.normal * nearness[:, j, None])
        for j, plane in enumerate(planes)
    ]
    nearest = each[0]
    for other in each[1:]:
        nearest = torch.maximum(nearest, other)

    number = (each[1] == nearest).int()
    for j in range(2, len(planes)):
        number = torch.maximum(number, (each[j] == nearest).int() * j)
    first = torch.arange(0, apart.numel(), len(planes), device=apart.device, dtype=torch.int32)

    row = number + first[:, None]
    depth = 1 / nearest.clamp(min=FAR)
    distance = depth * rays.length
    cosine = pick(apart.flatten(), row) / distance
    point = (depth * rays.direction).add_(rays.origin)
    x, y, z = point
    room = torch.minimum(
        torch.minimum(box.half - x.abs(), box.half - y.abs()),
        torch.minimum(box.height - z, z),
    )
    return PlaneHits(depth, distance, cosine, number, row, point, room < -EDGE)


def distances(planes: tuple[Plane, ...], points: Tensor) -> Tensor:
    """`[N, J]`: how far in front of each plane the `[3, N, 1]` points are."""
    return torch.cat([plane.normal * (points[plane.axis] - plane.at) for plane in planes], dim=1)


def per_distance(apart: Tensor) -> Tensor:
    """1 / distance, and 0 for a plane that the camera is in or behind."""
    return torch.where(apart > EDGE, 1 / apart, 0)


def texture_place(planes: tuple[Plane, ...], hits: PlaneHits) -> tuple[Tensor, Tensor]:
    """`[N, R]` each: the texture coordinates u and v of the points."""
    mapping = texture_mapping(planes, str(hits.plane.device))
    ux, uy, u0, vy, vz, v0 = (pick(column, hits.plane) for column in mapping)
    x, y, z = hits.point
    return ux * x + uy * y + u0, vy * y + vz * z + v0


@lru_cache(maxsize=16)
def texture_mapping(planes: tuple[Plane, ...], device: str) -> Tensor:
    """`[6, J]`: the factors of u and v."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        rows = torch.tensor([(*plane.u, *plane.v) for plane in planes])
        return rows.t().contiguous().to(device)


@lru_cache(maxsize=16)
def into(planes: tuple[Plane, ...], device: str) -> Tensor:
    """`[J, 3]`: unit vectors into the planes, against their normals."""
    with torch.inference_mode(False):
        axes = torch.eye(3)
        return torch.stack([-plane.normal * axes[plane.axis] for plane in planes]).to(device)


@lru_cache(maxsize=16)
def per_unit(planes: tuple[Plane, ...], device: str) -> Tensor:
    """`[J]`: textures per world unit."""
    with torch.inference_mode(False):
        return torch.tensor([plane.per_unit for plane in planes]).to(device)

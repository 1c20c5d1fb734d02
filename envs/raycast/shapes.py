"""The primitives: where a ray enters each, and which way its surface faces there.

Shapes: M pairs of a ray and a primitive. Everything happens in the primitive's own frame, with its
centre at the origin and its axis along z (`envs.solids.Solids` says what its size means).

An entry is the parameter t at which `origin + t direction` comes in from outside, or infinity. All
bodies are convex, or unions of convex bodies, so an entry is the last of several entries into
half-spaces, slabs or quadrics, as long as it comes before the first exit.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from envs.raycast.rays import dot, unit
from envs.solids import SOLIDS

_TINY = 1e-12  # stands for a direction component of 0, so that slabs need no special case

_GOLDEN = (1 + 5**0.5) / 2
# The ten axes through opposite faces of an icosahedron are those of a dodecahedron's corners.
_ICOSAHEDRON: list[tuple[float, float, float]] = [(1.0, 1.0, s) for s in (1.0, -1.0)] + [
    (1.0, -1.0, s) for s in (1, -1)
]
for _s in (_GOLDEN, -_GOLDEN):
    _ICOSAHEDRON += [(0.0, 1 / _GOLDEN, _s), (1 / _GOLDEN, _s, 0.0), (_s, 0.0, 1 / _GOLDEN)]
ICOSAHEDRON_AXES = tuple(tuple(c / 3**0.5 for c in axis) for axis in _ICOSAHEDRON)
ICOSAHEDRON_INNER = math.sqrt((5 + 2 * 5**0.5) / 15)
"""Radius of the inscribed sphere, for a circumscribed one of 1."""

TRIANGLE_AXES = ((0.0, -1.0), (3**0.5 / 2, 0.5), (-(3**0.5) / 2, 0.5))
"""From the middle of a triangle to its rods, as x and z.

The rods meet in round sections, whose radius is half the depth: along the rods they are ellipses,
half as thick in the triangle's plane as across it."""


def bounding_radius(kind: Tensor, size: Tensor) -> Tensor:
    """`[...]` float32: no point of the primitive is further from its centre. `size` `[3, ...]`."""
    x, y, z = size
    whole = torch.maximum(torch.maximum(x, y), z)
    flat = (x * x + z * z).sqrt()
    by_kind = {
        "sphere": whole,
        "box": dot(size, size).sqrt(),
        "cylinder": flat,
        "capsule": x + z,
        "cone": flat,
        "icosahedron": whole,
        "triangle": whole,
    }
    return torch.stack([by_kind[name] for name in SOLIDS]).gather(0, kind[None])[0]


def entry(name: str, origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """`[M]`: where the rays enter a primitive of this kind; all arguments `[3, M]`."""
    return _ENTRY[name](origin, direction, size)


def normal(name: str, point: Tensor, size: Tensor) -> Tensor:
    """`[3, M]`: the outward unit normal at a point on the surface."""
    return _NORMAL[name](point, size)


def _sphere(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    return _unit_sphere(origin / size, direction / size)


def _unit_sphere(origin: Tensor, direction: Tensor) -> Tensor:
    along = dot(direction, direction)
    middle = -dot(origin, direction) / along
    closest = origin + middle * direction
    inside = 1 - dot(closest, closest)
    return _if(inside > 0, middle - (inside / along).clamp(min=0).sqrt())


def _box(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    near, far = _slab(origin, direction, size)  # [3, M] each
    near, far = near.amax(0), far.amin(0)
    return _if(near < far, near)


def _cylinder(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    (x, y, z), (dx, dy, dz), (radius, _, length) = origin, direction, size
    along = (dx * dx + dy * dy).clamp_(min=_TINY)
    middle = -(x * dx + y * dy) / along
    x, y = x + middle * dx, y + middle * dy
    inside = radius * radius - (x * x + y * y)
    half = (inside / along).clamp_(min=0).sqrt_()
    near, far = _slab(z, dz, length)
    near, far = torch.maximum(near, middle - half), torch.minimum(far, middle + half)
    return _if((inside > 0) & (near < far), near)


def _capsule(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    nearest = _cylinder(origin, direction, size)
    for end in (-size[2], size[2]):
        shifted = torch.stack([origin[0], origin[1], origin[2] - end])
        cap = _unit_sphere(shifted / size[0], direction / size[0])
        nearest = torch.minimum(nearest, cap)
    return nearest


def _cone(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    # x^2 + y^2 = (slope w)^2, where w is the distance below the apex.
    slope = size[0] / (2 * size[2])
    w, step = slope * (size[2] - origin[2]), -slope * direction[2]
    a = direction[0] ** 2 + direction[1] ** 2 - step**2
    b = origin[0] * direction[0] + origin[1] * direction[1] - w * step
    c = origin[0] ** 2 + origin[1] ** 2 - w**2
    a = torch.where(a.abs() < _TINY, _TINY, a)
    root = (b * b - a * c).clamp(min=0).sqrt() / a.abs()
    middle = -b / a
    near, far = middle - root, middle + root
    # A ray steeper than the side is inside before `near` and after `far`; the part inside the
    # cone, rather than its mirror image above the apex, is the one towards which w grows.
    steep, downwards = a < 0, step > 0
    infinity = torch.full_like(near, math.inf)
    near, far = (
        torch.where(steep, torch.where(downwards, far, -infinity), near),
        torch.where(steep, torch.where(downwards, infinity, near), far),
    )
    low, high = _slab(origin[2], direction[2], size[2])
    near, far = torch.maximum(near, low), torch.minimum(far, high)
    return _if((steep | (b * b > a * c)) & (near < far), near)


def _icosahedron(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    half = size[0] * ICOSAHEDRON_INNER
    near, far = torch.full_like(half, -math.inf), torch.full_like(half, math.inf)
    for axis in ICOSAHEDRON_AXES:
        low, high = _slab(_along(axis, origin), _along(axis, direction), half)
        near, far = torch.maximum(near, low), torch.minimum(far, high)
    return _if(near < far, near)


def _triangle(origin: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    depth, middle = size[1], (size[0] - size[1]) / 2  # of a rod: half its depth, its axis
    starts, steps = ([_outwards(axis, v) for axis in TRIANGLE_AXES] for v in (origin, direction))
    nearest = torch.full_like(depth, math.inf)
    for k in range(3):
        a, b = 2 * (starts[k] - middle) / depth, 2 * steps[k] / depth
        near, far = _disc(a, origin[1] / depth, b, direction[1] / depth)
        for j in {0, 1, 2} - {k}:  # the other rods begin where it is as far out along them
            step = _not_zero(steps[j] - steps[k])
            t = (starts[k] - starts[j]) / step
            near = torch.where(step < 0, torch.maximum(near, t), near)
            far = torch.where(step > 0, torch.minimum(far, t), far)
        nearest = torch.minimum(nearest, _if(near < far, near))
    return nearest


def _disc(x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Where x^2 + y^2 < 1; nowhere, if the second number is below the first."""
    along = (dx * dx + dy * dy).clamp(min=_TINY)
    middle = -(x * dx + y * dy) / along
    inside = 1 - (x + middle * dx) ** 2 - (y + middle * dy) ** 2
    reach = (inside / along).clamp(min=0).sqrt()
    return middle - reach, torch.where(inside > 0, middle + reach, -math.inf)


def _slab(origin: Tensor, direction: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Where a coordinate is between -half and half."""
    per_unit = 1 / _not_zero(direction)
    middle, reach = -origin * per_unit, half * per_unit.abs()
    return middle - reach, middle + reach


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < _TINY, _TINY, x)


def _along(axis: tuple[float, ...], vector: Tensor) -> Tensor:
    return axis[0] * vector[0] + axis[1] * vector[1] + axis[2] * vector[2]


def _outwards(axis: tuple[float, float], vector: Tensor) -> Tensor:
    return axis[0] * vector[0] + axis[1] * vector[2]


def _if(hit: Tensor, t: Tensor) -> Tensor:
    return torch.where(hit, t, math.inf)


def _sphere_normal(point: Tensor, size: Tensor) -> Tensor:
    return unit(point / (size * size))


def _box_normal(point: Tensor, size: Tensor) -> Tensor:
    x, y, z = (point / size).abs()
    on_x = x >= torch.maximum(y, z)
    on_y = (y >= z) & ~on_x
    return torch.stack([on_x, on_y, ~(on_x | on_y)]) * point.sign()


def _cylinder_normal(point: Tensor, size: Tensor) -> Tensor:
    (x, y, z), (radius, _, length) = point, size
    out = (x * x + y * y).sqrt_()
    on_end = z.abs() * radius > out * length
    per_out = ~on_end / out.clamp_(min=_TINY)
    return torch.stack([x * per_out, y * per_out, z.sign() * on_end])


def _capsule_normal(point: Tensor, size: Tensor) -> Tensor:
    nearest = torch.minimum(torch.maximum(point[2], -size[2]), size[2])
    return unit(torch.stack([point[0], point[1], point[2] - nearest]))


def _cone_normal(point: Tensor, size: Tensor) -> Tensor:
    out = (point[0] ** 2 + point[1] ** 2).sqrt()
    slope = size[0] / (2 * size[2])
    to_side = (slope * (size[2] - point[2]) - out).abs()
    on_base = point[2] + size[2] < to_side
    around = point / out.clamp(min=_TINY) / (1 + slope * slope).sqrt()
    up = slope / (1 + slope * slope).sqrt()
    side = torch.stack([around[0], around[1], up]) * ~on_base
    return torch.stack([side[0], side[1], torch.where(on_base, -1.0, side[2])])


def _icosahedron_normal(point: Tensor, size: Tensor) -> Tensor:
    axes = torch.tensor(ICOSAHEDRON_AXES, device=point.device)
    heights = torch.stack([_along(axis, point) for axis in ICOSAHEDRON_AXES])  # [10, M]
    face = heights.abs().argmax(0)
    return axes[face].t() * heights.gather(0, face[None])[0].sign()


def _triangle_normal(point: Tensor, size: Tensor) -> Tensor:
    axes = torch.tensor(TRIANGLE_AXES, device=point.device)
    out, rod = torch.stack([_outwards(axis, point) for axis in TRIANGLE_AXES]).max(0)
    slope = 4 * (out - (size[0] - size[1]) / 2)  # the ellipse is half as thick in the plane
    x, z = axes[rod].t()
    return unit(torch.stack([slope * x, point[1], slope * z]))


_ENTRY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sphere": _sphere,
    "box": _box,
    "cylinder": _cylinder,
    "capsule": _capsule,
    "cone": _cone,
    "icosahedron": _icosahedron,
    "triangle": _triangle,
}
_NORMAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sphere": _sphere_normal,
    "box": _box_normal,
    "cylinder": _cylinder_normal,
    "capsule": _capsule_normal,
    "cone": _cone_normal,
    "icosahedron": _icosahedron_normal,
    "triangle": _triangle_normal,
}

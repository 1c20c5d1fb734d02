"""Which solid a ray meets first, and whether one stands between a point and the light.

Shapes: N scenes, R rays of each, P primitives, C candidates. A candidate is a pair of a ray and a
primitive whose bounding sphere the ray may meet: one pair in a hundred in a tower. Only candidates
are tested exactly. The broad test is generous by more than rounding can matter, so that which
candidates there are, unlike what they give, may depend on how the sums were computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from envs.raycast import shapes
from envs.raycast.rays import Rays, dot, rotate
from envs.solids import SOLIDS, Solids

NEAREST = 1e-4  # entries nearer than this are the surface that a ray starts from

_GENEROUS = 1.01, 2e-3  # the bounding spheres' radius times this, plus this


@dataclass(frozen=True, eq=False)
class Primitives:
    """The primitives of N scenes, flat: number n * P + p is the p-th of scene n.

    Attributes:
        kind: `[N * P]` int64.
        frame: `[12, N * P]` float32: the position, and the rows of the rotation to own axes.
        size: `[3, N * P]` float32.
        colour: `[3, N * P]` float32.
        owner: `[N * P]` uint8.
        reach: `[N, P]` float32, radius of a bounding sphere; 0 for empty slots.
    """

    kind: Tensor
    frame: Tensor
    size: Tensor
    colour: Tensor
    owner: Tensor
    reach: Tensor

    def positions(self) -> Tensor:
        """`[3, N, P]`, of the centres."""
        return self.frame[:3].view(3, *self.reach.shape)

    @cached_property
    def there(self) -> Tensor:
        """`[Q]` int64: the numbers of those that are not empty slots, kind by kind."""
        numbers = (self.reach > 0).flatten().nonzero()[:, 0]
        by_kind = self.kind.index_select(0, numbers).argsort(stable=True)
        return numbers.index_select(0, by_kind)


def primitives(solids: Solids) -> Primitives:
    """The primitives of these scenes, laid out for the tests below."""
    size = solids.size.flatten(0, 1).t().contiguous()
    reach = shapes.bounding_radius(solids.kind.flatten(), size).view(solids.kind.shape)
    position = solids.position.flatten(0, 1).t()
    to_own = solids.rotation.flatten(0, 1).permute(2, 1, 0).flatten(0, 1)
    return Primitives(
        kind=solids.kind.flatten(),
        frame=torch.cat([position, to_own]),
        size=size,
        colour=solids.colour.flatten(0, 1).t().contiguous(),
        owner=solids.owner.flatten().to(torch.uint8),
        reach=(reach * _GENEROUS[0] + _GENEROUS[1]) * (solids.owner > 0),
    )


class Hits(NamedTuple):
    """The rays that meet a solid, listed by the kind of the solid.

    Attributes:
        ray: `[H]` int64, number n * R + r.
        solid: `[H]` int64, number n * P + p.
        t: `[H]` float32, along the ray.
    """

    ray: Tensor
    solid: Tensor
    t: Tensor


def nearest(solids: Primitives, rays: Rays, rotation: Tensor) -> Hits:
    """The first solid on each ray; of equally near ones the first listed.

    Args:
        solids: Of N scenes.
        rays: Of their cameras.
        rotation: `[N, 3, 3]` of the cameras.
    """
    scenes, count = rays.direction.shape[1:]
    # Seen from the camera, a bounding sphere is a cone around the direction of its centre.
    centre = solids.positions() - rays.origin
    cosine, distance = _cone(centre, solids.reach)
    own = rotate(rotation.permute(2, 1, 0)[..., None], centre)  # camera axes; [3, N, P]
    pair = _pairs(solids, own / distance, cosine, rays.sight[:, None])

    scene = pair.ray // count
    direction = rays.direction.flatten(1).index_select(1, pair.ray)
    origin = rays.origin[..., 0].index_select(1, scene)
    t = _entries(solids, pair.solid, origin, direction)
    t = torch.where(t > NEAREST, t, math.inf)

    # One minimum finds the nearest and breaks ties: positive floats are ordered like their bits.
    key = (t.view(torch.int32).long() << 32) | pair.solid
    none = torch.iinfo(torch.int64).max
    best = torch.full((scenes * count,), none, device=t.device)
    best.scatter_reduce_(0, pair.ray, key, "amin")
    first = (best.index_select(0, pair.ray) == key) & t.isfinite()
    chosen = first.nonzero()[:, 0]
    return Hits(*(x.index_select(0, chosen) for x in (pair.ray, pair.solid, t)))


def normals(solids: Primitives, hits: Hits, point: Tensor) -> Tensor:
    """`[3, H]`: the unit normals of the solids at these `[3, H]` points of theirs."""
    frame = solids.frame.index_select(1, hits.solid)
    to_own = frame[3:].view(3, 3, -1)
    own, size = rotate(to_own, point - frame[:3]), solids.size.index_select(1, hits.solid)
    found = torch.empty_like(own)
    for kind, of in _by_kind(solids, hits.solid):
        found[:, of] = shapes.normal(kind, own[:, of], size[:, of])
    return rotate(to_own.transpose(0, 1), found)


def shadowed(
    solids: Primitives, point: Tensor, pair: Pairs, towards: Tensor, end: Tensor
) -> Tensor:
    """`[N, R]` bool: whether a solid is between each point and the light.

    Args:
        solids: Of N scenes.
        point: `[3, N, R]` where the shadow rays start, just above a surface.
        pair: The candidates.
        towards: `[3, C]` their directions.
        end: `[C]` the parameter at which they end.
    """
    origin = point.flatten(1).index_select(1, pair.ray)
    t = _entries(solids, pair.solid, origin, towards)
    hit = (t > NEAREST) & (t < end)
    dark = torch.zeros(point[0].numel(), dtype=torch.bool, device=point.device)
    dark.index_fill_(0, pair.ray.index_select(0, hit.nonzero()[:, 0]), True)
    return dark.view(point.shape[1:])


class Pairs(NamedTuple):
    """Candidates, by kind of solid: flat numbers of rays and solids, `[C]` int64 each."""

    ray: Tensor
    solid: Tensor


def pairs_along(solids: Primitives, point: Tensor, towards: Tensor) -> Pairs:
    """Candidates of rays that are parallel within a scene.

    Points and bounding spheres are moved along the rays to z = 0, where the latter become ellipses
    and here circles around them.

    Args:
        solids: Of N scenes.
        point: `[3, N, R]`.
        towards: `[3, N]` their unit direction, upwards.
    """
    lean_x, lean_y = (towards[:2] / towards[2])[..., None]  # [N, 1] each
    x, y = point[0] - point[2] * lean_x, point[1] - point[2] * lean_y
    centre = solids.positions()
    a, b = centre[0] - centre[2] * lean_x, centre[1] - centre[2] * lean_y  # [N, P]
    # (x - a)^2 + (y - b)^2 < reach^2, as a product of what is known of points and of spheres.
    reach = solids.reach / towards[2, :, None]
    known = torch.stack([2 * a, 2 * b, -torch.ones_like(a)])
    points = torch.stack([x, y, x * x + y * y])
    return _pairs(solids, known, a * a + b * b - reach * reach, points)


def pairs_from(solids: Primitives, point: Tensor, light: Tensor) -> Pairs:
    """Candidates of rays that lead to one place within a scene.

    Args:
        solids: Of N scenes.
        point: `[3, N, R]`.
        light: `[3, N, 1]` the place.
    """
    centre = solids.positions() - light
    cosine, distance = _cone(centre, solids.reach)
    sight = point - light
    sight = sight / dot(sight, sight).sqrt().clamp(min=1e-6)
    return _pairs(solids, centre / distance, cosine, sight)


def _cone(centre: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of the half angle under which spheres are seen from the origin; their distance."""
    distance = dot(centre, centre).sqrt()
    sine = reach / distance
    cosine = (1 - sine * sine).clamp(min=0).sqrt()
    cosine = torch.where(sine < 1, cosine, -2)  # from inside, every ray meets it
    return cosine, distance.clamp(min=1e-6)


def _pairs(solids: Primitives, known: Tensor, bound: Tensor, features: Tensor) -> Pairs:
    """The pairs of a primitive and a ray of its scene whose scalar product is above a bound.

    Args:
        solids: Of N scenes.
        known: `[3, N, P]`, of the primitives.
        bound: `[N, P]`.
        features: `[3, N, R]`, of the rays; `[3, 1, R]` if they are the same in all scenes.
    """
    per_scene, count = bound.shape[1], features.shape[2]
    solid = solids.there
    scene = solid // per_scene
    a, b, c = known.flatten(1).index_select(1, solid)[..., None]  # [Q, 1] each
    if features.shape[1] > 1:
        features = features.index_select(1, scene)
    product = (a * features[0]).addcmul_(b, features[1]).addcmul_(c, features[2])  # [Q, R]
    bound = bound.flatten().index_select(0, solid)[:, None]
    row, ray = (product > bound).nonzero().unbind(1)
    return Pairs(scene.index_select(0, row) * count + ray, solid.index_select(0, row))


def _entries(solids: Primitives, solid: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """`[C]`: the parameter at which rays `[3, C]` enter their primitives, or infinity."""
    frame = solids.frame.index_select(1, solid)
    relative = origin - frame[:3]
    # From the point nearest to the centre: all numbers are small there, and float32 is fine.
    closest = -dot(relative, direction) / dot(direction, direction)
    to_own = frame[3:].view(3, 3, -1)
    start = rotate(to_own, relative + closest * direction)
    direction, size = rotate(to_own, direction), solids.size.index_select(1, solid)
    t = torch.empty_like(closest)
    for kind, of in _by_kind(solids, solid):
        t[of] = shapes.entry(kind, start[:, of], direction[:, of], size[:, of])
    return t + closest


def _by_kind(solids: Primitives, solid: Tensor) -> Iterator[tuple[str, slice]]:
    """Where the solids of each kind are in a list that goes kind by kind."""
    kind = solids.kind.index_select(0, solid)
    counts = kind.bincount(minlength=len(SOLIDS)).tolist()
    for name, count, end in zip(SOLIDS, counts, accumulate(counts), strict=True):
        if count:
            yield name, slice(end - count, end)

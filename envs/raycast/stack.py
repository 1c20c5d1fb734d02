"""The ShapeStacks room: surfaces, five lights, and OpenGL's fixed-function shading.

All five lights shine; the one that the scene names casts shadows. OpenGL draws such a scene twice,
without that light and then its share alone, and clamps each to [0, 1] before the texture: see
`on_solids` for the formula, `_plane_table` for what becomes of it on the floor and the walls.

Shapes: N scenes, R rays of each, H rays that meet a solid.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.cast import Primitives, pairs_along, shadowed
from envs.raycast.planes import Box, Plane, PlaneHits
from envs.raycast.rays import Rays, dot
from envs.solids import StackStage

_PER_UNIT = 1 / 20  # every texture is spread once over its 20 x 20 plane
_BOX = Box(half=10.0, height=20.0)
_PLANES = (
    Plane(2, 0.0, 1, (_PER_UNIT, 0, 0.5), (-_PER_UNIT, 0, 0.5), False, _PER_UNIT),
    Plane(1, 10.0, -1, (-_PER_UNIT, 0, 0.5), (0, _PER_UNIT, 0), True, _PER_UNIT),
    Plane(0, 10.0, -1, (0, _PER_UNIT, 0.5), (0, _PER_UNIT, 0), True, _PER_UNIT),
)

_LIGHTS = ((0, 0, 20), (-9, -9, 20), (-9, 9, 20), (9, 9, 20), (9, -9, 20))  # positions
_LENGTHS = [math.dist(light, (0, 0, 0)) for light in _LIGHTS]
TOWARDS = [tuple(c / n for c in light) for light, n in zip(_LIGHTS, _LENGTHS, strict=True)]
DIFFUSE = 0.7
SPECULAR = 0.15  # the lights' .3 times the materials' .5
SQUARINGS = 5  # of a squared cosine: the exponent is 64, shininess .5 x 128
NEAR = 0.4  # the shadow map sees nothing nearer to the light than this
WALL_NEAREST = 0.01  # a wall does not shadow itself

ZENITH = (0.4, 0.6, 0.8)


class StackLook:
    """Surfaces and light of N ShapeStacks scenes."""

    planes: tuple[Plane, ...] = _PLANES
    box = _BOX

    def __init__(self, stage: StackStage) -> None:
        self.floor, self.wall, self.light = stage.floor, stage.wall, stage.light
        towards, self._table = _tables(str(stage.light.device))
        self.towards = towards.index_select(1, stage.light)  # [3, N], of the shadow light
        self.reach = _lengths(str(stage.light.device)).index_select(0, stage.light)[:, None]
        numbers = torch.arange(len(TOWARDS), device=stage.light.device)
        self.owns = stage.light == numbers[:, None]  # [5, N], which light is the shadow light

    def scene_numbers(self) -> Tensor:
        """`[N, 8]` float32: direction to the shadow light, its distance, its number."""
        numbers = torch.cat([self.towards.t(), self.reach, self.light[:, None].float()], dim=1)
        return F.pad(numbers, (0, 3))

    def plane_numbers(self) -> Tensor:
        """`[12, N * J]` float32: see `_plane_table`."""
        return self._table.index_select(0, self.light).permute(2, 0, 1).flatten(1)

    def shadowed(self, solids: Primitives, point: Tensor) -> Tensor:
        """`[N, R]` bool: which points, `[3, N, R]`, the shadow light does not reach."""
        towards = self.towards[..., None]  # [3, N, 1]
        end = self.reach - NEAR - dot(point, towards)
        pairs = pairs_along(solids, point, self.towards)
        scene = pairs.ray // point.shape[2]
        end_of_pair = end.flatten().index_select(0, pairs.ray)
        sense = self.towards.index_select(1, scene)
        dark = shadowed(solids, point, pairs, sense, end_of_pair)
        # The walls across x and y, together: where the ray meets each, in [2, N, R].
        flat, sense = point[:2], towards[:2]
        t = (_BOX.half - flat).mul_(torch.where(sense > 0, 1 / sense, 0))
        along = (t * sense.flip(0)).add_(flat.flip(0)).abs_()
        upwards = (t * towards[2]).add_(point[2])
        # Inside the wall in all respects, as the smallest of how far.
        within = torch.minimum(t - WALL_NEAREST, end - t)
        within = torch.minimum(within, along.neg_().add_(_BOX.half))
        within = torch.minimum(within, upwards.neg_().add_(_BOX.height))
        return dark.logical_or_(within.amax(0) > 0)

    def on_planes(self, hits: PlaneHits, rays: Rays) -> tuple[Tensor, Tensor]:
        """`[N, R]` float32 each: what a texture is multiplied with in shadows; what light adds."""
        picked = self.plane_numbers().index_select(1, hits.row.flatten())
        first, second, rest = picked.view(3, 4, *hits.row.shape)
        others, first_in_others, own, first_in_own = rest
        shine = []
        for light in (first, second):
            to_view = dot(light[:3], rays.direction) / -rays.length
            shine.append(_specular(light[3], hits.cosine, to_view))
        others = others.addcmul_(first_in_others, shine[0]).add_(shine[1]).clamp_(max=1)
        return others, own.addcmul_(first_in_own, shine[0]).clamp_(max=1)

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
        facing = dot(normal, view)
        lights = _lights(str(colour.device))
        cosine, to_view = dot(lights, normal[:, None]), dot(lights, view[:, None])  # [5, H]
        shine = _specular(cosine, facing, to_view) * (cosine > 0)
        light = torch.stack([DIFFUSE * cosine.clamp(min=0), shine])  # [2, 5, H]
        own = self.owns.index_select(1, scene)  # [5, H]
        diffuse, shine = _sum_of_lights(light * ~own)
        own_diffuse, own_shine = _sum_of_lights(light * own)
        others = (colour * diffuse + shine).clamp_(max=1)
        own_share = (colour * own_diffuse + own_shine).clamp_(max=1)
        return (others + own_share * ~dark).clamp_(max=1)

    def sky(self, direction: Tensor) -> Tensor:
        """`[3, M]` float32: bright at the zenith, black at the nadir."""
        elevation = direction[2].clamp(-1, 1).asin() * (2 / math.pi)
        curve = math.sqrt(2) * elevation / (1 + elevation * elevation).sqrt()
        amount = 0.5 + 0.5 * curve
        return torch.stack([c * amount for c in ZENITH])


def _sum_of_lights(light: Tensor) -> Tensor:
    """`[2, H]` of `[2, 5, H]`; one after the other: a picture must not depend on the batch."""
    total, *others = light.unbind(1)
    for one in others:
        total = total + one
    return total


def _specular(cosine: Tensor, facing: Tensor, to_view: Tensor) -> Tensor:
    """The highlight, for n.L > 0.

    Args:
        cosine: n.L, normal and light.
        facing: n.v, normal and viewer.
        to_view: L.v.
    """
    # With h = (L + v) / |L + v|: n.h^2 = (n.L + n.v)^2 / (2 + 2 L.v).
    along = cosine + facing
    power = along.mul_(along).div_((2 * to_view).add_(2).clamp_(min=1e-6))
    for _ in range(SQUARINGS):
        power.mul_(power)
    return power.mul_(SPECULAR)


def _plane_table(shadow_light: int, plane: Plane) -> list[float]:
    """What decides about the light on a plane when this light casts the shadows.

    A wall faces two lights. The floor faces all, but even without the shadow light their diffuse
    light is above 1, so that it stays 1 whatever the highlights add. So two highlights are enough.

    Returns:
        Two lights (x, y, z, n.L each), the shadow light first if it reaches the plane. Diffuse
        light of all others; whether the first highlight is among theirs; diffuse light of the
        shadow light; whether the first highlight is its own.
    """
    cosines = [plane.normal * light[plane.axis] for light in TOWARDS]
    facing = [k for k, cosine in enumerate(cosines) if cosine > 0]
    facing.sort(key=lambda k: k != shadow_light)
    reached = facing[0] == shadow_light
    table: list[float] = []
    for k in facing[:2]:
        table += [*TOWARDS[k], cosines[k]]
    others = sum(DIFFUSE * cosines[k] for k in facing if k != shadow_light)
    own = DIFFUSE * cosines[shadow_light] if reached else 0.0
    return [*table, others, float(not reached), own, float(reached)]


@lru_cache(maxsize=16)
def _tables(device: str) -> tuple[Tensor, Tensor]:
    """`[3, 5]` unit vectors to the lights; `[5, J, 12]` tables of the planes."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        rows = [[_plane_table(k, plane) for plane in _PLANES] for k in range(len(_LIGHTS))]
        return torch.tensor(TOWARDS).t().contiguous().to(device), torch.tensor(rows).to(device)


@lru_cache(maxsize=16)
def _lights(device: str) -> Tensor:
    """`[3, 5, 1]` unit vectors to the lights."""
    return _tables(device)[0][..., None]


@lru_cache(maxsize=16)
def _lengths(device: str) -> Tensor:
    """`[5]`: how far the lights are from the origin."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        return torch.tensor(_LENGTHS).to(device)

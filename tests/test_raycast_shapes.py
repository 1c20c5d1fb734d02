import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from envs.raycast import shapes
from envs.solids import SOLIDS

SIZE = torch.tensor([0.4, 0.4, 0.7])
SIZES = {
    "sphere": torch.tensor([0.4, 0.5, 0.7]),
    "box": torch.tensor([0.4, 0.5, 0.7]),
    "icosahedron": torch.tensor([0.6, 0.6, 0.6]),
    "triangle": torch.tensor([0.9, 0.2, 0.9]),
}
RAYS = 4000
STEP = 2e-3


def icosahedron_corners(radius):
    golden = (1 + 5**0.5) / 2
    corners = [(a, 0, b * golden) for a in (1, -1) for b in (1, -1)]
    corners = np.array([np.roll(corner, k) for corner in corners for k in range(3)])
    return radius * corners / np.linalg.norm(corners[0])


def within_hull(corners, point):
    sides = torch.from_numpy(ConvexHull(corners).equations).float()
    return (sides[:, :3] @ point + sides[:, 3:] <= 0).all(0)


def inside(name, point, size):
    """The body in words of its own: `[M]` bool for `[3, M]` points."""
    x, y, z = point
    out = (x * x + y * y).sqrt()
    if name == "sphere":
        return (point / size[:, None]).square().sum(0) < 1
    if name == "box":
        return (point.abs() < size[:, None]).all(0)
    if name == "cylinder":
        return (out < size[0]) & (z.abs() < size[2])
    if name == "capsule":
        return (point - torch.stack([0 * x, 0 * y, z.clamp(-size[2], size[2])])).norm(dim=0) < size[
            0
        ]
    if name == "cone":
        return (z > -size[2]) & (out < size[0] * (size[2] - z) / (2 * size[2]))
    if name == "icosahedron":
        return within_hull(icosahedron_corners(float(size[0])), point)
    angles = torch.deg2rad(torch.tensor([-90.0, 30, 150]))  # of the rods, seen from the middle
    out = (torch.outer(angles.cos(), x) + torch.outer(angles.sin(), z)).amax(0)
    thick = size[1] / 2
    return ((out - (size[0] / 2 - thick)) / thick).square() + (y / size[1]).square() < 1


def slimmer(name, size):
    """The size of a body that lies within."""
    if name == "triangle":  # the middles of its rods stay where they are
        return size - 0.001 * size[1]
    return 0.999 * size


def random_rays(seed=0):
    """Rays from a distance of 3, most of which pass near the origin."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.randn(3, RAYS, generator=generator)
    origin = 3 * origin / origin.norm(dim=0)
    target = 0.5 * torch.randn(3, RAYS, generator=generator)
    return origin, (target - origin) / 3


def cast(name):
    size = SIZES.get(name, SIZE)
    origin, direction = random_rays()
    t = shapes.entry(name, origin, direction, size[:, None].expand(3, RAYS))
    return size, origin, direction, t


@pytest.mark.parametrize("name", SOLIDS)
def test_a_ray_is_outside_before_its_entry_and_inside_behind_it(name):
    size, origin, direction, t = cast(name)
    hit = t.isfinite()
    assert 0.1 < hit.float().mean() < 0.9
    before, behind = (
        inside(name, (origin + (t + step) * direction)[:, hit], size) for step in (-STEP, STEP)
    )
    assert not before.any()
    # A ray through an edge may leave again within the step.
    assert behind.float().mean() > 0.99


@pytest.mark.parametrize("name", SOLIDS)
def test_a_ray_that_misses_is_never_inside(name):
    size, origin, direction, t = cast(name)
    missed = ~t.isfinite()
    for s in torch.linspace(0, 6, 301):
        within = inside(name, (origin + s * direction)[:, missed], slimmer(name, size))
        assert not within.any()


@pytest.mark.parametrize("name", sorted({*SOLIDS} - {"triangle"}))
def test_a_convex_body_lies_behind_the_plane_that_its_normal_spans(name):
    size, origin, direction, t = cast(name)
    hit = t.isfinite()
    point = (origin + t * direction)[:, hit]
    normal = shapes.normal(name, point, size[:, None].expand_as(point))
    assert torch.allclose(normal.norm(dim=0), torch.ones(point.shape[1]), atol=1e-5)
    heights = normal.t() @ point[:, ::7]  # every seventh point above every tangent plane
    assert (heights - (normal * point).sum(0)[:, None]).max() < 1e-3


@pytest.mark.parametrize("name", SOLIDS)
def test_the_normal_leads_out_of_the_body(name):
    size, origin, direction, t = cast(name)
    point = (origin + t * direction)[:, t.isfinite()]
    normal = shapes.normal(name, point, size[:, None].expand_as(point))
    torch.testing.assert_close(normal.norm(dim=0), torch.ones(point.shape[1]))
    assert not inside(name, point + STEP * normal, size).any()
    assert inside(name, point - STEP * normal, size).float().mean() > 0.98  # but at edges


@pytest.mark.parametrize("name", SOLIDS)
def test_the_bounding_sphere_holds_the_body_and_is_tight(name):
    size, origin, direction, t = cast(name)
    reach = shapes.bounding_radius(torch.tensor([SOLIDS.index(name)]), size[:, None])[0]
    far = (origin + t * direction)[:, t.isfinite()].norm(dim=0).max()
    assert 0.85 * reach < far <= reach + 1e-5


def test_rays_along_the_axes_enter_where_the_sizes_say():
    origin = torch.tensor([[-5.0, 0, 0], [0, -5.0, 0], [0, 0, -5.0]]).t()

    def entries(name, size):
        sizes = torch.tensor([size]).t().expand(3, 3)
        return shapes.entry(name, origin, -origin / 5, sizes).tolist()

    for name in ("sphere", "box"):
        assert entries(name, (1.0, 2.0, 3.0)) == pytest.approx([4, 3, 2])
    assert entries("cylinder", (1.0, 1.0, 2.0)) == pytest.approx([4, 4, 3])
    assert entries("capsule", (1.0, 1.0, 2.0)) == pytest.approx([4, 4, 2])
    assert entries("cone", (1.0, 1.0, 2.0)) == pytest.approx([4.5, 4.5, 3])

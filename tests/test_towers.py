"""The recipe of the ShapeStacks towers: names, blocks, margins and cameras."""

import math
from dataclasses import fields, replace

import pytest
import torch

from envs.tower_blocks import (
    CUBOID,
    CYLINDER,
    LYING,
    SPHERE,
    Towers,
    extent,
    stability_margin,
    support_margins,
    volume,
)
from envs.towers import (
    CLEARANCE,
    HEIGHT_COUNTS,
    draw_towers,
    keeps_its_name,
    stack_camera,
    tower_scene,
)
from pretrain.data.shapestacks import parse_scenario

MANY = 4000
TOWERS = {shapes: draw_towers(torch.arange(MANY), shapes=shapes) for shapes in ("ccs", "both")}
CCS = TOWERS["ccs"]


def share(condition):
    return condition.double().mean().item()


def same(a: Towers, b: Towers) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def pile(kinds, sizes, centres, yaw=None):
    """One tower of these blocks, given from the bottom: half sizes, and centres in x and y."""
    tower = CCS[:1]
    count = len(kinds)
    kind = torch.tensor([[*kinds, *[-1] * (6 - count)]])
    size, position = (torch.zeros(1, 6, 3, dtype=torch.float64) for _ in range(2))
    size[0, :count] = torch.tensor(sizes, dtype=torch.float64)
    position[0, :count, :2] = torch.tensor(centres, dtype=torch.float64)
    turn = torch.zeros(1, 6, dtype=torch.float64)
    turn[0, :count] = torch.tensor(yaw or [0.0] * count, dtype=torch.float64)
    return replace(tower, kind=kind, size=size, position=position, yaw=turn)


# --- what is drawn ------------------------------------------------------------------------------


def test_a_tower_depends_on_seed_and_index_alone():
    rows = torch.tensor([3999, 5, 17])
    assert same(draw_towers(rows), CCS[rows])
    assert not torch.equal(draw_towers(rows, seed=1).size, CCS[rows].size)


def test_heights_are_those_of_the_default_lists():
    assert sum(HEIGHT_COUNTS) == 19450
    for height, count in zip(range(2, 7), HEIGHT_COUNTS, strict=True):
        assert share(CCS.height == height) == pytest.approx(count / 19450, abs=0.03)


def test_half_are_stable_and_violations_and_levels_are_balanced():
    assert share(CCS.stable) == pytest.approx(0.5, abs=0.03)
    unstable = CCS[~CCS.stable]
    assert share(unstable.violation == 1) == pytest.approx(0.5, abs=0.04)
    four = unstable[unstable.height == 4]
    for level in (1, 2, 3):
        assert share(four.level == level) == pytest.approx(1 / 3, abs=0.08)
    assert (unstable.level < unstable.height).all()
    assert (CCS.level[CCS.stable] == 0).all()


def test_a_third_of_both_are_cubes_which_never_stand_on_curves():
    both = TOWERS["both"]
    assert share(both.cubes) == pytest.approx(1 / 3, abs=0.03)
    cubes = both[both.cubes]
    assert (cubes.kind <= CUBOID).all()
    assert (cubes.violation < 2).all()
    assert (cubes.size[cubes.kind >= 0] == 0.5).all()
    assert not CCS.cubes.any()


def test_rooms_are_uniform_over_textures_and_lights():
    for values, count in ((CCS.floor, 6), (CCS.wall, 6), (CCS.light, 5)):
        shares = torch.bincount(values, minlength=count) / MANY
        assert shares.shape == (count,)
        assert (shares - 1 / count).abs().max() < 0.03


def test_colours_are_pure_and_differ_within_a_tower():
    assert torch.equal(CCS.colour.sort(dim=1).values, torch.arange(6).expand(MANY, 6))
    assert len(CCS.colour[:, 0].unique()) == 6
    colours = tower_scene(CCS, stack_camera(torch.ones(MANY, dtype=torch.long))).solids.colour
    assert set(colours.unique().tolist()) == {0.0, 1.0}
    assert not (colours.sum(-1) % 3 == 0).any()  # neither black nor white


def test_names_are_those_the_reader_parses():
    for name, height, violation, level in zip(
        CCS.names(), CCS.height.tolist(), CCS.violation.tolist(), CCS.level.tolist(), strict=True
    ):
        assert parse_scenario(f"env_{name}") == (height, violation, level)
    assert len(set(CCS.names())) == MANY
    assert CCS[7:8].names() == ["ccs-hard-h=4-vcom=0-vpsf=0-v=7"]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="ccs, blocks or both, but are 'cubes'"):
        draw_towers(torch.arange(2), shapes="cubes")


# --- blocks -------------------------------------------------------------------------------------


def test_blocks_lie_on_each_other_and_the_lowest_on_the_floor():
    half = extent(CCS.kind, CCS.size) / 2
    bottom, top = CCS.position[..., 2] - half, CCS.position[..., 2] + half
    assert bottom[:, 0].abs().max() < 1e-12
    there = CCS.kind[:, 1:] >= 0
    assert (bottom[:, 1:] - top[:, :-1])[there].abs().max() < 1e-12
    assert torch.equal((CCS.kind >= 0).sum(1), CCS.height)


def test_sizes_are_from_a_half_to_one_and_a_half():
    for kind in (CUBOID, CYLINDER, LYING, SPHERE):
        sides = 2 * CCS.size[CCS.kind == kind]
        assert 0.5 <= sides.min() < 0.52
        assert 1.48 < sides.max() <= 1.5


def test_towers_stand_within_two_units_of_the_middle():
    top = CCS.position[torch.arange(MANY), CCS.height - 1, :2]
    assert 1.9 < top.abs().max() <= 2


def test_only_tops_and_violating_blocks_are_curved():
    curved = (CCS.kind == LYING) | (CCS.kind == SPHERE)
    number = torch.arange(1, 7)
    violating = (CCS.violation == 2)[:, None] & (number == CCS.level[:, None])
    assert torch.equal(curved & (number < CCS.height[:, None]), violating)
    tops = CCS.kind[torch.arange(MANY), CCS.height - 1]
    assert (torch.bincount(tops) / MANY - 0.25).abs().max() < 0.03


def test_hard_towers_are_more_crooked_than_easy_ones():
    steps = (CCS.position[:, 0] - CCS.position[:, 1])[:, :2].norm(dim=-1)
    stable = CCS.stable & (CCS.kind[:, 0] == CUBOID)
    assert steps[stable & CCS.hard].mean() > 1.5 * steps[stable & ~CCS.hard].mean()


def test_volumes():
    size = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64).expand(5, 3)
    kinds = torch.tensor([CUBOID, CYLINDER, LYING, SPHERE, -1])
    expected = [1, math.pi / 4, math.pi / 4, math.pi / 6, 0]
    assert volume(kinds, size).tolist() == pytest.approx(expected)


# --- margins ------------------------------------------------------------------------------------


def test_a_cube_over_a_cube_has_the_distance_to_the_edge_as_its_margin():
    cube = [0.5, 0.5, 0.5]
    for x, margin in ((0.0, 0.5), (0.3, 0.2), (0.5, 0.0), (0.7, -0.2)):
        tower = pile([CUBOID, CUBOID], [cube, cube], [[0, 0], [x, 0]])
        assert stability_margin(tower).item() == pytest.approx(margin)
    corner = pile([CUBOID, CUBOID], [cube, cube], [[0, 0], [0.8, 0.9]])
    assert stability_margin(corner).item() == pytest.approx(-0.5)  # 3 : 4 : 5


def test_the_margin_turns_with_the_block():
    flat = [[0.25, 0.5, 0.5], [0.5, 0.5, 0.5]]
    for yaw, margin in ((0.0, -0.05), (math.pi / 2, 0.2)):
        tower = pile([CUBOID, CUBOID], flat, [[0, 0], [0.3, 0]], [yaw, 0.0])
        assert stability_margin(tower).item() == pytest.approx(margin)


def test_a_disc_carries_as_far_as_its_rim():
    for x, y, margin in ((0.3, 0.4, 0.0), (0.0, 0.2, 0.3), (0.6, 0.8, -0.5)):
        tower = pile([CYLINDER, CUBOID], [[0.5, 0.5, 0.4], [0.5, 0.5, 0.5]], [[0, 0], [x, y]])
        assert stability_margin(tower).item() == pytest.approx(margin)


def test_the_centre_of_mass_of_everything_above_counts():
    cube = [0.5, 0.5, 0.5]
    tower = pile([CUBOID] * 3, [cube] * 3, [[0, 0], [0.4, 0], [0.0, 0]])
    # Block 2 carries a cube .4 off its centre; block 1 two that are .2 off on average, .3 inside,
    # and the mean of the two is .2 off block 2's own centre.
    assert support_margins(tower)[0, :2].tolist() == pytest.approx([0.3, 0.1])
    assert support_margins(tower)[0, 2:].isinf().all()


def test_the_upper_blocks_bottom_face_counts_too():
    small = [0.1, 0.1, 0.1]
    tower = pile([CUBOID] * 3, [[2, 2, 2], small, [0.5, 0.5, 0.5]], [[0, 0], [0, 0], [0.2, 0]])
    assert support_margins(tower)[0, 0].item() < 0  # both overhang the small one on its own base


def test_curved_blocks_carry_nothing_but_may_be_on_top():
    ball, cube = [0.4, 0.4, 0.4], [0.5, 0.5, 0.5]
    for kind in (LYING, SPHERE):
        assert (
            stability_margin(pile([kind, CUBOID], [ball, cube], [[0, 0]] * 2)).item() == -math.inf
        )
        top = pile([CUBOID, kind], [cube, ball], [[0, 0], [0.2, 0]])
        assert stability_margin(top).item() == pytest.approx(0.3)


@pytest.mark.parametrize("shapes", ["ccs", "both"])
def test_every_tower_does_clearly_what_its_name_says(shapes):
    towers = TOWERS[shapes]
    margin = stability_margin(towers)
    assert torch.equal(margin > 0, towers.stable)
    assert margin.abs().min() >= CLEARANCE
    assert keeps_its_name(towers).all()
    overhangs = towers[towers.violation == 1]
    at_level = support_margins(overhangs).gather(1, overhangs.level[:, None] - 1)
    assert at_level.max() <= -CLEARANCE
    carriers = overhangs.kind.gather(1, overhangs.level[:, None] - 1)
    assert ((carriers == CUBOID) | (carriers == CYLINDER)).all()


def test_a_tower_with_another_name_than_it_deserves_is_noticed():
    cube = [0.5, 0.5, 0.5]
    tower = pile([CUBOID, CUBOID], [cube, cube], [[0, 0], [0.3, 0]])
    one, none = torch.ones(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    assert keeps_its_name(replace(tower, level=none)).item()
    assert not keeps_its_name(replace(tower, level=one)).item()
    close = pile([CUBOID, CUBOID], [cube, cube], [[0, 0], [0.47, 0]])
    assert not keeps_its_name(replace(close, level=none)).item()


# --- what is shown ------------------------------------------------------------------------------

FORWARD = """
    .683 .683 -.259   .933 .250 -.259   .250 .933 -.259   .683 -.683 -.259
    .933 -.250 -.259   .250 -.933 -.259   -.683 -.683 -.259   -.933 -.250 -.259
    -.250 -.933 -.259   -.683 .683 -.259   -.933 .250 -.259   -.250 .933 -.259
    .500 .500 -.707   .500 -.500 -.707   -.500 -.500 -.707   -.500 .500 -.707"""


def test_cameras_look_where_the_release_has_them_look():
    camera = stack_camera(torch.arange(1, 17))
    expected = torch.tensor([float(x) for x in FORWARD.split()]).view(16, 3)
    assert (-camera.rotation[:, :, 2] - expected).abs().max() < 6e-4
    identity = torch.eye(3).expand(16, 3, 3)
    assert torch.allclose(camera.rotation.mT @ camera.rotation, identity, atol=1e-6)
    assert torch.allclose(torch.linalg.det(camera.rotation), torch.ones(16))
    assert (camera.rotation[:, 2, 0] == 0).all()  # level: no roll
    assert (camera.rotation[:, 2, 1] > 0).all()  # and not upside down


def test_cameras_are_the_left_eye():
    camera = stack_camera(torch.tensor([1, 16]))
    middle = torch.tensor([[-7.0, -7.0, 5.0], [5.0, -5.0, 9.0]])
    assert torch.allclose(camera.position, middle - 0.034 * camera.rotation[:, :, 0])


def test_the_cropped_field_of_view_is_that_of_196_of_224_pixels():
    one = torch.tensor([1])
    assert stack_camera(one).fovy == 45
    assert stack_camera(one, crop=True).fovy == pytest.approx(39.845, abs=1e-3)


def test_a_scene_has_the_towers_blocks_and_its_room():
    scene = tower_scene(CCS, stack_camera(torch.ones(MANY, dtype=torch.long)))
    assert torch.equal((scene.solids.owner > 0).sum(1), CCS.height)
    assert torch.equal(scene.solids.owner.amax(1), CCS.height)
    assert torch.equal(scene.stage.light, CCS.light)
    assert scene.solids.position.dtype == torch.float32
    lying = CCS.kind == LYING
    axis = scene.solids.rotation[lying][..., 2]  # a cylinder's own z
    assert axis[:, 2].abs().max() < 1e-6
    upright = scene.solids.rotation[~lying][..., 2]
    assert (upright - torch.tensor([0.0, 0.0, 1.0])).abs().max() < 1e-6


@pytest.mark.gpu
def test_towers_are_the_same_on_cuda():
    towers = draw_towers(torch.arange(500), device="cuda").to("cpu")
    assert towers.names() == CCS[:500].names()
    assert torch.allclose(towers.position, CCS[:500].position)

"""Rooms: what stands where, as data. How they look is tested with the renderer."""

import math

import pytest
import torch

from envs.rooms import (
    PLACE_LIMIT,
    ROOM_SHAPES,
    camera_rows,
    draw_rooms,
    footprints,
    ring_camera,
    room_scene,
    view_angles,
)
from envs.solids import SOLIDS

MANY = torch.arange(4000)


@pytest.fixture(scope="module")
def rooms():
    return draw_rooms(0, MANY)


@pytest.fixture(scope="module")
def solids(rooms):
    return room_scene(rooms, ring_camera(torch.zeros(len(MANY)))).solids


def standing(rooms, shape):
    """Which objects are there and of this shape: `[B, N]`."""
    return rooms.present & (rooms.shape == ROOM_SHAPES.index(shape))


def test_a_room_does_not_depend_on_its_batch(rooms):
    angles = view_angles(0, MANY)
    whole = room_scene(rooms, ring_camera(angles[:, 0]))
    for index in torch.arange(0, len(MANY), 67).split(1):
        alone = room_scene(draw_rooms(0, index), ring_camera(view_angles(0, index)[:, 0]))
        for part in ("solids", "stage", "camera"):
            one, many = vars(getattr(alone, part)), vars(getattr(whole[index], part))
            for name in {*one} - {"fovy"}:
                assert torch.equal(one[name], many[name]), name


def test_seeds_are_different_datasets(rooms):
    other = draw_rooms(1, MANY)
    assert (other.place != rooms.place).all(dim=-1).any(dim=-1).float().mean() > 0.99
    assert (view_angles(1, MANY) != view_angles(0, MANY)).float().mean() > 0.99


def test_everything_is_drawn_as_often_as_it_should_be(rooms):
    """Within four standard deviations of uniform."""
    kinds = [(rooms.present.sum(1) - 1, 3), (rooms.shape[:, 0], 7), (rooms.floor, 3)]
    for values, n in [*kinds, (rooms.wall, 5), (view_angles(0, MANY)[:, 3] // (math.pi / 4), 8)]:
        counts = torch.bincount(values.long(), minlength=n)
        assert len(counts) == n
        expected = len(MANY) / n
        assert (counts - expected).abs().max() < 4 * math.sqrt(expected * (1 - 1 / n))


def test_objects_that_are_there_come_first(rooms):
    assert (rooms.present[:, :-1] >= rooms.present[:, 1:]).all()


def test_the_number_of_objects_can_be_chosen():
    assert (draw_rooms(0, torch.arange(50), objects=(2, 2)).present.sum(1) == 2).all()


def test_objects_keep_apart_and_off_the_walls(rooms):
    assert rooms.place.abs().max() <= PLACE_LIMIT
    assert rooms.place.abs().max() > 0.99 * PLACE_LIMIT
    radius = footprints(rooms.shape, rooms.size)
    gaps = (rooms.place[:, :, None] - rooms.place[:, None]).norm(dim=-1) + 9 * torch.eye(3)
    room = (gaps - radius[:, :, None] - radius[:, None]).amin(dim=(1, 2))
    assert (room < 0).float().mean() < 0.002


def test_lamps_hang_off_the_axis_in_all_four_quarters(rooms):
    x, y, z = rooms.light.unbind(1)
    assert torch.stack([x, y]).abs().min() >= 1.5
    assert torch.stack([x, y]).abs().max() <= 3.4, "inside of the room, whose walls cast no shadow"
    assert ((z >= 6.3) & (z <= 6.8)).all()
    quarters = torch.bincount((x > 0).long() + 2 * (y > 0))
    assert (quarters - 1000).abs().max() < 120


def test_colours_are_vivid_and_of_every_hue(rooms):
    high, low = rooms.colour.amax(-1), rooms.colour.amin(-1)
    torch.testing.assert_close(high, torch.ones_like(high))
    assert low.min() >= 0
    assert 0.29 < low.max() <= 0.3  # the saturation is 1 - low
    for channel in range(3):
        third = (rooms.colour.argmax(-1) == channel).float().mean().item()
        assert third == pytest.approx(1 / 3, abs=0.02)


def test_object_n_is_primitive_n_and_absent_ones_are_empty_slots(rooms, solids):
    assert torch.equal(solids.owner, torch.tensor([1, 2, 3]) * rooms.present)
    assert [SOLIDS[k] for k in solids.kind[:200][rooms.present[:200]].tolist()] == [
        ROOM_SHAPES[k] for k in rooms.shape[:200][rooms.present[:200]].tolist()
    ]


def test_everything_that_is_stored_is_finite_and_every_rotation_proper(solids):
    assert solids.size.isfinite().all()
    assert solids.position.isfinite().all()
    assert (solids.size > 0).all()
    unit = torch.eye(3).expand_as(solids.rotation)
    torch.testing.assert_close(solids.rotation @ solids.rotation.mT, unit, atol=1e-5, rtol=0)
    assert (torch.det(solids.rotation) > 0.99).all()


def test_everything_stands_on_the_floor_and_is_as_high_as_its_size_says(rooms, solids):
    bottom, top = solids.position[..., 2] - solids.size[..., 2], 2 * rooms.size[..., 2]
    for shape in {*ROOM_SHAPES} - {"capsule", "triangle"}:
        mine = standing(rooms, shape)
        assert bottom[mine].abs().max() < 1e-6
        torch.testing.assert_close(2 * solids.size[mine][:, 2], top[mine])


def test_a_capsule_shows_its_upper_cap_alone(rooms, solids):
    """Its straight part begins at the floor; the height is that of the upper cap's top."""
    size = solids.size[standing(rooms, "capsule")]
    torch.testing.assert_close(2 * size[:, 2] + size[:, 0], torch.full((len(size),), 1.05))


def test_a_triangle_is_equilateral_and_stands_on_one_side(rooms, solids):
    mine = standing(rooms, "triangle")
    radius, height = solids.size[mine][:, 0], solids.position[mine][:, 2]
    torch.testing.assert_close(height, radius / 2)
    torch.testing.assert_close(rooms.size[mine][:, 2] * 2, 1.5 * radius)
    torch.testing.assert_close(rooms.size[mine][:, 0], radius * 3**0.5 / 2, rtol=2e-3, atol=0)


def test_the_camera_stands_on_its_ring_and_faces_the_axis():
    angle = torch.linspace(0, 6, 13)
    camera = ring_camera(angle)
    assert camera.fovy == 50
    torch.testing.assert_close(camera.position[:, :2].norm(dim=-1), torch.full((13,), 3.5))
    torch.testing.assert_close(camera.position[:, 2], torch.full((13,), 0.75))
    forward, up = -camera.rotation[:, :, 2], camera.rotation[:, :, 1]
    to_axis = -torch.nn.functional.pad(camera.position[:, :2], (0, 1))
    torch.testing.assert_close(forward, to_axis / 3.5)
    assert (up == torch.tensor([0.0, 0, 1])).all()
    torch.testing.assert_close(torch.det(camera.rotation), torch.ones(13))


def test_camera_rows_are_the_unit_circle_and_the_direction_of_view():
    angle = torch.tensor([0.0, math.pi / 2, 4.0])
    rows = camera_rows(angle)
    torch.testing.assert_close(rows[:2, :2], torch.tensor([[1.0, 0], [0, 1]]))
    yaw = rows[:, 3]
    view = torch.stack([yaw.cos(), yaw.sin()], dim=-1)
    torch.testing.assert_close(view, -rows[:, :2])
    assert ((yaw >= 0) & (yaw < 2 * math.pi)).all()
    assert (rows[:, [2, 4]] == 0).all()


@pytest.mark.gpu
def test_cpu_and_cuda_draw_the_same_rooms(rooms):
    for here, there in zip(rooms, draw_rooms(0, MANY.cuda()), strict=True):
        torch.testing.assert_close(here, there.cpu(), atol=1e-6, rtol=1e-6)

from dataclasses import replace

import pytest
import torch

from envs.raycast import Renderer
from envs.raycast.backdrop import Recent
from envs.rooms import draw_rooms, ring_camera, room_scene
from envs.textures import SurfaceTextures
from envs.towers import draw_towers, stack_camera, tower_scene

NOISE = SurfaceTextures(
    *torch.randint(0, 256, (2, 6, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte(),
    "noise",
)


def towers(count):
    index = torch.arange(count)
    return tower_scene(draw_towers(index, seed=0), stack_camera(index % 16 + 1, crop=True))


def rooms(count):
    return room_scene(draw_rooms(0, torch.arange(count)), ring_camera(torch.arange(count) * 0.7))


@pytest.mark.parametrize("make", [towers, rooms])
def test_a_room_that_was_drawn_before_looks_the_same_with_other_solids(make):
    scenes, renderer = make(6), Renderer(NOISE)
    whole = renderer.render(scenes, size=32, depth=True)
    for row, other in [(0, 0), (0, 1), (1, 1), (0, 0)]:  # of one's room, another's solids
        mixed = replace(scenes[row : row + 1], solids=scenes[other : other + 1].solids)
        alone = renderer.render(mixed, size=32, depth=True)
        fresh = Renderer(NOISE).render(mixed, size=32, depth=True)
        for known, new, batched in zip(alone, fresh, whole, strict=True):
            assert torch.equal(known, new)
            assert torch.equal(known[0], batched[row]) == (row == other)


def test_rooms_that_are_remembered_are_told_apart_by_all_that_shows():
    renderer = Renderer(NOISE)
    first, other = towers(20)[3:4], towers(20)[7:8]
    stage, camera = first.stage, first.camera
    changed = [
        replace(first, stage=replace(stage, floor=(stage.floor + 1) % 6)),
        replace(first, stage=replace(stage, wall=(stage.wall + 1) % 6)),
        replace(first, stage=replace(stage, light=(stage.light + 1) % 5)),
        replace(first, camera=replace(camera, fovy=30.0)),
        replace(first, camera=other.camera),
    ]
    seen = renderer.render(first).images
    for one in changed:
        image = renderer.render(one).images
        assert torch.equal(image, Renderer(NOISE).render(one).images)
        assert not torch.equal(image, seen)
    assert renderer.render(first, size=32).images.shape[1] == 32
    assert not torch.equal(renderer.render(first, samples=1).images, seen)


def test_what_is_remembered_is_bounded_by_rays():
    recent = Recent(10)
    for key in "aab":
        recent.get(key, 4, object)
    assert len(recent) == 2
    known = recent.get("a", 4, object)
    assert recent.get("a", 4, object) is known
    recent.get("c", 4, object)  # 12 rays would be too many
    assert len(recent) == 1
    assert recent.get("a", 4, object) is not known

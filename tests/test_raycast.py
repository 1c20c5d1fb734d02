import math
from dataclasses import replace

import pytest
import torch

from envs.raycast import Renderer
from envs.raycast.cast import primitives
from envs.raycast.planes import meet
from envs.raycast.rays import camera_rays
from envs.raycast.room import AMBIENT
from envs.raycast.stack import StackLook
from envs.rooms import draw_rooms, ring_camera, room_scene
from envs.solids import SOLIDS, Camera, RoomStage, Solids, SolidScene, StackStage
from envs.textures import SurfaceTextures
from envs.towers import draw_towers, stack_camera, tower_scene

GREY = 100
PLAIN = SurfaceTextures(*(torch.full((2, 4, 4, 3), GREY, dtype=torch.uint8) for _ in "fw"), "plain")
NOISE = SurfaceTextures(
    *torch.randint(0, 256, (2, 6, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte(),
    "noise",
)
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
GPU = pytest.mark.gpu


def looking(position, target, fovy=45.0):
    """A camera at one place that looks at another."""
    position, target = torch.tensor(position).float(), torch.tensor(target).float()
    backward = torch.nn.functional.normalize(position - target, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor([0.0, 0, 1]), backward), dim=0
    )
    up = torch.linalg.cross(backward, right)
    return Camera(position[None], torch.stack([right, up, backward], dim=-1)[None], fovy)


def scene(*solids, camera, light=0, stage=None):
    """One scene; a solid is (kind, size, position, colour, owner)."""
    solids = solids or [("sphere", (1, 1, 1), (0, 0, 0), RED, 0)]
    kind, size, position, colour, owner = zip(*solids, strict=True)
    return SolidScene(
        Solids(
            kind=torch.tensor([[SOLIDS.index(name) for name in kind]]),
            size=torch.tensor([size]).float(),
            position=torch.tensor([position]).float(),
            rotation=torch.eye(3).expand(1, len(kind), 3, 3),
            colour=torch.tensor([colour]),
            owner=torch.tensor([owner]),
        ),
        stage or StackStage(torch.tensor([0]), torch.tensor([1]), torch.tensor([light])),
        camera,
    )


def draw(*solids, textures=PLAIN, size=65, samples=1, device="cpu", **where):
    return Renderer(textures, device).render(scene(*solids, **where), size, samples, depth=True)


def grey(rendering, row=32, column=32):
    """A pixel that has to be grey; the middle one of 65 unless told."""
    red, green, blue = rendering.images[0, row, column].tolist()
    assert red == green == blue
    return red


def towers(count, crop=True):
    index = torch.arange(count)
    return tower_scene(draw_towers(index, seed=0), stack_camera(index % 16 + 1, crop))


def rooms(count):
    return room_scene(draw_rooms(0, torch.arange(count)), ring_camera(torch.arange(count) * 0.7))


# --- geometry -----------------------------------------------------------------------------------


def test_a_rendering_has_the_shapes_and_types_that_were_asked_for():
    out = Renderer(NOISE).render(towers(3), size=32, samples=2)
    assert out.images.shape == (3, 32, 32, 3)
    assert out.masks.shape == (3, 32, 32)
    assert out.depth.shape == (0, 32, 32)
    assert out.images.dtype == out.masks.dtype == torch.uint8
    assert Renderer(NOISE).render(towers(3), size=32, masks=False).masks.shape == (0, 32, 32)


def test_a_box_is_seen_where_it_is_at_its_depth_under_its_owner():
    ahead = looking((-9, 0, 1), (0, 0, 1), fovy=90)
    out = draw(("box", (1, 2, 1), (0, 0, 1), RED, 7), camera=ahead)
    # The face is 8 away; at 90 degrees half the image, 32.5 pixels, is 8 wide: 2 of 8 to the left
    # and to the right are 8.1 pixels, 1 of 8 up and down are 4.06.
    assert out.masks[0, 32].nonzero().flatten().tolist() == list(range(24, 41))
    assert out.masks[0, :, 32].nonzero().flatten().tolist() == list(range(28, 37))
    assert set(out.masks.unique().tolist()) == {0, 7}
    assert out.depth[0, 28:37, 24:41] == pytest.approx(torch.full((9, 17), 8.0))
    assert out.depth[0, 20, 32] == pytest.approx(19)  # the wall at x = 10


def test_depth_is_measured_along_the_viewing_axis():
    out = draw(camera=looking((0, 0, 6), (0, 1e-4, 0)))
    assert out.depth == pytest.approx(torch.full((1, 65, 65), 6.0), abs=1e-3)


def test_a_ball_covers_the_area_of_its_cone():
    out = draw(("sphere", (1, 1, 1), (0, 0, 2), RED, 1), camera=looking((-6, 0, 2), (0, 0, 2)))
    pixels = 32.5 / math.tan(math.radians(22.5)) * math.tan(math.asin(1 / 6))
    assert int(out.masks.sum()) == pytest.approx(math.pi * pixels**2, rel=0.02)


def test_the_nearer_solid_covers_the_farther_one_in_any_order():
    ahead = looking((-6, 0, 1), (0, 0, 1))
    near = ("box", (0.2, 0.5, 0.5), (-2, 0, 1), GREEN, 1)
    far = ("sphere", (0.4, 0.4, 0.4), (2, 0, 1), RED, 2)
    for solids in ((near, far), (far, near)):
        assert set(draw(*solids, camera=ahead).masks.unique().tolist()) == {0, 1}


def test_of_equal_solids_the_first_is_seen():
    ahead = looking((-6, 0, 1), (0, 0, 1))
    twins = [
        ("box", (0.5, 0.5, 0.5), (0, 0, 1), colour, 3 + k) for k, colour in enumerate((RED, GREEN))
    ]
    assert set(draw(*twins, camera=ahead).masks.unique().tolist()) == {0, 3}
    assert set(draw(*twins[::-1], camera=ahead).masks.unique().tolist()) == {0, 4}


def test_an_empty_slot_is_not_drawn_and_casts_no_shadow():
    down = looking((-4, 0, 4), (0, 0, 0))
    empty = draw(("box", (1, 1, 1), (0, 0, 1), RED, 0), camera=down)
    assert torch.equal(empty.images, draw(camera=down).images)


def test_several_primitives_of_one_owner_are_one_object():
    rods = [("capsule", (0.1, 0.1, 0.5), (0, y, 1), RED, 5) for y in (-0.5, 0.0, 0.5)]
    assert set(draw(*rods, camera=looking((-6, 0, 1), (0, 0, 1))).masks.unique().tolist()) == {0, 5}


def test_masks_and_depth_are_those_of_the_pixels_centres_whatever_the_samples():
    one, two, three = (
        Renderer(NOISE).render(towers(4), samples=samples, depth=True) for samples in (1, 2, 3)
    )
    for other in (two, three):
        assert torch.equal(one.masks, other.masks)
        assert torch.allclose(one.depth, other.depth, rtol=1e-5)


def test_several_rays_per_pixel_mix_the_colours_at_an_edge():
    ahead = looking((-6, 0, 1), (0, 0, 1))
    box = ("box", (0.01, 8, 8), (0, 8, 1), RED, 1)  # its edge runs through the middle column
    image = draw(box, camera=ahead, samples=2).images[0, 20].float()
    assert image[32] == pytest.approx((image[31] + image[33]) / 2, abs=1)
    assert (image[31] - image[33]).abs().max() > 40


# --- ShapeStacks light, with textures of level 100 ----------------------------------------------


def test_the_floor_is_its_texture_in_shadow_and_more_in_the_light():
    camera = looking((-5, 0, 7), (0, 0, 0))
    ball = ("sphere", (0.5, 0.5, 0.5), (0, 0, 1.5), RED, 1)
    middle = scene(ball, camera=camera)
    out = Renderer(PLAIN).render(middle, size=65, samples=1)
    floor = out.masks[0] == 0
    levels = out.images[0][floor][:, 0]
    assert int(levels.min()) == GREY
    assert int(levels.mode().values) == pytest.approx(1.7 * GREY, abs=2)
    # The shadow is the disc below the ball, .5 wide: seen at the depth of the floor.
    assert (levels == GREY).sum() > 20


def test_other_lights_cast_shadows_to_their_side():
    """Light 3 is above (9, 9): shadows fall towards (-9, -9)."""
    above = looking((0, -0.01, 8), (0, 0, 0), fovy=60)
    out = draw(("box", (0.3, 0.3, 0.3), (0, 0, 0.3), RED, 1), camera=above, light=3)
    # y is up and x is to the right in the image; .4 units are 2.8 pixels.
    assert grey(out, 32 + 3, 32 - 3) == GREY
    assert grey(out, 32 - 3, 32 + 3) > 1.5 * GREY


def test_a_wall_shadows_the_floor_before_it():
    far = looking((-6, -6, 9), (-6, -5.9, 0), fovy=20)
    near = looking((6, -6, 9), (6, -5.9, 0), fovy=20)
    assert grey(draw(camera=far, light=3)) == pytest.approx(GREY * (1 + 0.7 * 0.8436), abs=1)
    assert grey(draw(camera=near, light=3)) == GREY
    assert grey(draw(camera=near, light=1)) > 1.5 * GREY


def test_the_shadow_map_does_not_see_what_is_nearer_to_the_light_than_its_near_plane():
    camera = looking((-5, 0, 7), (0, 0, 0))
    plate = (0.5, 0.5, 0.05)
    for height, level in ((19.4, GREY), (19.9, 1.7 * GREY)):
        out = draw(("box", plate, (0, 0, height), RED, 1), camera=camera)
        assert grey(out) == pytest.approx(level, abs=2)


def test_a_wall_gets_light_from_two_corners():
    """Each gives .7 times .3796, whichever of the lights casts shadows."""
    ahead = looking((0, 0, 8), (10, 0, 8))
    for light in range(5):
        assert grey(draw(camera=ahead, light=light)) == pytest.approx(53, abs=1)


def test_the_sky_fades_from_the_zenith_to_the_nadir():
    level = draw(camera=looking((5, 5, 9), (-5, -5, 9)))
    assert level.images[0, 32, 32].tolist() == [51, 77, 102]
    assert level.depth[0, 32, 32] == math.inf
    up = draw(camera=looking((-9, -9, 5), (-9.001, -9, 50)))
    assert up.images[0, 32, 32].tolist() == [102, 153, 204]


def test_light_on_planes_is_the_general_formula_with_its_constants_worked_out():
    scenes = towers(32)
    look = StackLook(scenes.stage)
    rays = camera_rays(scenes.camera, 16, 1, slice(None))
    hits = meet(look.planes, look.box, rays)
    for dark in (torch.zeros(32, 256, dtype=torch.bool), torch.ones(32, 256, dtype=torch.bool)):
        in_shadow, rest = look.on_planes(hits, rays)
        light = in_shadow + rest * ~dark
        assert light.max() > 0.99
        every = torch.arange(32).repeat_interleave(256)
        normals = torch.tensor([[0.0, 0, 1], [0, -1, 0], [-1, 0, 0]]).t()[:, hits.plane.flatten()]
        view = (-rays.direction / rays.length).flatten(1)
        white = torch.ones(3, 32 * 256)
        general = look.on_solids(white, normals, white, view, every, dark.flatten())
        shown = ~hits.sky.flatten()
        # The general one ends with a clamp, as there is no texture to come.
        assert torch.allclose(light.flatten().clamp(max=1)[shown], general[0][shown], atol=1e-5)


# --- the GQN room -------------------------------------------------------------------------------


def room(*solids, angle=0.3, light=(0.0, 0.0, 4.0)):
    stage = RoomStage(torch.tensor([0]), torch.tensor([1]), torch.tensor([light]))
    return draw(*solids, camera=ring_camera(torch.tensor([angle])), stage=stage)


def test_a_camera_in_a_wall_sees_the_opposite_one_under_a_plain_sky():
    out = room(angle=0.0)
    assert out.depth[0, 30, 32] == pytest.approx(7)
    assert out.images[0, 0, 32].tolist() == [154, 226, 250]
    assert out.depth[0, 0, 32] == math.inf
    # The upper edge is 1.25 above the camera: 12.4 pixels above the middle, 7 away.
    assert out.depth[0, :, 32].isinf().sum() == 20


def test_the_lamp_casts_shadows():
    ball = ("sphere", (0.3, 0.3, 0.3), (0, 0, 0.8), RED, 1)
    lit, shaded = room(), room(ball)
    changed = (lit.images != shaded.images).any(-1)[0] & (shaded.masks[0] == 0)
    rows = changed.nonzero()[:, 0]
    assert 5 < changed.sum() < 200
    assert rows.min() > 36  # below the horizon
    level = shaded.images[0][changed][:, 0].float().mean()
    assert level == pytest.approx(AMBIENT * GREY, abs=3)


@pytest.mark.parametrize("kind", SOLIDS)
def test_every_shape_is_drawn_in_the_room(kind):
    out = room((kind, (0.3, 0.3, 0.4), (0, 0, 0.4), GREEN, 1))
    seen = out.masks[0] == 1
    assert 80 < seen.sum() < 300
    assert out.images[0][seen][:, 1].float().min() > 100
    assert out.images[0][seen][:, 0].max() == 0


# --- batches, chunks, devices, mistakes ---------------------------------------------------------


@pytest.mark.parametrize("make", [towers, rooms])
def test_a_scene_looks_the_same_in_every_batch_and_in_every_chunk(make):
    scenes = make(5)

    def rendered(part, rays=None, size=32):
        return Renderer(NOISE, rays_per_chunk=rays).render(part, size, samples=2, depth=True)

    whole = rendered(scenes)
    turned = rendered(scenes[torch.arange(4, -1, -1)])
    for together, backwards, alone in zip(whole, turned, rendered(scenes[3:4]), strict=True):
        assert torch.equal(together, backwards.flip(0))
        assert torch.equal(together[3:4], alone)
    for size, rays in ((3, 1), (32, 1000), (32, 10_000)):  # one ray, part of an image, two images
        for piece, all_in_one in zip(
            rendered(scenes, rays, size), rendered(scenes, size=size), strict=True
        ):
            assert torch.equal(piece, all_in_one)


def test_scenes_without_any_solid_or_without_any_scene_are_drawn():
    out = Renderer(PLAIN).render(scene(camera=looking((-6, 0, 1), (0, 0, 1))))
    assert out.masks.sum() == 0
    assert Renderer(PLAIN).render(towers(4)[:0]).images.shape == (0, 64, 64, 3)


def test_mistakes_are_named():
    renderer = Renderer(PLAIN)
    with pytest.raises(ValueError, match="samples must be 1, 2 or 3"):
        renderer.render(towers(1), samples=4)
    with pytest.raises(ValueError, match="floor textures must be numbers from 0 to 1"):
        renderer.render(towers(20))
    with pytest.raises(ValueError, match="rays_per_chunk must be at least 1"):
        Renderer(PLAIN, rays_per_chunk=0)
    with pytest.raises(ValueError, match="need Triton and a CUDA device, got cpu"):
        Renderer(PLAIN, fused=True)


def test_primitives_are_listed_by_kind_without_empty_slots():
    ball, box = SOLIDS.index("sphere"), SOLIDS.index("box")
    solids = replace(towers(2).solids, kind=torch.tensor([[box, ball, box, box, box, ball]] * 2))
    owner = torch.tensor([[1, 2, 3, 0, 0, 4], [1, 0, 0, 0, 0, 0]])
    there = primitives(replace(solids, owner=owner)).there
    assert there.tolist() == [1, 5, 0, 2, 6]


@GPU
@pytest.mark.parametrize("make", [towers, rooms])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("fused", [True, False])
def test_cuda_draws_what_the_cpu_draws(make, samples, fused):
    scenes = make(64)
    cpu = Renderer(NOISE).render(scenes, samples=samples, depth=True)
    renderer = Renderer(NOISE, "cuda", fused=fused)
    cuda = [x.cpu() for x in renderer.render(scenes, samples=samples, depth=True)]
    difference = (cpu.images.int() - cuda[0].int()).abs()
    assert (difference <= 1).float().mean() >= 0.999
    assert (cpu.masks == cuda[1]).float().mean() >= 0.9999
    assert torch.isclose(cpu.depth, cuda[2], rtol=1e-4).float().mean() >= 0.999


@GPU
@pytest.mark.parametrize("kind", SOLIDS)
@pytest.mark.parametrize("fused", [True, False])
def test_cuda_knows_every_shape(kind, fused):
    solid = (kind, (0.3, 0.3, 0.4), (0.2, 0.1, 0.4), GREEN, 1)
    scenes = scene(solid, camera=looking((-3, 1, 2), (0, 0, 0.4)), light=1)
    cpu = Renderer(PLAIN).render(scenes, 65, 1)
    cuda = Renderer(PLAIN, "cuda", fused=fused).render(scenes, 65, 1)
    assert (cpu.masks == cuda.masks.cpu()).float().mean() >= 0.999
    difference = (cpu.images.int() - cuda.images.cpu().int()).abs()
    assert (difference <= 1).float().mean() >= 0.999


@GPU
@pytest.mark.parametrize("fused", [True, False])
def test_cuda_draws_any_number_of_scenes_of_any_size(fused):
    renderer = Renderer(NOISE, "cuda", fused=fused)
    for scenes, size, samples in ((towers(3), 19, 2), (rooms(3), 7, 3), (rooms(1), 1, 1)):
        cpu = Renderer(NOISE).render(scenes, size, samples, depth=True)
        cuda = renderer.render(scenes, size, samples, depth=True)
        assert (cpu.images.int() - cuda.images.cpu().int()).abs().float().mean() < 0.5
        assert (cpu.masks != cuda.masks.cpu()).sum() <= 1
    assert renderer.render(towers(3)[:0], 8).images.shape == (0, 8, 8, 3)

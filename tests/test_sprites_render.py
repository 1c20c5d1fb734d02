import numpy as np
import pytest
import torch

from envs.scene import (
    NUM_DSPRITES,
    SHAPES,
    SpriteFactors,
    SpriteScene,
    dsprites_factors,
    dsprites_index,
    dsprites_scene,
)
from envs.sprites_render import render_sprites

SQUARE, ELLIPSE, HEART = range(3)
BLACK, RED, BLUE = (0, 0, 0), (255, 0, 0), (0, 0, 255)


def scene(*sprites, background=BLACK):
    """One scene; a sprite is (shape, scale, degrees, (x, y) in pixels of 64, colour)."""
    shape, scale, degrees, centre, colour = zip(*sprites, strict=True)
    angle = torch.deg2rad(torch.tensor([degrees], dtype=torch.float32))
    return SpriteScene(
        shape=torch.tensor([shape]),
        scale=torch.tensor([scale], dtype=torch.float32),
        turn=torch.stack([angle.cos(), angle.sin()], dim=-1),
        centre=torch.tensor([centre], dtype=torch.float32) / 64,
        colour=torch.tensor([colour], dtype=torch.uint8),
        background=torch.tensor([background], dtype=torch.uint8),
    )


def random_scenes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return dsprites_scene(
        torch.randint(0, NUM_DSPRITES, (count, 4), generator=generator),
        torch.randint(0, 256, (count, 4, 3), generator=generator, dtype=torch.uint8),
        torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8),
        torch.rand(count, 4, generator=generator) < 0.7,
    )


def test_a_square_is_red_inside_and_background_outside():
    frames = render_sprites(scene((SQUARE, 0.5, 0, (32, 32), RED), background=BLUE))
    assert frames.images.shape == (1, 64, 64, 3)
    assert frames.images.dtype == frames.masks.dtype == torch.uint8
    image = frames.images[0].tolist()
    # Half the side is 4.8, so pixels 27 to 36 have their middle inside.
    assert image[27][27] == image[32][32] == image[36][36] == list(RED)
    assert image[26][32] == image[32][26] == image[37][32] == image[32][37] == list(BLUE)
    assert frames.masks.sum() == 100


@pytest.mark.parametrize(("scale", "side"), list(enumerate((10, 12, 14, 16, 18, 20))))
def test_unrotated_squares_have_the_areas_of_dsprites(scale, side):
    factors = SpriteFactors(*(torch.tensor([[x]]) for x in (SQUARE, scale, 0, 0, 0)))
    colour = torch.zeros(1, 1, 3, dtype=torch.uint8)
    frames = render_sprites(dsprites_scene(dsprites_index(factors), colour, colour[0]))
    assert frames.masks.sum() == side * side


def test_the_later_sprite_covers_the_earlier_one():
    sprites = [(SQUARE, 1, 0, (24, 32), RED), (SQUARE, 1, 0, (40, 32), BLUE)]
    for order in (sprites, sprites[::-1]):
        frames = render_sprites(scene(*order))
        assert frames.images[0, 32, 32].tolist() == list(order[1][4])
        assert frames.masks[0, 32, 32] == 2
        assert frames.masks[0, 32, 16] == 1 + order.index(sprites[0])


def test_a_sprite_of_scale_zero_is_not_there_but_keeps_its_number():
    frames = render_sprites(scene((SQUARE, 0, 0, (32.5, 32.5), RED), (HEART, 1, 0, (32, 32), BLUE)))
    assert set(frames.masks.unique().tolist()) == {0, 2}


def test_the_ellipse_lies_on_its_side_and_turns_counter_clockwise():
    flat, turned, upright = (
        render_sprites(scene((ELLIPSE, 1, degrees, (32, 32), RED))).masks[0].bool()
        for degrees in (0, 45, 90)
    )
    assert (flat.any(0).sum(), flat.any(1).sum()) == (26, 14)
    assert torch.equal(upright, flat.T)
    assert turned[32 - 7, 32 + 7]
    assert not turned[32 - 7, 32 - 7]


def test_the_heart_has_its_lobes_up():
    mask = render_sprites(scene((HEART, 1, 0, (32, 32), RED))).masks[0].bool()
    rows = torch.nonzero(mask.any(1)).flatten()
    top, bottom = mask[rows[0]], mask[rows[-1]]
    assert not top[31:33].any()  # the notch
    assert top[:31].any()
    assert top[33:].any()
    assert bottom[31:33].all()
    assert bottom.sum() == 2  # the tip
    assert torch.equal(mask, mask.flip(1))


def outline(shape):
    t = 2 * np.pi * np.arange(200) / 200
    if shape == SQUARE:
        return np.array([(-9.6, -9.6), (9.6, -9.6), (9.6, 9.6), (-9.6, 9.6)])
    if shape == ELLIPSE:
        t = 2 * np.pi * np.arange(2000) / 2000
        return np.stack([12.76 * np.cos(t), 7.22 * np.sin(t)], 1)
    v = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([9.6 * np.sin(t) ** 3, -0.662 * v - 1.44], 1)


def inside(points, polygon):
    """By counting the edges that a ray to the right crosses: no table, no symmetry, float64."""
    x, y = points[..., None, 0], points[..., None, 1]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    slope = np.divide(x1 - x0, y1 - y0, out=np.zeros_like(x0), where=y1 != y0)
    crosses = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * slope)
    return crosses.sum(-1) % 2 == 1


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_agrees_with_the_outline_drawn_the_slow_way(shape):
    wrong = 0
    rng = np.random.default_rng(shape)
    for _ in range(12):
        scale, degrees, centre = rng.uniform(0.5, 1), rng.uniform(0, 360), rng.uniform(16, 48, 2)
        frames = render_sprites(scene((shape, scale, degrees, tuple(centre), RED)))
        y, x = np.mgrid[:64, :64] + 0.5
        dx, dy, angle = x - centre[0], y - centre[1], np.deg2rad(degrees)
        u = np.cos(angle) * dx - np.sin(angle) * dy
        v = np.sin(angle) * dx + np.cos(angle) * dy
        expected = inside(np.stack([u, v], -1) / scale, outline(shape))
        wrong += (expected != (frames.masks[0].numpy() > 0)).sum()
    assert wrong <= 1  # of some 2,000: a pixel on the very edge may fall to either side


def test_a_scene_scales_with_the_image():
    whole = random_scenes(16)
    small, large = (render_sprites(whole, size).masks for size in (32, 128))
    assert small.shape == (16, 32, 32)
    # A pixel of the small image is the middle of 4 x 4 of the large one.
    agree = (small == large[:, 2::4, 2::4]).float().mean()
    assert agree > 0.98


def test_a_sprite_that_leaves_the_frame_is_cut_off():
    frames = render_sprites(scene((SQUARE, 1, 0, (0, 64), RED)))
    mask = frames.masks[0].bool()
    assert mask.sum() == 10 * 10
    assert mask[54:, :10].all()


def test_a_scene_looks_the_same_in_any_batch():
    scenes = random_scenes(150)
    together = render_sprites(scenes)
    for row in (0, 63, 64, 149):
        alone = render_sprites(scenes[row : row + 1])
        assert torch.equal(alone.images[0], together.images[row])
        assert torch.equal(alone.masks[0], together.masks[row])


def test_a_tight_bound_on_the_scale_changes_nothing():
    sprites = [(HEART, 0.5, 30, (20, 40), RED), (SQUARE, 0.5, 45, (40, 20), BLUE)]
    loose, tight = (render_sprites(scene(*sprites), 64, bound) for bound in (1.0, 0.5))
    assert torch.equal(loose.images, tight.images)


def test_factors_and_index_are_each_others_inverse():
    index = torch.arange(0, NUM_DSPRITES, 97)
    factors = dsprites_factors(index)
    assert torch.equal(dsprites_index(factors), index)
    strides = torch.tensor([245_760, 40_960, 1_024, 32, 1])
    assert torch.equal((torch.stack(factors, -1) * strides).sum(-1), index)
    last = dsprites_factors(torch.tensor(NUM_DSPRITES - 1))
    assert [int(x) for x in last] == [2, 5, 39, 31, 31]


def test_x_goes_right_and_y_goes_down():
    colour = torch.zeros(1, 1, 3, dtype=torch.uint8)
    for index, centre in ((0, (16, 16)), (31, (16, 48)), (31 * 32, (48, 16))):
        sprite = dsprites_scene(torch.tensor([[index]]), colour, colour[0])
        assert (sprite.centre[0, 0] * 64).tolist() == list(centre)


def test_factors_of_a_scene_are_numbers_between_zero_and_one():
    one = scene((ELLIPSE, 0.5, 0, (16, 48), RED))
    assert one.factors()[0, 0].tolist() == [0.25, 0.75, 1, 0, 0, 0, 1, 0]


def test_tables_made_in_inference_mode_serve_outside_it():
    with torch.inference_mode():
        inside_mode = render_sprites(random_scenes(2), 48)
    assert torch.equal(inside_mode.images.clone(), render_sprites(random_scenes(2), 48).images)


@pytest.mark.gpu
def test_cpu_and_cuda_agree_to_the_last_bit():
    scenes = random_scenes(5000)
    cuda = SpriteScene(*(getattr(scenes, name).cuda() for name in scenes.__dataclass_fields__))
    for ours, theirs in zip(render_sprites(scenes), render_sprites(cuda), strict=True):
        assert torch.equal(ours, theirs.cpu())

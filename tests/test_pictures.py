"""Pictures show frame, reconstruction, overlay, masks and components."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.reliability_wrappers import KINDS, Scribble, laid_out
from genesis_rl import (
    GenesisEncoder,
    GenesisObsWrapper,
    GenesisVecEnvWrapper,
    GenesisVectorObsWrapper,
    render_slots,
)
from genesis_rl.models.genesis import Decomposition
from genesis_rl.pictures import PALETTE, decomposition_picture, slot_colours, tile
from toys import mean_colour, tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("pictures"))


def two_halves():
    """A black image whose left half is slot 1 and whose right half is slot 2, both drawn white."""
    masks = torch.zeros(1, 2, 1, 4, 4)
    masks[0, 0, :, :, :2] = masks[0, 1, :, :, 2:] = 1
    output = Decomposition(masks.log(), torch.ones(1, 2, 3, 4, 4), torch.zeros(1, 2, 80))
    return torch.zeros(1, 3, 4, 4), output


def test_views_come_in_the_documented_order():
    images, output = two_halves()
    picture = decomposition_picture(images, output, gap=0)
    assert picture.shape == (4, 7 * 4, 3)
    assert picture.dtype == np.uint8
    frame, reconstruction, overlay, left, right, one, two = np.split(picture, 7, axis=1)
    assert (frame == 0).all()
    assert (reconstruction == 255).all()
    tints = 0.6 * np.array(slot_colours(2))
    np.testing.assert_allclose(overlay[0, 0], tints[0], atol=1)
    np.testing.assert_allclose(overlay[0, 3], tints[1], atol=1)
    assert left[0, 0].tolist() == list(PALETTE[0])
    assert left[0, 3].tolist() == [255, 255, 255]
    assert right[0, 3].tolist() == list(PALETTE[1])
    assert (one == 255).all()
    assert (two == 255).all()


def test_scale_and_gap_only_make_it_larger():
    images, output = two_halves()
    plain = decomposition_picture(images, output, gap=0)
    large = decomposition_picture(images, output, scale=3, gap=0)
    np.testing.assert_array_equal(large[::3, ::3], plain)
    assert decomposition_picture(images, output, gap=2).shape == (4 + 4, 7 * (4 + 2) + 2, 3)


def test_rows_are_images():
    views = np.arange(2 * 3, dtype=np.uint8)[:, None].reshape(2, 3, 1, 1, 1).repeat(3, axis=4)
    assert tile(views, gap=0)[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_every_slot_has_a_colour_of_its_own():
    colours = slot_colours(20)
    assert len(set(colours)) == 20
    assert all(0 <= level <= 255 for colour in colours for level in colour)


@pytest.mark.parametrize("kind", KINDS)
def test_any_frame_can_be_drawn(kind, checkpoint):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    picture = render_slots(laid_out(pixels, kind), checkpoint, scale=1)
    assert picture.shape == (32 + 4, 9 * 34 + 2, 3)


def test_checkpoint_encoder_and_model_draw_the_same(checkpoint):
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = render_slots(frame, checkpoint)
    np.testing.assert_array_equal(picture, render_slots(frame, tiny_model()))
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cpu")
    np.testing.assert_array_equal(picture, render_slots(frame, encoder))


def test_a_model_in_training_is_not_drawn():
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        render_slots(np.zeros((32, 32, 3), np.uint8), tiny_model().train())


def test_wrappers_draw_their_last_frame(checkpoint):
    single = GenesisObsWrapper(Scribble(), checkpoint, device="cpu")
    vector = GenesisVectorObsWrapper(SyncVectorEnv([Scribble] * 2), checkpoint, device="cpu")
    venv = GenesisVecEnvWrapper(DummyVecEnv([Scribble] * 2), checkpoint, device="cpu")
    single.reset(seed=1)
    vector.reset(seed=0)
    venv.seed(0)
    venv.reset()
    picture = render_slots(single.unwrapped.pixels[..., :3], checkpoint)
    np.testing.assert_array_equal(single.render_slots(), picture)
    np.testing.assert_array_equal(vector.render_slots(1), picture)
    np.testing.assert_array_equal(venv.render_slots(1), picture)


def test_there_is_nothing_to_draw_before_the_first_reset(checkpoint):
    env = GenesisObsWrapper(Scribble(), checkpoint, device="cpu")
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.render_slots()


def test_only_genesis_can_be_drawn():
    mean_colour()
    env = GenesisObsWrapper(Scribble(), "mean_colour")
    env.reset()
    with pytest.raises(TypeError, match="MeanColour"):
        env.render_slots()


def test_pictures_make_a_video(checkpoint, tmp_path):
    class Overlay(gym.Wrapper):
        def render(self):
            return self.get_wrapper_attr("render_slots")()

    env = GenesisObsWrapper(Scribble(render_mode="rgb_array"), checkpoint, device="cpu")
    env = gym.wrappers.RenderCollection(Overlay(env))
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    frames = env.render()
    assert len({frame.shape for frame in frames}) == 1
    assert len(frames) == 4

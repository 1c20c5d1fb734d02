"""What an observation holds: layouts by hand, bounds, frames of every kind.

Numbers of checks are those of the wrapper contract.
"""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from benchmarks.reliability_wrappers import laid_out
from genesis_rl import GenesisEncoder, GenesisObsWrapper, GenesisVectorObsWrapper, save_checkpoint
from toys import (
    Counter,
    Scribble,
    gpu,
    mean_colour,
    rollout,
    tiny_checkpoint,
    tiny_model,
    wrapped,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("observation"))


# --- layouts, by hand ----------------------------------------------------------------------------


def seen_through(options, red, green, blue):
    """What is observed of a frame of one colour; `MeanColour` has M = 2, C = 1 and K = 2."""
    mean_colour()
    env = Counter()
    env._frame = lambda: np.full((8, 8, 3), [red, green, blue], np.uint8)
    env = GenesisObsWrapper(env, "mean_colour", **options)
    observation = env.reset()[0]
    assert observation in env.observation_space
    return observation


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 0.2, 0.4, 1, 0.2, 0.4]),
        ({"layout": "slots"}, [[1, 0.2, 0.4], [1, 0.2, 0.4]]),
        ({"latents": "mask"}, [1, 0.2, 1, 0.2]),
        ({"latents": "component"}, [0.4, 0.4]),
        ({"parity": "official"}, [1, 0.2, 0.4, 0.4]),
        ({"parity": "official", "latents": "mask"}, [1, 0.2]),
        ({"clip": 0.3}, [0.3, 0.2, 0.3, 0.3, 0.2, 0.3]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*clipped")
def test_latents_are_laid_out_as_documented(options, expected):
    np.testing.assert_allclose(seen_through(options, 255, 51, 102), expected, rtol=1e-6)


def test_the_dict_layout_has_one_entry_for_where_and_one_for_what():
    observation = seen_through({"layout": "dict"}, 255, 51, 102)
    assert list(observation) == ["component", "mask"] or list(observation) == ["mask", "component"]
    np.testing.assert_allclose(observation["mask"], [[1, 0.2], [1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(observation["component"], [[0.4], [0.4]], rtol=1e-6)
    official = seen_through({"layout": "dict", "parity": "official"}, 255, 51, 102)
    assert official["mask"].shape == (1, 2)
    assert official["component"].shape == (2, 1)


@pytest.mark.parametrize(
    ("slots", "flat", "official"), [(5, 400, 336), (7, 560, 496), (9, 720, 656)]
)
def test_sizes_are_those_of_the_paper(tmp_path, slots, flat, official):  # check 24
    path = tiny_checkpoint(tmp_path, num_slots=slots, width=4)
    assert wrapped(path).observation_space.shape == (flat,)
    env = wrapped(path, parity="official")
    assert env.observation_space.shape == (official,)
    assert env.reset()[0] in env.observation_space
    assert wrapped(path, layout="slots").observation_space.shape == (slots, 80)


def test_official_features_are_mask_latents_first_without_the_last(checkpoint):  # check 24
    slots = wrapped(checkpoint, layout="slots").reset(seed=0)[0]
    official = wrapped(checkpoint, parity="official").reset(seed=0)[0]
    expected = np.concatenate([slots[:-1, :64].ravel(), slots[:, 64:].ravel()])
    np.testing.assert_array_equal(official, expected)


def test_official_features_of_genesis_s_are_all_of_its_latents(tmp_path):  # check 24
    from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig

    torch.manual_seed(0)
    model = GenesisS(GenesisSConfig(num_slots=9, image_size=32, width=4))
    path = str(save_checkpoint(tmp_path / "genesis_s", model))
    ours, official = wrapped(path).reset(seed=0)[0], wrapped(path, parity="official")
    assert official.observation_space.shape == (576,)
    np.testing.assert_array_equal(official.reset(seed=0)[0], ours)


def test_mask_latents_alone_are_those_of_the_whole(checkpoint):
    whole = wrapped(checkpoint, layout="slots").reset(seed=0)[0]
    masks = wrapped(checkpoint, layout="slots", latents="mask").reset(seed=0)[0]
    np.testing.assert_allclose(masks, whole[:, :64], atol=1e-6)


def test_spaces_are_a_function_of_sizes_and_options(tmp_path, checkpoint):  # check 17
    other = tiny_checkpoint(tmp_path, seed=1)
    for options in ({}, {"layout": "dict"}, {"dtype": "float16"}, {"clip": 3.0}):
        space = wrapped(checkpoint, **options).observation_space
        assert space == wrapped(other, **options).observation_space
    assert wrapped(checkpoint).observation_space == spaces.Box(-10, 10, (240,), np.float32)


# --- check 17: always in the space ---------------------------------------------------------------


def extreme_frames():
    checkerboard = np.indices((32, 32)).sum(axis=0) % 2 * 255
    return {
        "black": np.zeros((32, 32, 3), np.uint8),
        "white": np.full((32, 32, 3), 255, np.uint8),
        "checkerboard": np.repeat(checkerboard[..., None], 3, axis=2).astype(np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8),
    }


@pytest.mark.parametrize("name", ["black", "white", "checkerboard", "noise"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extreme_frames_stay_in_the_space(checkpoint, name, dtype):
    env = wrapped(checkpoint, dtype=dtype)
    latents = env.observation(extreme_frames()[name])
    assert latents in env.observation_space
    assert latents.dtype == dtype


def random_frames_stay_in_the_space(path, frames, device):
    size = GenesisEncoder.from_checkpoint(path, device=device).image_size
    envs = GenesisVectorObsWrapper(
        SyncVectorEnv([lambda: Scribble(size=(size, size))] * 2), path, device=device, clip=0.1
    )
    generator, batch = np.random.default_rng(0), min(frames, 1024)
    outside, encoded = 0, 0
    while encoded < frames:
        images = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        latents = envs._observer(images)
        outside += int(np.count_nonzero(np.abs(latents) >= np.float32(0.1)))
        assert np.abs(latents).max() <= np.float32(0.1)
        assert np.isfinite(latents).all()
        encoded += batch
    assert envs.num_encoded == encoded
    # Values on the bound without having been clipped are too rare to count.
    assert abs(envs.num_clipped - outside) <= 2


@pytest.mark.filterwarnings("ignore:.*clipped")
def test_random_frames_stay_in_the_space_and_clipping_is_counted(checkpoint):
    random_frames_stay_in_the_space(checkpoint, 2000, "cpu")


@gpu
@pytest.mark.filterwarnings("ignore:.*clipped")
def test_100_000_random_frames_stay_in_the_space(tmp_path):
    path = tiny_checkpoint(tmp_path, num_slots=5, image_size=64, width=32)
    random_frames_stay_in_the_space(path, 100_000, "cuda")


def test_the_first_clipping_is_a_warning_and_all_of_it_is_counted():
    mean_colour()
    env = GenesisObsWrapper(Counter(length=9), "mean_colour", clip=1.5 / 255)
    env.reset()
    env.step(0)
    assert env.num_clipped == 0
    with pytest.warns(UserWarning, match=r"clipped 6 of 6 latent values .* only counted"):
        env.step(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(0)
    assert env.num_clipped == 12


def test_latents_that_are_not_numbers_are_an_error():
    encoder = mean_colour()
    encoder.encode = lambda images, noise=None: torch.full((len(images), 2, 3), float("nan"))
    env = GenesisObsWrapper(Counter(), "mean_colour")
    with pytest.raises(FloatingPointError, match="NaN"):
        env.reset()


# --- check 18: whatever the frame looks like ------------------------------------------------------


@pytest.mark.parametrize("kind", ["chw", "float", "opaque"])
def test_layouts_of_the_same_frame_have_identical_latents(checkpoint, kind):
    plain, other = wrapped(checkpoint), wrapped(checkpoint, f"toys/Scribble_{kind}-v0")
    np.testing.assert_array_equal(rollout(plain)[0], rollout(other)[0])


def test_a_frame_of_another_size_is_resized(checkpoint):
    env = GenesisObsWrapper(Scribble(size=(64, 64)), checkpoint, device="cpu")
    large = np.kron(extreme_frames()["noise"], np.ones((2, 2, 1), np.uint8))
    small = wrapped(checkpoint).observation(extreme_frames()["noise"])
    np.testing.assert_array_equal(env.observation(large), small)


def test_environments_without_frames_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"GenesisObsWrapper needs frames .*Box.*AddRender"):
        GenesisObsWrapper(gym.make("CartPole-v1"), checkpoint)


def test_an_environment_that_only_renders_can_be_wrapped(checkpoint):
    env = gym.wrappers.AddRenderObservation(Scribble(render_mode="rgb_array"), render_only=True)
    GenesisObsWrapper(env, checkpoint, device="cpu").reset()


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("dict", r"Pick the entry that holds the frame \(of \['frame'\]\), .*TransformObservation"),
        ("tuple", "so that it returns one frame at a time"),
    ],
)
def test_compound_observations_are_refused_with_the_way_out(checkpoint, kind, advice):
    env = Scribble()
    frame = env.observation_space
    env.observation_space = spaces.Dict(frame=frame) if kind == "dict" else spaces.Tuple([frame])
    for wrap in (
        lambda: GenesisObsWrapper(env, checkpoint),
        lambda: GenesisVectorObsWrapper(SyncVectorEnv([lambda: env]), checkpoint),
    ):
        with pytest.raises(ValueError, match=rf"(?s)ObsWrapper needs frames .*{advice}"):
            wrap()


def test_frames_that_change_in_size_are_refused(checkpoint):
    env = Scribble()
    env._draw = lambda action: np.zeros((32 + env.time, 32, 3), np.uint8)
    wrapped_env = GenesisObsWrapper(env, checkpoint, device="cpu")
    wrapped_env.reset()
    with pytest.raises(ValueError, match=r"announced frames \[32, 32, 3\] .* got \[33, 32, 3\]"):
        wrapped_env.step(0)


def test_frames_outside_the_announced_range_are_refused(checkpoint):
    env = Scribble(kind="float")
    env._draw = lambda action: np.full((32, 32, 3), 255, np.float32)
    with pytest.raises(ValueError, match=r"GenesisObsWrapper: float frames must lie in \[0, 1\]"):
        GenesisObsWrapper(env, checkpoint, device="cpu").reset()


# --- check 24: the same vector everywhere --------------------------------------------------------


def test_wrapper_and_model_say_the_same(checkpoint):
    frame = extreme_frames()["noise"]
    with torch.no_grad():
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        expected = tiny_model().encode(image)[0].flatten()
    latents = wrapped(checkpoint).observation(frame)
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    grey = laid_out(np.repeat(frame[..., :1], 4, axis=-1), "grey")
    grey_env = wrapped(checkpoint, "toys/Scribble_grey-v0")
    np.testing.assert_array_equal(
        grey_env.observation(grey), wrapped(checkpoint).observation(grey.repeat(3, axis=-1))
    )

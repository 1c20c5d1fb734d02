"""`GenesisObsWrapper` is indistinguishable from a good environment, and says what it needs.

Numbers of checks are those of the wrapper contract.
"""

import json
import pickle
import random
import warnings
from pathlib import Path

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper, GenesisVectorObsWrapper
from toys import (
    KINDS,
    Counter,
    Scribble,
    gpu,
    mean_colour,
    rollout,
    tiny_checkpoint,
    tiny_model,
    wrapped,
)

SPRITES = "envs:GenesisRL/SpriteGoal-v0"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("observation"))


# --- check 1: both libraries' checkers ------------------------------------------------------------


@pytest.mark.parametrize("env_id", [*(f"toys/Scribble_{kind}-v0" for kind in KINDS), SPRITES])
def test_gymnasium_accepts_it(checkpoint, env_id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(wrapped(checkpoint, env_id))
    # The one warning says that the environment is wrapped, which cannot be helped.
    assert len(caught) == 1
    assert "different from the unwrapped version" in str(caught[0].message)


@pytest.mark.parametrize("env_id", [*(f"toys/Scribble_{kind}-v0" for kind in KINDS), SPRITES])
def test_stable_baselines_accepts_it(checkpoint, env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(wrapped(checkpoint, env_id))


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "slots"},
        {"layout": "dict"},
        {"dtype": "float16"},
        {"stochastic": True},
        {"parity": "official"},
        {"clip": 0.25},
    ],
    ids=str,
)
def test_gymnasium_accepts_every_option(checkpoint, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(wrapped(checkpoint, **options))
    unexpected = [str(w.message) for w in caught if "from the unwrapped" not in str(w.message)]
    assert all("clipped" in message for message in unexpected), unexpected


# --- check 2: specs ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"layout": "dict", "latents": "mask"}], ids=str)
def test_a_spec_survives_json_and_gives_the_same_latents(checkpoint, options):
    env = wrapped(checkpoint, **options)
    text = env.spec.to_json()
    again = gym.make(EnvSpec.from_json(text))
    recorded = json.loads(text)["additional_wrappers"][0]["kwargs"]
    assert recorded["checkpoint"] == checkpoint
    assert all(recorded[name] == value for name, value in options.items())
    for a, b in zip(rollout(env)[0], rollout(again)[0], strict=True):
        np.testing.assert_equal(a, b)


def test_it_pickles(checkpoint):
    env = GenesisObsWrapper(Scribble(), checkpoint, device="cpu", stochastic=True)
    expected = rollout(env)[0]
    for again in (pickle.loads(pickle.dumps(env)), cloudpickle.loads(cloudpickle.dumps(env))):
        assert again._observer.encoder is env._observer.encoder
        np.testing.assert_equal(rollout(again)[0], expected)
    assert len(cloudpickle.dumps(env)) < 100_000


# --- check 3: one encoder ------------------------------------------------------------------------


def test_64_environments_share_one_encoder(checkpoint):
    environments = [wrapped(checkpoint) for _ in range(64)]
    for env in environments:
        outer = gym.wrappers.RecordEpisodeStatistics(
            gym.wrappers.TimeLimit(gym.wrappers.ClipReward(env, 0, 1), 9)
        )
        assert outer.spec is not None
        outer.spec.to_json()
    assert len({id(env._observer.encoder) for env in environments}) == 1


@gpu
def test_64_environments_need_the_memory_of_one(checkpoint):
    environments = [wrapped(checkpoint, device="cuda") for _ in range(64)]
    for _ in range(3):
        environments[0].reset()
    before = torch.cuda.memory_allocated()
    for env in environments:
        env.reset()
        _ = gym.wrappers.TimeLimit(env, 9).spec
    assert torch.cuda.memory_allocated() - before < 5e6


# --- check 6: nothing random is touched ----------------------------------------------------------


@pytest.mark.parametrize("stochastic", [False, True])
def test_wrapping_changes_neither_the_environment_nor_global_randomness(checkpoint, stochastic):
    def run(wrap):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what is being watched
        torch.manual_seed(0)
        env = Scribble(length=4)
        pixels, seen = [], wrap(env)
        observation, _ = seen.reset(seed=3)
        for action in (0, 1, 2, 1):
            pixels.append(env.pixels.copy())
            observation, reward, *_ = seen.step(action)
            pixels.append(reward)
        del observation
        state = env.np_random.bit_generator.state
        return (
            pixels,
            state,
            random.getstate(),
            np.random.get_state(),  # noqa: NPY002
            torch.get_rng_state(),
        )

    bare = run(lambda env: env)
    seen = run(lambda env: GenesisObsWrapper(env, checkpoint, device="cpu", stochastic=stochastic))
    np.testing.assert_equal(seen[:4], bare[:4])
    assert torch.equal(seen[4], bare[4])


# --- check 7: samples ----------------------------------------------------------------------------


def test_samples_are_reproduced_by_the_seed(checkpoint):
    env = wrapped(checkpoint, stochastic=True)
    first, again, other = rollout(env, seed=5)[0], rollout(env, seed=5)[0], rollout(env, seed=6)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_of_equal_frames_differ_and_means_do_not(checkpoint):
    env = GenesisObsWrapper(Counter(size=32), checkpoint, device="cpu", stochastic=True)
    assert not np.array_equal(env.reset()[0], env.reset()[0])
    env = GenesisObsWrapper(Counter(size=32), checkpoint, device="cpu")
    assert np.array_equal(env.reset()[0], env.reset()[0])


def test_samples_scatter_around_the_mean():
    mean_colour()
    env = GenesisObsWrapper(Counter(), "mean_colour", stochastic=True)
    values = np.stack([env.reset(seed=seed)[0] for seed in range(500)])
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.15)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "list"}, "layout must be one of"),
        ({"latents": "masks"}, "latents must be one of"),
        ({"dtype": "float64"}, "dtype must be one of"),
        ({"parity": "unofficial"}, "parity must be None or 'official'"),
        ({"parity": "official", "layout": "slots"}, "use layout='flat' or 'dict'"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": "10"}, "clip must be positive"),
        ({"clip": float("inf")}, "clip must be positive and finite"),
        ({"clip": 1e6, "dtype": "float16"}, "finite in float16"),
        ({"device": "gpu"}, "device must be"),
        ({"precision": "half"}, "precision must be one of"),
    ],
    ids=str,
)
def test_unknown_options_are_refused_at_once(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        wrapped(checkpoint, **options)


@pytest.mark.parametrize("value", ["yes", "False", 1, None], ids=repr)
def test_what_is_neither_true_nor_false_is_refused(checkpoint, value):
    with pytest.raises(TypeError, match=f"stochastic must be True or False, but got {value!r}"):
        wrapped(checkpoint, stochastic=value)
    envs = SyncVectorEnv([Scribble])
    with pytest.raises(TypeError, match=f"tensors must be True or False, but got {value!r}"):
        GenesisVectorObsWrapper(envs, checkpoint, tensors=value)


def test_options_are_keyword_only(checkpoint):
    with pytest.raises(TypeError):
        GenesisObsWrapper(Scribble(), checkpoint, "slots")


def test_the_wrong_wrapper_names_the_right_one(checkpoint):
    with pytest.raises(TypeError, match="a gymnasium VectorEnv, which GenesisVectorObsWrapper is"):
        GenesisObsWrapper(SyncVectorEnv([Scribble]), checkpoint)
    with pytest.raises(TypeError, match="Stable-Baselines3 VecEnv, which GenesisVecEnvWrapper is"):
        GenesisObsWrapper(DummyVecEnv([Scribble]), checkpoint)
    with pytest.raises(TypeError, match=r"needs an environment, but got str; .*make\(id\)"):
        GenesisObsWrapper("CartPole-v1", checkpoint)


@pytest.mark.parametrize(
    ("frame", "got"),
    [(None, r"\[\] object"), ({"frame": 0}, r"\[\] object"), ([[1, 2]], r"\[1, 2\] int")],
    ids=str,
)
def test_what_is_no_array_is_told_what_was_announced(checkpoint, frame, got):
    env = Scribble()
    env._draw = lambda action: frame
    with pytest.raises(ValueError, match=rf"announced frames \[32, 32, 3\] uint8, but got {got}"):
        GenesisObsWrapper(env, checkpoint, device="cpu").reset()


def test_an_environment_that_is_wrapped_already_is_told_so(checkpoint):
    with pytest.raises(ValueError, match="shows slots already: wrap once"):
        GenesisObsWrapper(wrapped(checkpoint, layout="slots"), checkpoint)


@pytest.mark.parametrize(
    ("wrap", "make"),
    [
        (GenesisObsWrapper, Scribble),
        (GenesisVectorObsWrapper, lambda: SyncVectorEnv([Scribble])),
        (GenesisVecEnvWrapper, lambda: DummyVecEnv([Scribble])),
    ],
)
def test_what_is_no_checkpoint_is_told_what_is_one(wrap, make):
    """A model is to be saved first; None is not the default."""
    for thing in (tiny_model(), None, b"multi_dsprites"):
        needed = r"a shipped id .* or a folder that save_checkpoint\(folder, model\) .* but got "
        with pytest.raises(TypeError, match=needed + type(thing).__name__):
            wrap(make(), thing)


def test_a_run_in_place_of_its_checkpoint_names_the_checkpoint(tmp_path):
    (tmp_path / "run").mkdir()
    Path(tiny_checkpoint(tmp_path / "run")).rename(tmp_path / "run" / "model")
    with pytest.raises(FileNotFoundError, match=r"is a run; its checkpoint is .*/run/model"):
        GenesisObsWrapper(Scribble(), str(tmp_path / "run"))


def test_latents_that_a_model_does_not_have_are_refused():
    mean_colour("no_masks").latent_sizes = (0, 3)
    with pytest.raises(ValueError, match="the model has none"):
        GenesisObsWrapper(Counter(), "no_masks", latents="mask")
    env = GenesisObsWrapper(Counter(), "no_masks", layout="dict")
    assert list(env.observation_space) == ["component"]


# --- the rest of the environment -----------------------------------------------------------------


def test_everything_else_passes_through(checkpoint):
    env = wrapped(checkpoint)
    env.reset(seed=0)
    assert env.render().shape == (32, 32, 3)
    assert env.render_mode == "rgb_array"
    assert env.metadata == Scribble.metadata
    assert env.np_random is env.unwrapped.np_random
    assert env.get_wrapper_attr("kind") == "hwc"
    env.close()
    env.close()


def test_the_shipped_model_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setattr("genesis_rl.checkpoint.SHIPPED", tmp_path)
    (tmp_path / tiny_checkpoint(tmp_path, num_slots=5).rsplit("/", 1)[1]).rename(
        tmp_path / "multi_dsprites"
    )
    env = GenesisObsWrapper(Scribble(), device="cpu")
    assert env.reset()[0].shape == (400,)
    assert env.spec is None or "multi_dsprites" in env.spec.to_json()

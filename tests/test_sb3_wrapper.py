"""`GenesisVecEnvWrapper`: terminal frames are encoded too, each once, and all else passes through.

Numbers of checks are those of the wrapper contract.
"""

import functools
import pickle
import random

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from genesis_rl import GenesisEncoder, GenesisObsWrapper, GenesisVecEnvWrapper
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv
from toys import Scribble, assert_close, counters, mean_colour, scribbles, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("sb3"), width=4)


# --- check 10: terminal observations -------------------------------------------------------------


def test_the_last_frame_of_an_episode_is_encoded_too():
    mean_colour()
    venv = GenesisVecEnvWrapper(counters(2), "mean_colour")
    venv.reset()
    for _ in range(3):
        latents, _, dones, infos = venv.step(np.zeros(2, int))
    assert dones.all()
    for info in infos:
        np.testing.assert_allclose(info["terminal_observation"], 3 / 255, rtol=1e-6)
    np.testing.assert_array_equal(latents, 0)  # already the first frame of the next episode


def test_frames_may_be_tensors(checkpoint):
    def sprites(tensors):
        env = gym.make_vec(
            "envs:GenesisRL/SpriteGoal-v0",
            num_envs=6,
            vectorization_mode="vector_entry_point",
            autoreset_mode="SameStep",
            image_size=GenesisEncoder.from_checkpoint(checkpoint).image_size,
            tensors=tensors,
        )
        venv = GenesisVecEnvWrapper(SB3VecEnv(env, copy=False), checkpoint, device="cpu")
        venv.seed(0)
        return venv

    ours, theirs, ends = sprites(True), sprites(False), 0
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for actions in np.random.default_rng(0).integers(0, 4, (20, 6)):
        mine, reference = ours.step(actions), theirs.step(actions)
        np.testing.assert_array_equal(mine[0], reference[0])
        for a, b in zip(mine[3], reference[3], strict=True):
            last = [info.pop("terminal_observation", None) for info in (a, b)]
            ends += last[0] is not None
            np.testing.assert_array_equal(*last)
            assert a == b
    assert ends > 2
    np.testing.assert_array_equal(ours.render_slots(1), theirs.render_slots(1))


@pytest.mark.parametrize(
    "options",
    [{}, {"layout": "slots"}, {"layout": "dict"}, {"dtype": "float16"}, {"parity": "official"}],
    ids=str,
)
def test_terminal_observations_are_the_encoded_terminal_frames(checkpoint, options):
    bare = scribbles(3)
    venv = GenesisVecEnvWrapper(scribbles(3), checkpoint, device="cpu", **options)
    single = GenesisObsWrapper(Scribble(), checkpoint, device="cpu", **options)
    bare.seed(0)
    venv.seed(0)
    bare.reset()
    venv.reset()
    tolerance = 2e-3 if "dtype" in options else 1e-5
    ended = 0
    for actions in np.random.default_rng(0).integers(0, 3, (20, 3)):
        frames, rewards, dones, infos = bare.step(actions)
        latents, seen_rewards, seen_dones, seen_infos = venv.step(actions)
        np.testing.assert_array_equal(seen_rewards, rewards)
        np.testing.assert_array_equal(seen_dones, dones)
        for i in range(3):
            rows = {k: v[i] for k, v in latents.items()} if "dict" in str(options) else latents[i]
            assert rows in venv.observation_space
            assert_close(rows, single.observation(frames[i]), tolerance)
            assert infos[i].keys() == seen_infos[i].keys()
            if "terminal_observation" in infos[i]:
                ended += 1
                terminal = seen_infos[i]["terminal_observation"]
                assert terminal in venv.observation_space
                assert_close(
                    terminal, single.observation(infos[i]["terminal_observation"]), tolerance
                )
            else:
                assert seen_infos[i] == infos[i]
    assert ended > 5


# --- check 11: how many frames are encoded -------------------------------------------------------


def test_every_frame_is_encoded_once_and_every_step_is_one_forward():
    encoder = mean_colour()
    venv = GenesisVecEnvWrapper(counters(4, length=5), "mean_colour")
    steps, ended = 23, 0
    venv.reset()
    for _ in range(steps):
        _, _, dones, _ = venv.step(np.zeros(4, int))
        ended += dones.sum()
    assert ended == 16
    assert len(encoder.batches) == steps + 1
    assert sum(encoder.batches) == venv.num_encoded == 4 * (steps + 1) + ended


def test_ppo_encodes_each_frame_once_for_all_epochs():
    encoder = mean_colour()
    venv = GenesisVecEnvWrapper(counters(4, length=100), "mean_colour")
    model = PPO("MlpPolicy", venv, n_steps=250, batch_size=250, n_epochs=10, device="cpu")
    model.learn(4000)
    assert sum(encoder.batches) / model.num_timesteps <= 1.02


# --- checks 6, 7: randomness ---------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [False, True])
def test_wrapping_touches_no_global_randomness(checkpoint, stochastic):
    def run(wrap):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is what is being watched
        torch.manual_seed(0)
        inner = scribbles(2)
        venv = wrap(inner)
        venv.seed(0)
        venv.reset()
        rewards = [venv.step(np.full(2, i % 3))[1] for i in range(8)]
        states = [env.np_random.bit_generator.state for env in inner.envs]
        return rewards, states, random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    bare = run(lambda venv: venv)
    seen = run(
        lambda venv: GenesisVecEnvWrapper(venv, checkpoint, device="cpu", stochastic=stochastic)
    )
    np.testing.assert_equal(seen[:4], bare[:4])
    assert torch.equal(seen[4], bare[4])


def test_samples_are_reproduced_by_the_seed_and_are_those_of_single_wrappers(checkpoint):
    def rollout(seed):
        venv = GenesisVecEnvWrapper(scribbles(2), checkpoint, device="cpu", stochastic=True)
        venv.seed(seed)
        observations = [venv.reset()]
        for _ in range(6):
            latents, _, _, infos = venv.step(np.zeros(2, int))
            observations.append(latents)
            if "terminal_observation" in infos[0]:
                observations.append(infos[0]["terminal_observation"][None])
        return np.concatenate(observations)

    np.testing.assert_array_equal(rollout(3), rollout(3))
    assert not np.array_equal(rollout(3), rollout(4))

    singles = DummyVecEnv(
        [
            lambda make=make: GenesisObsWrapper(make(), checkpoint, device="cpu", stochastic=True)
            for make in (
                functools.partial(Scribble, length=3),
                functools.partial(Scribble, length=5, truncate=True),
            )
        ]
    )
    venv = GenesisVecEnvWrapper(scribbles(2), checkpoint, device="cpu", stochastic=True)
    for each in (singles, venv):
        each.seed(3)
    np.testing.assert_allclose(venv.reset(), singles.reset(), atol=1e-5)
    for _ in range(12):
        ours, theirs = venv.step(np.zeros(2, int)), singles.step(np.zeros(2, int))
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
        for a, b in zip(ours[3], theirs[3], strict=True):
            if "terminal_observation" in a:
                np.testing.assert_allclose(
                    a["terminal_observation"], b["terminal_observation"], atol=1e-5
                )


# --- check 18: frames of other layouts ------------------------------------------------------------


def test_it_works_around_an_image_that_was_transposed_already(checkpoint):
    plain = GenesisVecEnvWrapper(scribbles(2), checkpoint, device="cpu")
    transposed = GenesisVecEnvWrapper(VecTransposeImage(scribbles(2)), checkpoint, device="cpu")
    for venv in (plain, transposed):
        venv.seed(0)
    np.testing.assert_array_equal(plain.reset(), transposed.reset())
    for _ in range(6):
        ours, theirs = plain.step(np.zeros(2, int)), transposed.step(np.zeros(2, int))
        np.testing.assert_array_equal(ours[0], theirs[0])
        for a, b in zip(ours[3], theirs[3], strict=True):
            np.testing.assert_equal(a, b)


def test_latents_are_no_image_to_stable_baselines(checkpoint):
    venv = GenesisVecEnvWrapper(counters(2, size=32), checkpoint, device="cpu")
    model = PPO("MlpPolicy", venv, device="cpu")
    assert model.get_env() is venv  # neither transposed nor wrapped otherwise


# --- check 24: the same vector everywhere --------------------------------------------------------


def test_all_wrappers_and_the_encoder_say_the_same(checkpoint):
    from genesis_rl import GenesisVectorObsWrapper

    frames = scribbles(2)
    frames.seed(0)
    images = frames.reset()
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cpu")
    expected = encoder.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).flatten(1).numpy()

    venv = GenesisVecEnvWrapper(scribbles(2), checkpoint, device="cpu")
    venv.seed(0)
    np.testing.assert_array_equal(venv.reset(), expected)
    envs = SyncVectorEnv([functools.partial(Scribble, length=3 + 2 * i) for i in range(2)])
    envs = GenesisVectorObsWrapper(envs, checkpoint, device="cpu")
    np.testing.assert_array_equal(envs.reset(seed=0)[0], expected)
    single = GenesisObsWrapper(Scribble(), checkpoint, device="cpu")
    for i in range(2):
        np.testing.assert_allclose(single.observation(images[i]), expected[i], atol=1e-5)


# --- the rest of the VecEnv -----------------------------------------------------------------------


def test_other_wrappers_go_around_it(checkpoint):
    venv = VecMonitor(scribbles(2))
    venv = GenesisVecEnvWrapper(venv, checkpoint, device="cpu", layout="slots")
    venv = VecNormalize(VecFrameStack(venv, 3))
    venv.reset()
    for _ in range(6):
        latents, _, _, infos = venv.step(np.zeros(2, int))
        assert latents.shape == (2, 3, 240)
        for info in infos:
            if "terminal_observation" in info:
                assert info["terminal_observation"].shape == (3, 240)
                assert info["episode"]["l"] > 0


def test_methods_and_attributes_reach_the_environments(checkpoint):
    venv = GenesisVecEnvWrapper(scribbles(2, render_mode="rgb_array"), checkpoint, device="cpu")
    assert venv.get_attr("length") == [3, 5]
    venv.set_attr("length", 4)
    assert venv.get_attr("length") == [4, 4]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [False, False]
    assert venv.seed(3) == [3, 4]
    venv.reset()
    assert venv.env_method("render")[0].shape == (32, 32, 3)
    assert venv.render().shape == (64, 32, 3)
    assert len(venv.get_images()) == 2
    assert venv.num_clipped == 0
    venv.close()
    venv.close()


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_it_wraps_environments_in_other_processes(checkpoint, start_method):
    factories = [functools.partial(Scribble, length=3 + 2 * i) for i in range(2)]
    assert len(cloudpickle.dumps(factories[0])) < 100_000
    workers = SubprocVecEnv(factories, start_method=start_method)
    venv = GenesisVecEnvWrapper(workers, checkpoint, device="cpu")
    here = GenesisVecEnvWrapper(DummyVecEnv(factories), checkpoint, device="cpu")
    for each in (venv, here):
        each.seed(0)
    np.testing.assert_array_equal(venv.reset(), here.reset())
    for _ in range(6):
        ours, theirs = venv.step(np.zeros(2, int)), here.step(np.zeros(2, int))
        np.testing.assert_array_equal(ours[0], theirs[0])
    venv.close()


def test_a_factory_with_a_wrapper_is_small(checkpoint):
    def factory():
        return GenesisObsWrapper(Scribble(), checkpoint, device="cpu")

    assert len(cloudpickle.dumps(factory)) < 100_000
    env = pickle.loads(cloudpickle.dumps(factory))()
    assert env.reset()[0].shape == (240,)


def test_the_wrong_wrapper_names_the_right_one(checkpoint):
    with pytest.raises(TypeError, match="which GenesisObsWrapper is for"):
        GenesisVecEnvWrapper(Scribble(), checkpoint)
    with pytest.raises(TypeError, match="which GenesisVectorObsWrapper is for"):
        GenesisVecEnvWrapper(SyncVectorEnv([Scribble]), checkpoint)


def test_stacked_frames_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"GenesisVecEnvWrapper needs frames .*of stacked frames"):
        GenesisVecEnvWrapper(VecFrameStack(scribbles(1), 4), checkpoint)
    grey = VecFrameStack(scribbles(1, kind="grey"), 4)  # looks like colours and opacity
    assert grey.observation_space.shape == (32, 32, 4)
    with pytest.raises(ValueError, match=r"a stack of four grey ones.* put it outside of Genesis"):
        GenesisVecEnvWrapper(VecMonitor(grey), checkpoint)
    GenesisVecEnvWrapper(scribbles(1, kind="opaque"), checkpoint)

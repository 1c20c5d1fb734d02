"""`GenesisVectorObsWrapper`: spaces, noise, containers, and all else that passes through.

Numbers of checks are those of the wrapper contract.
"""

import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv

from genesis_rl import GenesisVectorObsWrapper
from toys import Counter, Scribble, mean_colour, same_observation, staggered, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("vector"), width=4)


def test_spaces_are_batched(checkpoint):
    envs = GenesisVectorObsWrapper(SyncVectorEnv(staggered(3)), checkpoint)
    assert envs.single_observation_space == spaces.Box(-10, 10, (240,), np.float32)
    assert envs.observation_space == spaces.Box(-10, 10, (3, 240), np.float32)
    assert envs.action_space == spaces.MultiDiscrete([3, 3, 3])


# --- check 7: noise ------------------------------------------------------------------------------


def test_environments_have_noise_of_their_own(checkpoint):
    def start(seed):
        envs = SyncVectorEnv([functools.partial(Counter, size=32)] * 3)
        envs = GenesisVectorObsWrapper(envs, checkpoint, device="cpu", stochastic=True)
        return envs, envs.reset(seed=seed)[0]

    envs, latents = start(4)
    assert not np.array_equal(latents[0], latents[1])
    np.testing.assert_array_equal(latents, start(4)[1])
    np.testing.assert_array_equal(latents[1:], start([0, 5, 6])[1][1:])
    np.testing.assert_array_equal(envs.reset(seed=[4, 5, 6])[0], latents)
    assert not np.array_equal(envs.reset()[0], latents)


# --- check 9: other containers of final observations ---------------------------------------------


class Native(VectorEnv):
    """Two counters in one, in same-step mode; final frames come as an array or as a tensor."""

    def __init__(self, container, observe=np.asarray, mask=True):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.container, self.observe, self.mask = container, observe, mask
        self.time = np.zeros(2, int)

    def frames(self):
        return np.broadcast_to(self.time[:, None, None, None], (2, 8, 8, 3)).astype(np.uint8)

    def reset(self, *, seed=None, options=None):
        self.time[:] = 0
        return self.observe(self.frames()), {}

    def step(self, actions):
        self.time += 1
        over = self.time >= [2, 3]
        infos = {}
        if over.any():
            infos["final_obs"] = self.container(self.frames())
            if self.mask:
                infos["_final_obs"] = over.copy()
        self.time[over] = 0
        return self.observe(self.frames()), np.zeros(2), over, np.zeros(2, bool), infos


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("layout", ["flat", "dict"])
@pytest.mark.parametrize(
    ("container", "observe", "kind"),
    [
        (np.asarray, np.asarray, np.ndarray),
        (torch.from_numpy, np.asarray, torch.Tensor),
        (torch.from_numpy, torch.from_numpy, torch.Tensor),
        (np.asarray, torch.from_numpy, np.ndarray),
    ],
)
def test_dense_final_observations_stay_dense(container, observe, kind, layout, mask):
    mean_colour()
    native = Native(container, observe, mask)
    envs = GenesisVectorObsWrapper(native, "mean_colour", layout=layout)
    latents, _ = envs.reset()
    assert latents in envs.observation_space
    envs.step(None)
    latents, _, terminated, _, infos = envs.step(None)
    assert terminated.tolist() == [True, False]
    for name in ("mask", "component") if layout == "dict" else (None,):
        final = infos["final_obs"] if name is None else infos["final_obs"][name]
        now = latents if name is None else latents[name]
        assert isinstance(final, kind)
        np.testing.assert_allclose(np.asarray(final[0]), 2 / 255, rtol=1e-6)
        np.testing.assert_allclose(now[0], 0)
        np.testing.assert_allclose(now[1], 2 / 255, rtol=1e-6)
    _, _, _, _, infos = envs.step(None)
    final = infos["final_obs"] if layout == "flat" else infos["final_obs"]["mask"]
    np.testing.assert_allclose(np.asarray(final[1]), 3 / 255, rtol=1e-6)


# --- check 6 and 18, and the rest -----------------------------------------------------------------


def test_frames_rewards_and_generators_are_those_of_the_bare_environment(checkpoint):
    bare = SyncVectorEnv(staggered(3))
    inner = SyncVectorEnv(staggered(3))
    envs = GenesisVectorObsWrapper(inner, checkpoint, device="cpu", stochastic=True)
    frames, _ = bare.reset(seed=1)
    envs.reset(seed=1)
    for action in np.random.default_rng(0).integers(0, 3, (12, 3)):
        frames, rewards, *_ = bare.step(action)
        _, seen, *_ = envs.step(action)
        np.testing.assert_array_equal(envs._frames, frames)
        np.testing.assert_array_equal(seen, rewards)
    for a, b in zip(bare.envs, inner.envs, strict=True):
        assert a.np_random.bit_generator.state == b.np_random.bit_generator.state


@pytest.mark.parametrize("kind", ["chw", "float", "opaque"])
def test_layouts_of_the_same_frames_have_identical_latents(checkpoint, kind):
    def latents(kind):
        envs = SyncVectorEnv([functools.partial(Scribble, kind=kind)] * 2)
        return GenesisVectorObsWrapper(envs, checkpoint, device="cpu").reset(seed=0)[0]

    np.testing.assert_array_equal(latents(kind), latents("hwc"))


def test_native_vector_environments_are_welcome(checkpoint):
    envs = gym.make_vec("envs:GenesisRL/SpriteGoal-v0", num_envs=3)
    envs = GenesisVectorObsWrapper(envs, checkpoint, device="cpu")
    latents, _ = envs.reset(seed=0)
    assert latents in envs.observation_space
    latents, *_ = envs.step(envs.action_space.sample())
    assert latents in envs.observation_space


def test_missing_metadata_is_a_warning(checkpoint):
    envs = SyncVectorEnv(staggered(1))
    envs.metadata = {}
    with pytest.warns(UserWarning, match="next-step autoreset is assumed"):
        GenesisVectorObsWrapper(envs, checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GenesisVectorObsWrapper(SyncVectorEnv(staggered(1)), checkpoint)


def test_an_unknown_autoreset_mode_is_named_with_the_known_ones(checkpoint):
    envs = SyncVectorEnv(staggered(1))
    envs.metadata = {"autoreset_mode": "Sometimes"}
    with pytest.raises(
        ValueError, match=r"'NextStep', 'SameStep', 'Disabled'\], but .*'Sometimes'"
    ):
        GenesisVectorObsWrapper(envs, checkpoint)
    envs.metadata = {"autoreset_mode": "SameStep"}  # its value is as good as the member
    GenesisVectorObsWrapper(envs, checkpoint)


def test_other_wrappers_go_around_it(checkpoint):
    envs = GenesisVectorObsWrapper(SyncVectorEnv(staggered(3)), checkpoint, device="cpu")
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    for _ in range(4):
        latents, _, _, _, infos = envs.step(np.zeros(3, int))
    assert latents.shape == (3, 240)
    assert "episode" in infos or envs.episode_count > 0


def test_the_rest_passes_through_and_close_may_be_called_twice(checkpoint):
    inner = SyncVectorEnv([functools.partial(Scribble, render_mode="rgb_array")] * 2)
    envs = GenesisVectorObsWrapper(inner, checkpoint, device="cpu")
    envs.reset(seed=0)
    assert envs.unwrapped is inner
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert envs.render_mode == "rgb_array"
    assert same_observation(envs.render()[0], inner.envs[0].render())
    envs.close()
    envs.close()


def test_the_wrong_wrapper_names_the_right_one(checkpoint):
    with pytest.raises(TypeError, match="environment, which GenesisObsWrapper is for"):
        GenesisVectorObsWrapper(Scribble(), checkpoint)
    with pytest.raises(TypeError, match="which GenesisVecEnvWrapper is for"):
        GenesisVectorObsWrapper(DummyVecEnv([Scribble]), checkpoint)


def test_frames_are_required(checkpoint):
    with pytest.raises(ValueError, match="GenesisVectorObsWrapper needs frames"):
        GenesisVectorObsWrapper(gym.make_vec("CartPole-v1", num_envs=2), checkpoint)


# --- tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["flat", "slots", "dict"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors_say_what_arrays_say_and_stay_on_the_device(checkpoint, device, layout):
    def play(tensors):
        envs = gym.make_vec(
            "envs:GenesisRL/SpriteGoal-v0",
            num_envs=3,
            device=device,
            tensors=tensors,
            image_size=32,
            max_episode_steps=2,
            autoreset_mode="SameStep",
        )
        options = {"device": device, "layout": layout, "tensors": tensors}
        envs = GenesisVectorObsWrapper(envs, checkpoint, **options)
        first, _ = envs.reset(seed=0)
        envs.step(np.zeros(3, int))
        last, _, _, truncated, infos = envs.step(np.zeros(3, int))
        assert truncated.all()
        seen = [first, last, *infos["final_obs"]]
        return [part for s in seen for part in (s.values() if layout == "dict" else [s])]

    for array, tensor in zip(play(False), play(True), strict=True):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.device.type == device
        np.testing.assert_allclose(tensor.cpu().numpy(), array, rtol=0, atol=1e-6)


def test_tensors_of_an_episode_are_memory_of_their_own(checkpoint):
    envs = GenesisVectorObsWrapper(SyncVectorEnv(staggered(2)), checkpoint, tensors=True)
    first, _ = envs.reset(seed=0)
    before = first.clone()
    envs.step([1, 1])
    assert torch.equal(first, before)
    first.zero_()
    again, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert again[1].abs().sum() > 0


def test_final_tensors_do_not_keep_the_batch_alive(checkpoint):
    frames = [functools.partial(Counter, length=3 + 5 * (i > 0), size=32) for i in range(8)]
    envs = SyncVectorEnv(frames, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = GenesisVectorObsWrapper(envs, checkpoint, tensors=True)
    envs.reset(seed=0)
    for _ in range(3):
        *_, infos = envs.step(np.zeros(8, int))
    final = infos["final_obs"][0]
    assert final.untyped_storage().nbytes() == final.numel() * 4

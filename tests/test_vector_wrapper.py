"""`GenesisVectorObsWrapper` equals as many single wrappers, in every autoreset mode.

Numbers of checks are those of the wrapper contract.
"""

import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import Counter, Scribble, mean_colour, same_observation, tiny_checkpoint

from genesis_rl import GenesisObsWrapper, GenesisVectorObsWrapper

MODES = list(AutoresetMode)
STEPS = 50


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("vector"), width=4)


def environments(count, **kwargs):
    """Factories of environments whose episodes end at different times, in both ways."""
    return [
        functools.partial(Scribble, length=3 + 2 * i, truncate=i % 2 == 1, **kwargs)
        for i in range(count)
    ]


def vector(kind, count, mode):
    factories = environments(count)
    if kind == "sync":
        return SyncVectorEnv(factories, autoreset_mode=mode)
    shared = kind == "async, shared memory"
    return AsyncVectorEnv(factories, autoreset_mode=mode, shared_memory=shared, context="fork")


def close(a, b, tolerance=1e-5):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance)
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@functools.cache
def reference(checkpoint, count, mode, options=()):
    """What single wrappers under Gymnasium's own vector environment say, step by step."""
    singles = [
        lambda make=make: GenesisObsWrapper(make(), checkpoint, device="cpu", **dict(options))
        for make in environments(count)
    ]
    return list(run(SyncVectorEnv(singles, autoreset_mode=mode), mode, actions(count)))


def actions(count):
    return np.random.default_rng(0).integers(0, 3, (STEPS, count))


def run(envs, mode, actions):
    """Yields what every reset and step returns."""
    observation, infos = envs.reset(seed=7)
    yield observation, None, None, None, infos
    over = np.zeros(envs.num_envs, bool)
    for action in actions:
        if mode == AutoresetMode.DISABLED and over.any():
            observation, infos = envs.reset(options={"reset_mask": over})
            yield observation, None, None, None, infos
        observation, rewards, terminated, truncated, infos = envs.step(action)
        over = terminated | truncated
        yield observation, rewards, terminated, truncated, infos
    envs.close()


# --- check 8: the autoreset matrix ---------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("kind", ["sync", "async, shared memory", "async, pipes"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_it_equals_single_wrappers_in_every_mode(checkpoint, kind, count, mode):
    if kind != "sync" and count == 1:
        pytest.skip("workers make no difference to one environment")
    envs = GenesisVectorObsWrapper(vector(kind, count, mode), checkpoint, device="cpu")
    single = envs.single_observation_space
    ended = 0
    expected = reference(checkpoint, count, mode)
    for ours, theirs in zip(run(envs, mode, actions(count)), expected, strict=True):
        observation, rewards, terminated, truncated, infos = ours
        close(observation, theirs[0])
        assert observation in envs.observation_space
        for a, b in zip((rewards, terminated, truncated), theirs[1:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert infos.keys() == theirs[4].keys()
        over = terminated is not None and (terminated | truncated).any()
        assert ("final_obs" in infos) == (mode == AutoresetMode.SAME_STEP and over)
        if "final_obs" not in infos:
            continue
        np.testing.assert_array_equal(infos["_final_obs"], theirs[4]["_final_obs"])
        np.testing.assert_array_equal(infos["_final_info"], theirs[4]["_final_info"])
        assert infos["final_info"].keys() == theirs[4]["final_info"].keys()
        assert infos["final_obs"].dtype == object
        for i in range(count):
            latents = infos["final_obs"][i]
            assert (latents is None) == (not infos["_final_obs"][i])
            if latents is not None:
                ended += 1
                assert latents in single
                close(latents, theirs[4]["final_obs"][i])
    assert ended > 0 or mode != AutoresetMode.SAME_STEP


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"layout": "dict"},
        {"layout": "slots", "dtype": "float16"},
        {"parity": "official"},
        {"stochastic": True},
    ],
    ids=str,
)
def test_it_equals_single_wrappers_with_every_option(checkpoint, mode, options):  # checks 7 and 8
    envs = GenesisVectorObsWrapper(vector("sync", 3, mode), checkpoint, device="cpu", **options)
    expected = reference(checkpoint, 3, mode, tuple(options.items()))
    tolerance = 2e-3 if "dtype" in options else 1e-5
    for ours, theirs in zip(run(envs, mode, actions(3)), expected, strict=True):
        close(ours[0], theirs[0], tolerance)
        assert ours[0] in envs.observation_space
        for a, b in zip(ours[4].get("final_obs", []), theirs[4].get("final_obs", []), strict=True):
            if a is not None:
                assert a in envs.single_observation_space
                close(a, b, tolerance)


def test_final_frames_and_first_frames_are_told_apart_by_hand():
    mean_colour()
    envs = SyncVectorEnv([Counter] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = GenesisVectorObsWrapper(envs, "mean_colour")
    envs.reset()
    for _ in range(3):
        latents, _, terminated, _, infos = envs.step(np.zeros(2, int))
    assert terminated.all()
    np.testing.assert_allclose(np.stack(infos["final_obs"]), 3 / 255, rtol=1e-6)
    np.testing.assert_array_equal(latents, 0)


def test_spaces_are_batched(checkpoint):
    envs = GenesisVectorObsWrapper(SyncVectorEnv(environments(3)), checkpoint)
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


# --- check 19: partial resets --------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("layout", ["flat", "dict"])
def test_a_partial_reset_leaves_the_others_as_they_were(checkpoint, stochastic, layout):
    envs = SyncVectorEnv(environments(5), autoreset_mode=AutoresetMode.DISABLED)
    envs = GenesisVectorObsWrapper(
        envs, checkpoint, device="cpu", layout=layout, stochastic=stochastic
    )
    envs.reset(seed=0)
    before, *_ = envs.step(np.zeros(5, int))
    kept = {k: v.copy() for k, v in before.items()} if layout == "dict" else before.copy()
    if layout == "dict":
        before["mask"][:] = 9  # what was returned belongs to the caller
    else:
        before[:] = 9
    encoded = envs.num_encoded
    mask = np.array([False, True, False, True, False])
    options = {"reset_mask": mask, "other": 1}
    after, _ = envs.reset(options=options)
    assert envs.num_encoded - encoded == 2
    assert options == {"other": 1}  # as the environment itself would have left it
    for name in ("mask", "component") if layout == "dict" else (None,):
        a, b = (after, kept) if name is None else (after[name], kept[name])
        np.testing.assert_array_equal(a[~mask], b[~mask])
        assert not np.isclose(a[mask], b[mask]).all()


def test_a_partial_reset_seeds_only_whom_it_resets(checkpoint):
    def start():
        envs = SyncVectorEnv(
            [functools.partial(Counter, size=32)] * 2, autoreset_mode=AutoresetMode.DISABLED
        )
        envs = GenesisVectorObsWrapper(envs, checkpoint, device="cpu", stochastic=True)
        envs.reset(seed=0)
        return envs

    one, two = start(), start()
    mask = {"reset_mask": np.array([True, False])}
    one.reset(seed=5, options=dict(mask))
    two.reset(options=dict(mask))
    a, *_ = one.step(np.zeros(2, int))
    b, *_ = two.step(np.zeros(2, int))
    assert not np.array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_a_first_reset_may_be_masked(checkpoint):
    envs = SyncVectorEnv(environments(2), autoreset_mode=AutoresetMode.DISABLED)
    envs = GenesisVectorObsWrapper(envs, checkpoint, device="cpu")
    latents, _ = envs.reset(options={"reset_mask": np.array([True, True])})
    assert latents in envs.observation_space


# --- check 16: memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_observations_are_the_callers_to_keep(checkpoint, mode):
    count = 3
    envs = GenesisVectorObsWrapper(vector("sync", count, mode), checkpoint, device="cpu")
    kept = []
    for observation, _, _, _, infos in run(envs, mode, actions(count)):
        finals = [final for final in infos.get("final_obs", []) if final is not None]
        for latents in (observation, *finals):
            assert latents.flags.c_contiguous
            assert latents.flags.writeable
            assert latents.dtype == envs.observation_space.dtype
            kept.append((latents, latents.copy()))
    assert all(np.array_equal(latents, copy) for latents, copy in kept)
    for i, (latents, _) in enumerate(kept):
        latents[...] = i
    assert all((latents == i).all() for i, (latents, _) in enumerate(kept))


# --- check 6 and 18, and the rest -----------------------------------------------------------------


def test_frames_rewards_and_generators_are_those_of_the_bare_environment(checkpoint):
    bare = SyncVectorEnv(environments(3))
    inner = SyncVectorEnv(environments(3))
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
    envs = SyncVectorEnv(environments(1))
    envs.metadata = {}
    with pytest.warns(UserWarning, match="next-step autoreset is assumed"):
        GenesisVectorObsWrapper(envs, checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GenesisVectorObsWrapper(SyncVectorEnv(environments(1)), checkpoint)


def test_other_wrappers_go_around_it(checkpoint):
    envs = GenesisVectorObsWrapper(SyncVectorEnv(environments(3)), checkpoint, device="cpu")
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

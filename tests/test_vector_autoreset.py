"""`GenesisVectorObsWrapper` equals as many single wrappers, in every autoreset mode.

Numbers of checks are those of the wrapper contract.
"""

import functools

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from genesis_rl import GenesisObsWrapper, GenesisVectorObsWrapper
from toys import Counter, assert_close, mean_colour, staggered, tiny_checkpoint

MODES = list(AutoresetMode)
STEPS = 50


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("vector"), width=4)


def vector(kind, count, mode):
    factories = staggered(count)
    if kind == "sync":
        return SyncVectorEnv(factories, autoreset_mode=mode)
    shared = kind == "async, shared memory"
    return AsyncVectorEnv(factories, autoreset_mode=mode, shared_memory=shared, context="fork")


@functools.cache
def reference(checkpoint, count, mode, options=()):
    """What single wrappers under Gymnasium's own vector environment say, step by step."""
    singles = [
        lambda make=make: GenesisObsWrapper(make(), checkpoint, device="cpu", **dict(options))
        for make in staggered(count)
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
        assert_close(observation, theirs[0])
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
                assert_close(latents, theirs[4]["final_obs"][i])
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
        assert_close(ours[0], theirs[0], tolerance)
        assert ours[0] in envs.observation_space
        for a, b in zip(ours[4].get("final_obs", []), theirs[4].get("final_obs", []), strict=True):
            if a is not None:
                assert a in envs.single_observation_space
                assert_close(a, b, tolerance)


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


# --- check 19: partial resets --------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("layout", ["flat", "dict"])
def test_a_partial_reset_leaves_the_others_as_they_were(checkpoint, stochastic, layout):
    envs = SyncVectorEnv(staggered(5), autoreset_mode=AutoresetMode.DISABLED)
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
    envs = SyncVectorEnv(staggered(2), autoreset_mode=AutoresetMode.DISABLED)
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

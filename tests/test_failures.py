"""An environment that raises is named with its index, its seed and the step; the error stays."""

import functools
import multiprocessing

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from genesis_rl import GenesisVecEnvWrapper, GenesisVectorObsWrapper
from toys import Counter, mean_colour


class Breaks(Counter):
    """A counter that breaks in its fourth step after the first reset."""

    def step(self, action):
        if self.episodes == 2:
            raise ZeroDivisionError("the floor is gone")
        return super().step(action)


class Grows(Counter):
    """A counter whose frames do not stay as small as announced."""

    def _frame(self):
        size = 8 + self.time
        return np.full((size, size, 3), self.time, np.uint8)


def plain(env):
    return env


def one_in_three(kind, wrap=plain):
    return [Counter, functools.partial(_made, kind, wrap), Counter]


def _made(kind, wrap):
    return wrap(kind())


def notes(error):
    return "\n".join(getattr(error, "__notes__", ["Python 3.10 keeps no notes"]))


def failure(envs, first, step):
    """The notes of the error that comes up, and the step it came in."""
    mean_colour()
    first()
    for i in range(1, 9):
        try:
            step()
        except Exception as error:
            return error, i
    raise AssertionError("nothing was raised")


needs_notes = pytest.mark.skipif(
    not hasattr(ValueError, "add_note"), reason="Python 3.10 warns instead"
)


@needs_notes
@pytest.mark.parametrize("outer", [lambda env: env, lambda env: gym.wrappers.TimeLimit(env, 99)])
@pytest.mark.parametrize("workers", ["none", "async"])
def test_gymnasiums_environment_is_named(outer, workers):
    mean_colour()
    factories = one_in_three(Breaks, outer)
    envs = (
        SyncVectorEnv(factories)
        if workers == "none"
        else AsyncVectorEnv(factories, context="fork", shared_memory=False)
    )
    envs = GenesisVectorObsWrapper(gym.wrappers.vector.RecordEpisodeStatistics(envs), "mean_colour")
    error, at = failure(envs, lambda: envs.reset(seed=40), lambda: envs.step(np.zeros(3, int)))
    assert isinstance(error, ZeroDivisionError)
    assert f"raised in step {at} after seeding by environment 1 (seed 41)" in notes(error)
    if workers == "async":
        envs.env.env.close(terminate=True)


@needs_notes
@pytest.mark.parametrize(
    "workers", ["none", pytest.param("subprocess", marks=pytest.mark.slow, id="subprocess")]
)
def test_stable_baselines_environment_is_named(workers):
    mean_colour()
    factories = one_in_three(Breaks)
    venv = (
        DummyVecEnv(factories)
        if workers == "none"
        else SubprocVecEnv(factories, start_method="forkserver")  # forked, SB3 waits for ever
    )
    venv = GenesisVecEnvWrapper(VecMonitor(venv), "mean_colour")
    venv.seed(7)
    error, at = failure(venv, venv.reset, lambda: venv.step(np.zeros(3, int)))
    assert f"raised in step {at} after seeding by environment 1 (seed 8)" in notes(error)
    if workers == "none":
        assert isinstance(error, ZeroDivisionError)
    for child in multiprocessing.active_children():
        child.terminate()


@needs_notes
def test_frames_that_change_in_size_are_told_how_not_to():
    mean_colour()
    envs = GenesisVectorObsWrapper(SyncVectorEnv(one_in_three(Grows)), "mean_colour")
    error, _ = failure(envs, envs.reset, lambda: envs.step(np.zeros(3, int)))
    assert "gymnasium.wrappers.ResizeObservation" in notes(error)
    venv = GenesisVecEnvWrapper(DummyVecEnv(one_in_three(Grows)), "mean_colour")
    error, _ = failure(venv, venv.reset, lambda: venv.step(np.zeros(3, int)))
    assert "gymnasium.wrappers.ResizeObservation" in notes(error)


@pytest.mark.skipif(hasattr(ValueError, "add_note"), reason="Python 3.10 only")
def test_where_errors_take_no_notes_there_is_a_warning():
    mean_colour()
    envs = GenesisVectorObsWrapper(SyncVectorEnv(one_in_three(Breaks)), "mean_colour")
    envs.reset(seed=40)
    with pytest.warns(RuntimeWarning, match=r"environment 1 \(seed 41\)"):
        failure(envs, lambda: None, lambda: envs.step(np.zeros(3, int)))


@needs_notes
def test_a_reset_that_raises_is_named_without_a_seed_where_there_is_none():
    class Shut(Counter):
        def reset(self, *, seed=None, options=None):
            raise PermissionError("shut")

    mean_colour()
    factories = [Counter, functools.partial(Shut, size=8)]
    envs = GenesisVectorObsWrapper(SyncVectorEnv(factories), "mean_colour")
    with pytest.raises(PermissionError) as caught:
        envs.reset()
    assert "raised in reset() after seeding by environment 1 (without a seed)" in notes(
        caught.value
    )

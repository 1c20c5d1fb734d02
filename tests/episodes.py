"""What holds for the episodes of every task, and of those that end at the touch of an object."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np


def assert_a_seed_fixes_what_follows(make: Callable[[], gym.Env], action: Any) -> None:
    """Equal seeds play alike, other seeds and later episodes otherwise."""

    def play(seed):
        env = make()
        return np.stack([env.reset(seed=seed)[0], env.step(action)[0], env.reset()[0]])

    np.testing.assert_array_equal(play(5), play(5))
    assert (play(5)[0] != play(5)[2]).any()
    assert (play(5) != play(6)).any()


def assert_render_shows_the_current_frame(env: gym.Env, action: Any) -> None:
    """At the start of an episode and after a step."""
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), frame)
    frame, *_ = env.step(action)
    np.testing.assert_array_equal(env.render(), frame)


def assert_the_specification_survives_json(env: gym.Env) -> None:
    """What is made from it plays the same episode."""
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=3)[0], twin.reset(seed=3)[0])


def assert_solved(env: gym.Env, path: Sequence[Any] | None) -> None:
    """Every action but the last changes nothing; the last is rewarded and ends the episode."""
    assert path is not None
    for action in path[:-1]:
        _, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated, info) == (0, False, False, {"is_success": False})
    _, reward, terminated, truncated, info = env.step(path[-1])
    assert (reward, terminated, truncated, info) == (1, True, False, {"is_success": True})


def assert_lost(env: gym.Env, path: Sequence[Any]) -> None:
    """The last action ends the episode without a reward."""
    for action in path:
        _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info) == (0, True, {"is_success": False})

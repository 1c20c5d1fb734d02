"""Episodes of the tasks that end at the touch of an object."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym


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

"""Lets Stable-Baselines3 train in a Gymnasium vector environment.

SB3 has vector environments of its own and refuses Gymnasium's. The two differ in one point that
matters: at the end of an episode SB3 wants the first observation of the next one at once, and the
last observation of the old one, with its info, under `infos[i]["terminal_observation"]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from genesis_rl.wrappers.autoreset import autoreset_mode

_FINAL = {"final_obs", "_final_obs", "final_info", "_final_info"}


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment, natively vectorised or not, as SB3 wants it.

    Works with all three autoreset modes: SAME_STEP is what SB3 expects anyway, and in the other
    two the environments that have ended are reset at once, through `options["reset_mask"]`.

    Environments that return torch tensors keep them: SB3 cannot read those, but
    `GenesisVecEnvWrapper` around this can, and then frames never leave their device.

    Example:
        >>> import gymnasium as gym
        >>> venv = SB3VecEnv(gym.make_vec("CartPole-v1", num_envs=3))
        >>> venv.seed(0)
        [0, 1, 2]
        >>> venv.reset().shape
        (3, 4)

    Args:
        env: The environment.
        copy: Whether arrays of observations are copied. False is for environments that return new
            ones with each step, as those of `envs` do.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, copy: bool = True):
        if not isinstance(env, VectorEnv):
            raise TypeError(
                f"SB3VecEnv needs a gymnasium.vector.VectorEnv, got {type(env).__name__}; "
                "for single environments use SB3's make_vec_env"
            )
        if not isinstance(env.single_observation_space, gym.spaces.Box):
            raise TypeError(f"SB3VecEnv needs Box observations, got {env.single_observation_space}")
        self.env: Any = env
        self._same_step = autoreset_mode(env, "SB3VecEnv") == AutoresetMode.SAME_STEP
        self._copy = copy
        self._keeps_others = False  # whether a partial reset has been seen to be one
        self._actions: np.ndarray | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        observations, infos = self.env.reset(seed=self._one_seed(), options=self._one_option())
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return self._own(observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        observations, ended = self._own(observations), np.asarray(terminated | truncated)
        over = np.flatnonzero(ended).tolist()
        if not over:
            split = split_infos(infos, self.num_envs)
        elif self._same_step:
            last = infos["final_obs"]
            final = split_infos(infos.get("final_info", {}), self.num_envs)
            next_infos = {key: infos[key] for key in infos.keys() - _FINAL}
            split = split_infos(next_infos, self.num_envs)  # the new episode's where one has ended
        else:
            last = {i: observations[i] for i in over}
            final = split_infos(infos, self.num_envs)
            fresh, infos = self.env.reset(options={"reset_mask": ended.copy()})
            self._check_others(observations, fresh, ended)
            observations = self._own(fresh)
            split = split_infos(infos, self.num_envs)
            for i in np.flatnonzero(~ended).tolist():
                split[i] = final[i]
        for i in over:
            self.reset_infos[i] = split[i]
            split[i] = {**final[i], "terminal_observation": self._own(last[i])}
        for info, limit in zip(split, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = limit
        return observations, np.asarray(rewards, np.float32), ended, split

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if hasattr(self.env.unwrapped, "envs"):
            values = list(self.env.unwrapped.get_attr(attr_name))
        else:
            values = [getattr(self.env.unwrapped, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        chosen = list(self._get_indices(indices))
        if hasattr(self.env.unwrapped, "envs"):
            for i in chosen:
                self.env.unwrapped.envs[i].set_wrapper_attr(attr_name, value)
        elif len(chosen) == self.num_envs:
            setattr(self.env.unwrapped, attr_name, value)
        else:
            raise ValueError(
                f"{self.env} is one batch; {attr_name!r} can only be set for all of it"
            )

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        if not hasattr(self.env.unwrapped, "envs"):
            raise AttributeError(
                f"{self.env} is one batch without separate environments; "
                f"call {method_name!r} on .env instead"
            )
        envs = [self.env.unwrapped.envs[i] for i in self._get_indices(indices)]
        return [env.get_wrapper_attr(method_name)(*args, **kwargs) for env in envs]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        envs = getattr(self.env.unwrapped, "envs", None)
        if envs is None:
            return [False for _ in self._get_indices(indices)]
        return [is_wrapped(envs[i], wrapper_class) for i in self._get_indices(indices)]

    def _own(self, observations: Any) -> Any:
        """Returns observations that the environment does not write to again."""
        if not self._copy:
            return observations
        return observations.clone() if _is_tensor(observations) else np.array(observations)

    def _check_others(self, before: Any, after: Any, ended: np.ndarray) -> None:
        """Raises if a partial reset began new episodes everywhere; an environment always does."""
        others = np.flatnonzero(~ended)
        if self._keeps_others or not len(others):
            return
        if not bool((after[others] == before[others]).all()):
            raise ValueError(
                f"{self.env} takes no options['reset_mask'], but resets every environment when "
                "one has ended; make it with autoreset_mode='SameStep' if it has that option, "
                "or from single ones by gymnasium.make_vec(..., vectorization_mode='sync')"
            )
        self._keeps_others = True

    def _one_seed(self) -> int | list[int | None] | None:
        """Returns SB3's seeds as one number where that means the same: native ones take no list."""
        first = self._seeds[0]
        if first is None or self._seeds != [first + i for i in range(self.num_envs)]:
            return None if set(self._seeds) == {None} else self._seeds
        return first

    def _one_option(self) -> dict[str, Any] | None:
        if any(options != self._options[0] for options in self._options):
            raise ValueError("a Gymnasium vector environment has one set of options for all")
        return self._options[0] or None


def _is_tensor(observations: Any) -> bool:
    return hasattr(observations, "clone")  # torch itself is not needed here


def split_infos(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Turns Gymnasium's dict of arrays, with a mask `_key` beside each, into one dict for each env.

    >>> split_infos({"steps": np.array([3, 0]), "_steps": np.array([True, False])}, 2)
    [{'steps': 3}, {}]
    """
    split: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        present = infos.get(f"_{key}")
        if isinstance(values, dict):
            values = split_infos(values, count)
        elif isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.tolist()  # Python's own numbers, as a single environment gives
        for i in range(count) if present is None else np.flatnonzero(present).tolist():
            split[i][key] = values[i]
    return split

"""What the wrappers can be put around: environments of the right kind that show single frames."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from genesis_rl.agents import shows_slots
from genesis_rl.wrappers.frames import FrameFormat


def frame_format(space: gym.Space[Any], name: str) -> FrameFormat:
    """Reads the frame format off an observation space, or says why it cannot be one."""
    if shows_slots(space):
        raise ValueError(f"{name} needs frames, but the environment shows slots already: wrap once")
    try:
        if isinstance(space, spaces.Dict):
            raise ValueError(
                f"Pick the entry that holds the frame (of {list(space)}), for example with "
                "gymnasium.wrappers.TransformObservation."
            )
        if not isinstance(space, spaces.Box):
            raise ValueError("Wrap the environment so that it returns one frame at a time.")
        low, high = float(np.min(space.low)), float(np.max(space.high))
        return FrameFormat.of(space.shape, space.dtype, low, high)
    except ValueError as error:
        raise ValueError(
            f"{name} needs frames ([H, W, 3] uint8; also [3, H, W], grey, and floats in [0, 1]), "
            f"but got {space}. {error}"
        ) from None


_MAKERS = {
    "GenesisObsWrapper": "gymnasium.make(id)",
    "GenesisVectorObsWrapper": "gymnasium.make_vec(id, num_envs=16)",
    "GenesisVecEnvWrapper": "make_vec_env(id, n_envs=16) of Stable-Baselines3",
}


def check_kind(env: Any, name: str) -> None:
    """Tells a user who took the wrong one of the three wrappers which is the right one."""
    sb3 = any(
        base.__name__ == "VecEnv" and base.__module__.startswith("stable_baselines3.")
        for base in type(env).__mro__
    )
    for matches, right, kind in (
        (isinstance(env, gym.Env), "GenesisObsWrapper", "one gymnasium environment"),
        (isinstance(env, gym.vector.VectorEnv), "GenesisVectorObsWrapper", "a gymnasium VectorEnv"),
        (sb3, "GenesisVecEnvWrapper", "a Stable-Baselines3 VecEnv"),
    ):
        if matches and right != name:
            raise TypeError(f"{name} was given {kind}, which {right} is for")
        if matches and _stacks_grey_frames(env):
            raise ValueError(
                f"{name} needs single frames, but got a stack of four grey ones, which cannot be "
                "told from red, green, blue and opacity; leave out the stacking, or put it outside "
                f"of {name}"
            )
        if matches:
            return
    raise TypeError(
        f"{name} needs an environment, but got {type(env).__name__}; make one first, for example "
        f"by {_MAKERS[name]}"
    )


def _stacks_grey_frames(env: Any) -> bool:
    space = getattr(env, "single_observation_space", env.observation_space)
    if len(space.shape or ()) != 3 or space.shape[-1] != 4:
        return False
    while env is not None:
        if "FrameStack" in type(env).__name__:
            return True
        inside = vars(env)
        envs = inside.get("envs")  # the first speaks for all
        first = envs[0] if isinstance(envs, list | tuple) and envs else None
        env = inside.get("env", inside.get("venv", first))
    return False

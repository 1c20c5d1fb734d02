"""`GenesisVecEnvWrapper`: a Stable-Baselines3 vector environment, seen through slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor

from genesis_rl.checkpoint import checkpoint_name
from genesis_rl.wrappers.checks import check_kind
from genesis_rl.wrappers.failures import FailureNotes
from genesis_rl.wrappers.latents import (
    Align,
    DType,
    LatentObserver,
    LatentOptions,
    Latents,
    Layout,
    Observation,
    Parity,
)


class GenesisVecEnvWrapper(VecEnvWrapper):
    """Replaces the RGB frames of all environments by slot latents, in one forward pass per step.

    The frames that end episodes (`infos[i]["terminal_observation"]`) are encoded with the step's
    batch. Put it directly around the VecEnv, and VecFrameStack or VecNormalize around it. With
    latents for observations the policy belongs on the CPU, while the encoder uses the GPU:
    `PPO("MlpPolicy", venv, device="cpu")`.

    Example:
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> venv = make_vec_env("envs:GenesisRL/SpriteGoal-v0", n_envs=8)  # doctest: +SKIP
        >>> venv = GenesisVecEnvWrapper(venv)  # doctest: +SKIP
        >>> venv.reset().shape  # doctest: +SKIP
        (8, 400)

    Args:
        venv: Whose observations are frames.
        checkpoint: A shipped id or a path.
        layout: "flat" `[N, K * D]`, "slots" `[N, K, D]` or "dict".
        latents: "both", "mask" (where) or "component" (what).
        stochastic: Samples instead of posterior means; `seed` and `reset` reproduce them.
        clip: Bound of the observation space.
        dtype: "float32" or "float16".
        device: "auto", "cpu", "cuda", "cuda:1", ...; touched by the first frame, not before.
        precision: "auto", "fp32", "tf32" or "bf16".
        parity: "official" gives the features of the authors' release.
        align: "hungarian" lets slots keep their numbers over an episode, as far as they can.
    """

    def __init__(
        self,
        venv: VecEnv,
        checkpoint: str = "multi_dsprites",
        *,
        layout: Layout = "flat",
        latents: Latents = "both",
        stochastic: bool = False,
        clip: float = 10.0,
        dtype: DType = "float32",
        device: str = "auto",
        precision: str = "auto",
        parity: Parity | None = None,
        align: Align | None = None,
    ):
        check_kind(venv, "GenesisVecEnvWrapper")
        options = LatentOptions(
            layout, latents, stochastic, clip, dtype, device, precision, parity, align
        )
        # Names that no environment has: VecEnv wrappers refuse attributes found at two depths.
        self._slot_observer = LatentObserver(
            "GenesisVecEnvWrapper",
            checkpoint_name(checkpoint),
            options,
            venv.observation_space,
            venv.num_envs,
        )
        self._slot_failures = FailureNotes("GenesisVecEnvWrapper", venv)
        self._slot_frames: Any = None
        self._slot_seeds: Sequence[int | None] | None = None
        super().__init__(venv, observation_space=self._slot_observer.space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the environments, and the noise with them, from the next reset on."""
        self._slot_seeds = self.venv.seed(seed)
        return self._slot_seeds

    def reset(self) -> Observation:
        seeds = self._slot_seeds or [None] * self.num_envs
        frames = self._slot_failures.reset(seeds, self.venv.reset)
        if self._slot_seeds is not None:
            self._slot_observer.seed(self._slot_seeds)
            self._slot_seeds = None
        self._slot_frames = frames
        return self._slot_observer(frames, begins=range(self.num_envs))

    def step_wait(self) -> VecEnvStepReturn:
        frames, rewards, dones, infos = self._slot_failures.step(self.venv.step_wait)
        self._slot_frames = frames
        begins = np.flatnonzero(dones).tolist()
        ended = [i for i in begins if "terminal_observation" in infos[i]]
        if not ended:
            return self._slot_observer(frames, begins=begins), rewards, dones, infos
        terminal = [infos[i]["terminal_observation"] for i in ended]
        # Terminal frames go first, because an environment's noise is drawn in its frames' order.
        encoded = self._slot_observer(
            _batch(terminal, frames),
            envs=[*ended, *range(self.num_envs)],
            begins=begins,
            final=len(ended),
        )
        for row, i in enumerate(ended):
            infos[i]["terminal_observation"] = _copy(encoded, row)
        return _rest(encoded, len(ended)), rewards, dones, infos

    def render_slots(self, index: int = 0) -> NDArray[np.uint8]:
        """Returns a picture `[H, W, 3]` of one environment's last frame, and of its slots."""
        if self._slot_frames is None:
            raise RuntimeError("render_slots needs a frame: call reset() first")
        return self._slot_observer.picture(self._slot_frames[index], index)

    @property
    def num_clipped(self) -> int:
        """How many latent values were clipped so far."""
        return self._slot_observer.num_clipped

    @property
    def num_encoded(self) -> int:
        """How many frames were encoded so far."""
        return self._slot_observer.num_encoded


def _batch(first: Sequence[Any], frames: Any) -> Any:
    """Puts single frames before a batch of them."""
    if isinstance(frames, Tensor):  # of an environment that keeps them on a device
        return torch.cat([torch.stack(list(first)), frames])
    return np.concatenate([np.stack(first), frames])


def _copy(observation: Observation, row: int) -> Observation:
    """Copies a row out, so that keeping it does not keep the whole batch alive."""
    if isinstance(observation, dict):
        return {name: entry[row].copy() for name, entry in observation.items()}
    return observation[row].copy()


def _rest(observation: Observation, first: int) -> Observation:
    """The rows from this one on; nobody else has them, and those before are few."""
    if isinstance(observation, dict):
        return {name: entry[first:] for name, entry in observation.items()}
    return observation[first:]

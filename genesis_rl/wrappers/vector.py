"""`GenesisVectorObsWrapper`: a Gymnasium vector environment, seen through slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from genesis_rl.checkpoint import checkpoint_name
from genesis_rl.wrappers.autoreset import autoreset_mode
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


class GenesisVectorObsWrapper(gym.vector.VectorWrapper, gym.utils.RecordConstructorArgs):
    """Replaces the RGB frames of all environments by slot latents, in one forward pass per step.

    Works with all three autoreset modes: in same-step mode `infos["final_obs"]` is encoded with the
    step's batch, and a partial reset (`options={"reset_mask": ...}`) encodes the environments that
    were reset and leaves the others' latents as they were. In sampling mode, environment i of
    `reset(seed=s)` has the noise that `GenesisObsWrapper` has after `reset(seed=s + i)`.

    Example:
        >>> envs = gym.make_vec("envs:GenesisRL/SpriteGoal-v0", num_envs=8)  # doctest: +SKIP
        >>> envs = GenesisVectorObsWrapper(envs)  # doctest: +SKIP
        >>> envs.reset()[0].shape  # doctest: +SKIP
        (8, 400)

    Args:
        env: Whose observations are frames.
        checkpoint: A shipped id or a path.
        layout: "flat" `[N, K * D]`, "slots" `[N, K, D]` or "dict".
        latents: "both", "mask" (where) or "component" (what).
        stochastic: Samples instead of posterior means; `reset(seed=...)` reproduces them.
        clip: Bound of the observation space.
        dtype: "float32" or "float16".
        device: "auto", "cpu", "cuda", "cuda:1", ...; touched by the first frame, not before.
        precision: "auto", "fp32", "tf32" or "bf16".
        parity: "official" gives the features of the authors' release.
        align: "hungarian" lets slots keep their numbers over an episode, as far as they can.
        tensors: Whether observations stay torch tensors on the encoder's device, for learners that
            live there. With an environment whose frames are tensors, too, none leaves the device.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
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
        tensors: bool = False,
    ):
        check_kind(env, "GenesisVectorObsWrapper")
        options = LatentOptions(
            layout, latents, stochastic, clip, dtype, device, precision, parity, align
        )
        checkpoint = checkpoint_name(checkpoint)
        gym.utils.RecordConstructorArgs.__init__(
            self, checkpoint=checkpoint, tensors=tensors, **asdict(options)
        )
        gym.vector.VectorWrapper.__init__(self, env)
        self._autoreset = autoreset_mode(env, "GenesisVectorObsWrapper")
        self._observer = LatentObserver(
            "GenesisVectorObsWrapper",
            checkpoint,
            options,
            env.single_observation_space,
            env.num_envs,
            tensors,
        )
        self._failures = FailureNotes("GenesisVectorObsWrapper", env)
        self._frames: Any = None
        self._latents: Observation = None  # of the last batch, for partial resets
        self._over = np.zeros(env.num_envs, bool)  # next step shows another episode
        self.single_observation_space = self._observer.space
        self.observation_space = batch_space(self._observer.space, env.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        # Read now: environments take the mask out of the caller's options.
        mask = (options or {}).get("reset_mask")
        mask = None if mask is None else np.array(mask, dtype=bool)
        seeds = self._seeds(seed, mask)
        frames, infos = self._failures.reset(seeds, self.env.reset, seed=seed, options=options)
        self._observer.seed(seeds)
        self._frames = frames
        if mask is None or self._latents is None:
            self._over[:] = False
            return self._keep(self._observer(frames, begins=range(self.num_envs))), infos
        self._over[mask] = False
        chosen = np.flatnonzero(mask)
        latents, rows = _copy(self._latents), chosen.tolist()
        _assign(latents, chosen, self._observer(frames[chosen], envs=rows, begins=rows))
        return self._keep(latents), infos

    def step(
        self, actions: Any
    ) -> tuple[Observation, Any, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        frames, rewards, terminations, truncations, infos = self._failures.step(
            self.env.step, actions
        )
        self._frames = frames
        if "final_obs" not in infos:
            begins = self._begins(terminations, truncations) if self._observer.aligner else ()
            latents = self._observer(frames, begins=begins)
            return self._keep(latents), rewards, terminations, truncations, infos

        # Same-step autoreset: what an episode showed last comes beside what the next shows first.
        ended = infos.get("_final_obs", np.logical_or(_numpy(terminations), _numpy(truncations)))
        chosen = np.flatnonzero(_numpy(ended))
        everyone = range(self.num_envs)
        final = _rows(infos["final_obs"], chosen, frames)
        # Final frames go first, because an environment's noise is drawn in the order of its frames.
        encoded = self._observer(
            _concatenate(final, frames),
            envs=[*chosen.tolist(), *everyone],
            begins=chosen.tolist(),
            final=len(chosen),
        )
        infos = dict(infos)
        infos["final_obs"] = self._like(
            infos["final_obs"], chosen, _take(encoded, slice(0, len(chosen)))
        )
        latents = _take(encoded, slice(len(chosen), None))  # few others are kept alive by it
        return self._keep(latents), rewards, terminations, truncations, infos

    def render_slots(self, index: int = 0) -> NDArray[np.uint8]:
        """Returns a picture `[H, W, 3]` of one environment's last frame, and of its slots."""
        if self._frames is None:
            raise RuntimeError("render_slots needs a frame: call reset() first")
        return self._observer.picture(self._frames[index], index)

    @property
    def num_clipped(self) -> int:
        """How many latent values were clipped so far."""
        return self._observer.num_clipped

    @property
    def num_encoded(self) -> int:
        """How many frames were encoded so far."""
        return self._observer.num_encoded

    def _seeds(self, seed: int | Sequence[int | None] | None, mask: Any) -> Sequence[int | None]:
        """Spells out the seed of each environment, None for those that go on."""
        seeds: Sequence[int | None] = (
            [None if seed is None else int(seed) + i for i in range(self.num_envs)]
            if seed is None or isinstance(seed, int | np.integer)
            else seed
        )
        chosen = np.ones(self.num_envs, bool) if mask is None else mask
        # A wrong number of seeds is the environment's to refuse.
        return [s if c else None for s, c in zip(seeds, chosen, strict=False)]

    def _begins(self, terminations: Any, truncations: Any) -> list[int]:
        """Returns the environments that show the first frame of an episode, without a final one."""
        over = np.logical_or(_numpy(terminations), _numpy(truncations))
        before, self._over = self._over, over
        shown = {AutoresetMode.NEXT_STEP: before, AutoresetMode.SAME_STEP: over}
        return np.flatnonzero(shown.get(self._autoreset, [])).tolist()

    def _keep(self, latents: Observation) -> Observation:
        """Remembers a batch in memory of its own: the caller may change the one returned."""
        self._latents = _copy(latents)
        return latents

    def _like(self, final_obs: Any, chosen: NDArray[np.intp], latents: Observation) -> Any:
        """Puts the latents of final frames into the kind of container that the frames came in."""
        if isinstance(final_obs, np.ndarray) and final_obs.dtype == object:
            boxed = np.full(self.num_envs, None, dtype=object)
            latents = _copy(latents)  # once for all: on a GPU every copy is a launch
            for row, i in enumerate(chosen.tolist()):
                boxed[i] = _take(latents, row)
            return boxed
        dense = self._spread(latents, chosen)
        if not isinstance(final_obs, torch.Tensor):
            return dense
        if isinstance(dense, dict):
            return {k: torch.as_tensor(v, device=final_obs.device) for k, v in dense.items()}
        return torch.as_tensor(dense, device=final_obs.device)

    def _spread(self, latents: Observation, chosen: NDArray[np.intp]) -> Observation:
        """Puts the latents of chosen environments among zeros for the others."""
        if isinstance(latents, dict):
            return {name: self._spread(entry, chosen) for name, entry in latents.items()}
        shape = (self.num_envs, *latents.shape[1:])
        is_tensor = isinstance(latents, torch.Tensor)
        dense = latents.new_zeros(shape) if is_tensor else np.zeros(shape, latents.dtype)
        dense[chosen] = latents
        return dense


def _numpy(values: Any) -> NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _rows(final_obs: Any, chosen: NDArray[np.intp], frames: Any) -> Any:
    """Returns the final frames of the chosen environments, of the same type as the frames."""
    if isinstance(final_obs, torch.Tensor):
        rows: Any = final_obs[torch.from_numpy(chosen).to(final_obs.device)]
        return rows.to(frames.device) if isinstance(frames, torch.Tensor) else _numpy(rows)
    if not len(chosen):
        return frames[:0]
    if isinstance(frames, torch.Tensor):
        return torch.stack([torch.as_tensor(final_obs[i], device=frames.device) for i in chosen])
    return np.stack([_numpy(final_obs[i]) for i in chosen])


def _concatenate(first: Any, second: Any) -> Any:
    if isinstance(second, torch.Tensor):
        return torch.cat([first, second])
    return np.concatenate([first, second])


def _copy(observation: Observation) -> Observation:
    if isinstance(observation, dict):
        return {name: _copy(entry) for name, entry in observation.items()}
    return observation.clone() if isinstance(observation, torch.Tensor) else observation.copy()


def _take(observation: Observation, index: Any) -> Observation:
    if isinstance(observation, dict):
        return {name: entry[index] for name, entry in observation.items()}
    return observation[index]


def _assign(target: Observation, rows: NDArray[np.intp], values: Observation) -> None:
    if isinstance(target, dict):
        for name, entry in target.items():
            entry[rows] = values[name]
    else:
        target[rows] = values

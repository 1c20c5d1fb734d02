"""N episodes at once: dynamics, rewards and pictures are batched on one device."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from envs.base import View, World, check_choice, check_render_mode, draw_key
from envs.replay import Replays, download

_FEWEST = 8  # rows in a recording of beginnings

Step = tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class SceneVectorEnv(gym.vector.VectorEnv[Any, Any, np.ndarray]):
    """N episodes of a world. A subclass names the world.

    With seed s, environment i plays what the single environment plays with seed s + i, and what a
    step returns is what Gymnasium's `SyncVectorEnv` returns in the same autoreset mode.

    Args:
        num_envs: N.
        max_episode_steps: Episodes are truncated after so many steps; None never truncates.
        autoreset_mode: When an ended episode is followed by a new one: with the next step, with
            the same step, or only when `reset` is given a `reset_mask`. An `AutoresetMode`, or its
            value.
        device: Where everything is computed.
        tensors: Whether observations stay torch tensors on that device, for learners and encoders
            that live there. Rewards and flags are NumPy arrays either way.
        graphs: Whether, on CUDA, a step replays recorded kernels (`envs.replay`) where the world
            allows it; episodes are the same.
        observation: As for the single environment, as are the rest.
    """

    world_type: type[Any]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = 100,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: torch.device | str = "cpu",
        tensors: bool = False,
        graphs: bool = True,
        observation: Literal["pixels", "state"] = "pixels",
        info_masks: bool = False,
        info_state: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs needs to be at least 1, but got {num_envs}.")
        if isinstance(autoreset_mode, str):
            modes = tuple(mode.value for mode in AutoresetMode)
            check_choice("autoreset_mode", autoreset_mode, modes)
        check_render_mode(render_mode)
        self._mode = AutoresetMode(autoreset_mode)
        self._view = View(observation, info_masks, info_state)
        self._world: World = self.world_type(num_envs, device=device, **options)
        self._replays = Replays(self._world.device, graphs and self._world.replayable)
        self._num_actions = int(self._world.action_space.n)
        self._tensors = tensors
        self._max_steps = max_episode_steps

        self.num_envs = num_envs
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": 10,
            "autoreset_mode": self._mode,
        }
        self.render_mode = render_mode
        self.single_observation_space = self._view.space(self._world)
        self.single_action_space = self._world.action_space
        self.num_objects, self.state_shape = self._world.num_objects, self._world.state_shape
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._generators: list[
            np.random.Generator
        ] = []  # one per environment, from the first reset
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._done = np.zeros(num_envs, dtype=bool)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        mask = self._reset_mask(options)
        self._seed(seed, mask)
        if mask.all():  # then nothing stays of what recording an advance does
            self._replays.record(self._advance, torch.zeros(self.num_envs, dtype=torch.int64))
        self._begin(mask)
        observations, extras = self._look()
        return self._hand_out(observations), _with_masks(extras, mask)

    def step(self, actions: np.ndarray | Tensor) -> Step:
        if not self._generators:
            raise gym.error.ResetNeeded("call reset() before the first step().")
        if self._mode is AutoresetMode.DISABLED and self._done.any():
            raise ValueError(
                f"episodes {np.flatnonzero(self._done).tolist()} have ended; begin new ones with "
                "reset(options={'reset_mask': mask}) first."
            )
        # Under NEXT_STEP this step does nothing to the episodes that ended with the last one but
        # begin the next.
        begun = self._done if self._mode is AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        outcome = download(self._replays(self._advance, self._check(actions))["outcome"])
        self._elapsed += 1
        truncations = (self._elapsed >= (self._max_steps or np.inf)) & ~begun
        self._begin(begun)
        observations, extras = self._look()  # is drawn while the outcome is read

        rewards, terminations, success = outcome().astype(np.float64)
        rewards[begun] = 0
        terminations = (terminations > 0) & ~begun
        self._done = terminations | truncations
        infos = _with_masks(extras, np.ones_like(begun))
        infos |= _with_masks({"is_success": (success > 0) & ~begun}, ~begun)
        if self._mode is AutoresetMode.SAME_STEP and self._done.any():
            infos = self._begin_at_once(observations, infos)
        return self._hand_out(observations), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(self._world.frames(masks=False).images.cpu().numpy())

    def _begin_at_once(self, last: Tensor, infos: dict[str, Any]) -> dict[str, Any]:
        """Begins new episodes where one has ended; the last observations go into the infos."""
        done = self._done
        ended = np.flatnonzero(done)
        draws = self._draw(done)
        kept = last[draws[0, : len(ended)]]
        finals = np.full(self.num_envs, None, dtype=object)
        each = kept.unbind() if self._tensors else map(np.copy, kept.cpu().numpy())
        for row, final in zip(ended, each, strict=True):
            finals[row] = final
        final_info = {key: value.copy() for key, value in infos.items()}
        for key in final_info:
            if key.startswith("_"):
                final_info[key] &= done
        fresh = self._replays(self._renew, draws)
        last[draws[0]] = fresh.pop("observation")
        for key, value in fresh.items():
            infos[key][done] = value[: len(ended)].cpu().numpy()
        infos["is_success"] &= ~done
        infos["_is_success"] &= ~done
        finished = {"final_obs": finals, "_final_obs": done.copy()}
        return infos | finished | {"final_info": final_info, "_final_info": done.copy()}

    def _begin(self, mask: np.ndarray) -> None:
        """Starts new episodes in these environments."""
        if mask.any():
            self._replays(self._start, self._draw(mask))

    def _draw(self, mask: np.ndarray) -> Tensor:
        """`[2, B]` int64 on the device: which environments begin anew, and from which keys."""
        rows = np.flatnonzero(mask)
        keys = np.array([draw_key(self._generators[row]) for row in rows], dtype=np.int64)
        draws = np.stack([rows, keys])
        self._elapsed[mask] = 0
        self._done = self._done & ~mask
        if self._replays.work:  # few lengths, so few recordings: the last one begins repeatedly
            length = min(max(_FEWEST, 1 << (len(rows) - 1).bit_length()), self.num_envs)
            draws = np.pad(draws, ((0, 0), (0, length - len(rows))), mode="edge")
        return torch.from_numpy(draws).to(self._world.device, non_blocking=True)

    def _look(self) -> tuple[Tensor, dict[str, np.ndarray]]:
        seen = self._replays(self._show)
        observations = seen.pop("observation")
        return observations, {key: value.cpu().numpy() for key, value in seen.items()}

    def _hand_out(self, observations: Tensor) -> Any:
        return observations if self._tensors else observations.cpu().numpy()

    # What is recorded on CUDA: tensors in, tensors out, all on the device.

    def _advance(self, actions: Tensor) -> dict[str, Tensor]:
        return {"outcome": torch.stack([part.float() for part in self._world.advance(actions)])}

    def _start(self, draws: Tensor) -> dict[str, Tensor]:
        self._world.begin(*draws.unbind())
        return {}

    def _show(self) -> dict[str, Tensor]:
        return self._view.look(self._world)

    def _renew(self, draws: Tensor) -> dict[str, Tensor]:
        self._start(draws)
        return self._view.look(self._world, draws[0])

    def _check(self, actions: np.ndarray | Tensor) -> Tensor:
        """The actions as int64; the values of a GPU tensor are trusted."""
        actions = torch.as_tensor(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.is_floating_point:
            raise ValueError(
                f"actions need to be {self.num_envs} integers, but are {actions.dtype} of shape "
                f"{tuple(actions.shape)}."
            )
        values = np.zeros(1) if actions.is_cuda else actions.numpy()
        low, high = values.min(), values.max()
        if low < 0 or high >= self._num_actions:
            raise ValueError(
                f"actions need to be within 0 and {self._num_actions - 1}, but they reach "
                f"from {low} to {high}."
            )
        return actions.to(torch.int64)

    def _seed(self, seed: int | list[int | None] | None, mask: np.ndarray) -> None:
        """Environment i gets seed s + i, or its own of a list; None keeps the generator it has."""
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"a list of seeds needs one for each of {self.num_envs} environments, but has "
                f"{len(seeds)}."
            )
        if not self._generators:
            self._generators = [seeding.np_random(one)[0] for one in seeds]
            return
        for row in np.flatnonzero(mask):
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        if not options or "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(options["reset_mask"])  # read only: the dictionary is the caller's
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask needs to be {self.num_envs} bools with at least one True, but is "
                f"{mask.dtype} of shape {mask.shape} with {np.count_nonzero(mask)} set."
            )
        if not self._generators and not mask.all():
            raise gym.error.ResetNeeded("the first reset() needs to begin every episode.")
        return mask


def _with_masks(extras: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Infos as Gymnasium has them: beside every key, which environments it holds for."""
    return extras | {f"_{key}": mask.copy() for key in extras}

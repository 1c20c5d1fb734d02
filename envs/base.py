"""The Gymnasium side of every environment here: seeds, steps, observations, infos, pictures.

A `World` is what happens: N episodes of one task that advance together. `SceneEnv` shows one of
them as a `gymnasium.Env`, `envs.vector.SceneVectorEnv` shows N as a `VectorEnv`; both draw an
episode's key from the generator that its seed makes, so that they play the same episodes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from envs.sprites_render import Frames


class Outcome(NamedTuple):
    """What a step led to in each of N episodes.

    Attributes:
        reward: `[N]` float32.
        terminated: `[N]` bool.
        success: `[N]` bool, whether the task was solved by this step.
    """

    reward: Tensor
    terminated: Tensor
    success: Tensor


class World(Protocol):
    """N episodes of one task, on one device. A key decides all that is random in an episode.

    Attributes:
        num_objects: What the task is asked for by that name.
        state_shape: How many objects the true state tells of, and in how many numbers each.
        replayable: Whether the four methods are tensor code as `envs.replay.Replays` asks for, that
            updates the world's own tensors in place. On CUDA a step is then a few launches.
    """

    action_space: gym.spaces.Discrete
    image_size: int
    num_objects: int
    state_shape: tuple[int, int]
    device: torch.device
    replayable: bool

    def begin(self, rows: Tensor, keys: Tensor) -> None:
        """Starts new episodes in these rows, from `[len(rows)]` int64 keys.

        Nothing stays of the episodes before. In a replayable world, a row may come several times,
        each time with the same key.
        """

    def advance(self, actions: Tensor) -> Outcome:
        """Takes one step in every episode, for `[N]` int64 actions."""

    def frames(self, rows: Tensor | None = None, *, masks: bool = True) -> Frames:
        """Draws the scenes of these rows, or all; masks that nobody wants may be left out."""

    def state(self, rows: Tensor | None = None) -> Tensor:
        """The true factors of these rows, or all: float32 in [0, 1], object after object."""


@dataclass(frozen=True)
class View:
    """What of a world is shown: the observation, and which truths go into `info`."""

    observation: Literal["pixels", "state"] = "pixels"
    info_masks: bool = False
    info_state: bool = False

    def __post_init__(self) -> None:
        check_choice("observation", self.observation, ("pixels", "state"))

    def space(self, world: World) -> gym.spaces.Box:
        """The space of one observation."""
        if self.observation == "state":
            return gym.spaces.Box(0, 1, (math.prod(world.state_shape),), np.float32)
        return gym.spaces.Box(0, 255, (world.image_size, world.image_size, 3), np.uint8)

    def look(self, world: World, rows: Tensor | None = None) -> dict[str, Tensor]:
        """The observation and the infos of these rows, or all. What is not shown is not drawn."""
        if self.observation == "pixels" or self.info_masks:
            frames = world.frames(rows, masks=self.info_masks)
        if self.observation == "state" or self.info_state:
            state = world.state(rows)
        seen = {"observation": state if self.observation == "state" else frames.images}
        if self.info_masks:
            seen["masks"] = frames.masks
        if self.info_state:  # in memory of its own
            seen["state"] = state.clone() if self.observation == "state" else state
        return seen


class SceneEnv(gym.Env[np.ndarray, int]):
    """One episode of a world. A subclass names the world and documents the task.

    Args:
        observation: "pixels", or "state" for the true factors.
        info_masks: Whether `info["masks"]` holds the `[H, W]` uint8 instance masks.
        info_state: Whether `info["state"]` holds the true factors.
        render_mode: "rgb_array" or None.
        options: What the world takes.

    Attributes:
        num_objects: As the world's.
        state_shape: Likewise.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    world_type: type[Any]

    def __init__(
        self,
        *,
        observation: Literal["pixels", "state"] = "pixels",
        info_masks: bool = False,
        info_state: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ):
        self._view = View(observation, info_masks, info_state)
        self._world: World = self.world_type(1, **options)
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.observation_space = self._view.space(self._world)
        self.action_space = self._world.action_space
        self.num_objects, self.state_shape = self._world.num_objects, self._world.state_shape
        self._row = torch.zeros(1, dtype=torch.int64)

    @torch.inference_mode()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._world.begin(self._row, torch.tensor([draw_key(self.np_random)]))
        return self._look()

    @torch.inference_mode()
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"an action needs to be one of {self.action_space}, but is {action}.")
        outcome = self._world.advance(torch.tensor([int(action)]))
        observation, info = self._look()
        info["is_success"] = bool(outcome.success)
        # The limit on the number of steps is Gymnasium's TimeLimit, which `gym.make` adds.
        return observation, float(outcome.reward), bool(outcome.terminated), False, info

    @torch.inference_mode()
    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        return self._world.frames(masks=False).images[0].numpy()

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        seen = {key: value[0].numpy() for key, value in self._view.look(self._world).items()}
        return seen.pop("observation"), seen


def draw_key(generator: np.random.Generator) -> int:
    """The key of an episode: all that an environment takes from its generator."""
    return int(generator.integers(2**63 - 1))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} needs to be one of {', '.join(choices)}, but got {value!r}.")


def check_render_mode(render_mode: str | None) -> None:
    """Raises unless this is None or "rgb_array"."""
    if render_mode is not None:
        check_choice("render_mode", render_mode, ("rgb_array",))


def usable_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it; auto prefers CUDA."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(device)!r}, but PyTorch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices here; use device='cpu'."
        )
    return found

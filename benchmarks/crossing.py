"""Sprites that cross each other's ways: where slots have to keep hold of their objects.

Every sprite runs straight through the middle of the frame, so that half-way through an episode all
of them overlap; which is in front is part of the script. No two have the same colour, and none has
the background's. `slot_identity.py` asks whether slots follow them.

    env = gym.make("benchmarks.crossing:Crossing-v0")

Shapes: E episodes, T frames, N sprites.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.counter_rng import bits, fold, integers, without_repeats
from envs.scene import SHAPES, SpriteScene
from envs.sprites_render import Frames, render_sprites

COLOURS = 8  # the corners of the RGB cube, so that what is different looks different
_SPAN = 0.36  # from the middle of the frame to where a sprite starts and ends
_MISS = 0.06  # a path misses the middle by up to half of this
_GRAINS = 1 << 20


class Crossing(gym.Env[NDArray[np.uint8], np.int64]):
    """Shows N sprites that cross; whatever is done, the script goes on.

    Observation: `[S, S, 3]` uint8. Action: one, which does nothing. Reward: 0. Episode end: by
    truncation, after `length` frames. The attribute `masks` holds the frame's true labels `[S, S]`,
    0 for the background.

    Args:
        objects: N, up to 7.
        length: Frames of an episode.
        size: S.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self, objects: int = 3, length: int = 65, size: int = 64, render_mode: str | None = None
    ):
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(1)
        self.objects, self.length, self.size = objects, length, size
        self.render_mode = render_mode
        self.time = 0
        self._frames: Frames | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        episode = torch.tensor([int(self.np_random.integers(1 << 62))])
        self._frames = render_sprites(crossing(episode, self.length, self.objects), self.size)
        self.time = 0
        return self.render(), {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.render(), 0.0, False, self.time == self.length - 1, {}

    def render(self) -> NDArray[np.uint8]:
        """Returns the frame."""
        return self._shown.images[self.time].numpy().copy()

    @property
    def masks(self) -> NDArray[np.uint8]:
        """`[S, S]`: 0 is background, n the n-th sprite."""
        return self._shown.masks[self.time].numpy().copy()

    @property
    def _shown(self) -> Frames:
        if self._frames is None:
            raise gym.error.ResetNeeded("Crossing shows nothing before its first reset()")
        return self._frames


def crossing(episodes: Tensor, length: int, objects: int) -> SpriteScene:
    """Returns `E * T` scenes, one episode's frames after the other's.

    Args:
        episodes: `[E]` int64; each number is an episode of its own.
        length: T.
        objects: N, up to 7.
    """
    if not 1 <= objects < COLOURS:
        raise ValueError(f"objects must be 1 to {COLOURS - 1}, but got {objects}")
    if length < 2:
        raise ValueError(f"length must be at least 2 frames, but got {length}")
    count, device = len(episodes), episodes.device
    drawn = bits(fold(0xC2055, episodes, device=device), 7 * objects + 1)
    numbers = (integers(drawn[:, : 4 * objects], _GRAINS) / _GRAINS).view(count, 4, objects)
    turn, miss, scale, tilt = numbers.unbind(1)  # [E, N] in [0, 1)

    # Directions half a circle apart in all, each from one end or the other, never two alike.
    angle = (torch.arange(objects, device=device) + 0.35 * turn + turn[:, :1]) * math.pi / objects
    ends = 2 * integers(drawn[:, 4 * objects : 5 * objects], 2) - 1
    along = torch.stack([angle.cos(), angle.sin()], dim=-1) * ends[..., None]  # [E, N, 2]
    aside = along.flip(-1) * torch.tensor([-1.0, 1.0], device=device)
    time = torch.linspace(-_SPAN, _SPAN, length, device=device)[:, None, None]
    centre = 0.5 + along[:, None] * time + (aside * (_MISS * (miss - 0.5))[..., None])[:, None]

    choices = torch.arange(COLOURS, COLOURS - objects - 1, -1, device=device)
    corners = without_repeats(integers(drawn[:, 5 * objects : 6 * objects + 1], choices))
    planes = torch.arange(3, device=device)
    colour = (255 * ((corners[..., None] >> planes) & 1)).to(torch.uint8)  # [E, 1 + N, 3]
    shape = integers(drawn[:, 6 * objects + 1 :], len(SHAPES))
    turns = 2 * math.pi * tilt
    sprites = shape, 0.6 + 0.3 * scale, torch.stack([turns.cos(), turns.sin()], dim=-1)
    shape, scale, turned, colour = (
        part.repeat_interleave(length, dim=0) for part in (*sprites, colour)
    )
    return SpriteScene(shape, scale, turned, centre.flatten(0, 1), colour[:, 1:], colour[:, 0])


gym.register("Crossing-v0", entry_point="benchmarks.crossing:Crossing", max_episode_steps=None)

"""Tasks in the look of Multi-dSprites: an agent among objects, seen from above.

The parts are separate, so that a new task is one small class: where objects are (`scatter_apart`),
what they look like and which one matters (`SpriteWorld.kinds`), how the agent moves (`advance`) and
what a touch means (`judge`).
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from envs.base import Outcome, SceneEnv, check_choice, usable_device
from envs.counter_rng import bits, integers, without_repeats
from envs.scene import SHAPES, SpriteScene
from envs.sprites_render import Frames, render_sprites
from envs.vector import SceneVectorEnv

STEP = 0.05
"""How far the agent moves in one step, in fractions of the frame, as all lengths here."""

LOW, HIGH = 0.25, 0.75
"""Where centres may be, as in dSprites."""

SCALE = 0.5
"""Of the agent and all objects: the smallest of dSprites."""

CONTACT = 0.15
"""Sprites of scales a and b touch when their centres are closer than `CONTACT * (a + b)`: half the
side of the square, and the radius of the disc with the area of the ellipse, at scale 1."""

CLEARANCE, GAP = 0.2, 0.28
"""Least distance of an object from the agent's start, and of two objects from each other."""

MAX_OBJECTS = 6

BACKGROUND = (63, 63, 63)
AGENT = ("heart", (255, 0, 0))
TARGET = ("square", (0, 0, 255))
_PALETTES = {
    "train": (
        (0, 255, 0),
        (255, 255, 0),
        (0, 255, 255),
        (255, 0, 255),
        (255, 255, 255),
        (255, 127, 0),
    ),
    "ood": (
        (127, 255, 0),
        (0, 255, 127),
        (127, 0, 255),
        (255, 0, 127),
        (127, 255, 255),
        (255, 127, 255),
    ),
}
COLOURS = {**_PALETTES, "all": _PALETTES["train"] + _PALETTES["ood"]}

_MOVES = ((0, -STEP), (-STEP, 0), (0, STEP), (STEP, 0))  # up, left, down, right; y is down
_CANDIDATES = 32
_KINDS_DRAWS = 1024  # of a key's random numbers, the first are for `kinds`, the rest for places


class Kinds(NamedTuple):
    """What the objects of B scenes look like.

    Attributes:
        shape: `[B, N]` int64, an index into `SHAPES`.
        colour: `[B, N, 3]` uint8.
        goal: `[B]` int64, the number of the object that the task is about.
    """

    shape: Tensor
    colour: Tensor
    goal: Tensor


class SpriteWorld(ABC):
    """Episodes of one task on a plane with an agent, the last sprite of every scene.

    Args:
        num_scenes: How many episodes advance together.
        num_objects: Objects beside the agent, 1 to 6.
        colours: The objects' palette: "train", "ood" (colours that the other does not have) or
            "all" (both).
        image_size: Height and width of the pictures.
        device: Where everything is computed.
    """

    action_space: gym.spaces.Discrete

    def __init__(
        self,
        num_scenes: int,
        *,
        num_objects: int = 3,
        colours: Literal["train", "ood", "all"] = "train",
        image_size: int = 64,
        device: torch.device | str = "cpu",
    ):
        check_choice("colours", colours, tuple(COLOURS))
        if not 1 <= num_objects <= MAX_OBJECTS:
            raise ValueError(
                f"num_objects needs to be 1 to {MAX_OBJECTS}, or they do not fit beside the agent, "
                f"but got {num_objects}."
            )
        if image_size < 16:
            raise ValueError(f"image_size needs to be at least 16 pixels, but got {image_size}.")
        self.action_space = gym.spaces.Discrete(len(_MOVES))
        self.device = usable_device(device)
        self.image_size = image_size
        self.num_objects = num_objects
        self.state_size = (num_objects + 1) * 8
        self._palette = torch.tensor(COLOURS[colours], dtype=torch.uint8, device=self.device)
        self._moves = torch.tensor(_MOVES, device=self.device)
        self._scene = self._empty(num_scenes)
        self._goal = torch.zeros(num_scenes, dtype=torch.int64, device=self.device)

    @abstractmethod
    def kinds(self, keys: Tensor) -> Kinds:
        """The objects of new episodes: one task differs from another mostly here."""

    def judge(self) -> Outcome:
        """Touching the goal object is worth 1, and touching any object ends the episode."""
        away = self._scene.centre[:, :-1] - self._scene.centre[:, -1:]  # [B, N, 2]
        distance = (away * away).sum(-1)  # squared
        contact = (self._scene.scale[:, :-1] + self._scene.scale[:, -1:]) * CONTACT
        touching = distance < contact * contact  # [B, N]
        nearest = distance.argmin(dim=1)  # decides if two are touched at once
        terminated = touching.any(dim=1)
        success = terminated & (nearest == self._goal)
        return Outcome(success.float(), terminated, success)

    def begin(self, rows: Tensor, keys: Tensor) -> None:
        """Starts new episodes in these rows."""
        kinds = self.kinds(keys)
        scene = self._scene
        scene.centre[rows, :-1] = scatter_apart(keys, self.num_objects)
        scene.centre[rows, -1] = (LOW + HIGH) / 2
        scene.shape[rows, :-1] = kinds.shape
        scene.colour[rows, :-1] = kinds.colour
        self._goal[rows] = kinds.goal

    def advance(self, actions: Tensor) -> Outcome:
        """Moves the agents by one step, as far as the frame lets them."""
        agent = self._scene.centre[:, -1]  # a view
        agent.add_(self._moves[actions]).clamp_(LOW, HIGH)
        return self.judge()

    def frames(self, rows: Tensor | None = None) -> Frames:
        """Draws the scenes of these rows, or all."""
        scene = self._scene if rows is None else self._scene[rows]
        return render_sprites(scene, self.image_size, SCALE)

    def state(self, rows: Tensor | None = None) -> Tensor:
        """`[B, (N + 1) * 8]`: x, y, colour and one-hot shape of every object and of the agent."""
        scene = self._scene if rows is None else self._scene[rows]
        return scene.factors().flatten(1)

    def _empty(self, batch: int) -> SpriteScene:
        """Scenes with the agent and, for the objects, placeholders."""
        count, device = self.num_objects + 1, self.device
        upright = torch.tensor([1.0, 0.0], device=device)
        colour = torch.tensor(AGENT[1], dtype=torch.uint8, device=device)
        background = torch.tensor(BACKGROUND, dtype=torch.uint8, device=device)
        return SpriteScene(
            shape=torch.full((batch, count), SHAPES.index(AGENT[0]), device=device),
            scale=torch.full((batch, count), SCALE, device=device),
            turn=upright.repeat(batch, count, 1),
            centre=torch.full((batch, count, 2), (LOW + HIGH) / 2, device=device),
            colour=colour.repeat(batch, count, 1),
            background=background.repeat(batch, 1),
        )


def scatter_apart(keys: Tensor, count: int) -> Tensor:
    """`[B, count, 2]` places at least `GAP` apart and `CLEARANCE` away from the middle.

    Each object takes the first of 32 random places that is far enough from those before it, or the
    furthest of them. With up to three objects hardly any is walled in by the others then.
    """
    places = _places(str(keys.device))
    draws = integers(bits(keys, count * _CANDIDATES, skip=_KINDS_DRAWS), len(places))
    candidates = places[draws].view(len(keys), count, _CANDIDATES, 2)
    rows = torch.arange(len(keys), device=keys.device)
    chosen = candidates[:, 0, :1]  # [B, 1, 2]
    for k in range(1, count):
        away = candidates[:, k, :, None] - chosen[:, None]  # [B, candidates, k, 2]
        distance = (away * away).sum(-1).amin(-1)  # squared, to the nearest
        best = distance.clamp_(max=GAP**2).argmax(dim=1)  # the first, if several are far enough
        chosen = torch.cat([chosen, candidates[rows, k, best][:, None]], dim=1)
    return chosen


@lru_cache(maxsize=16)
def _places(device: str) -> Tensor:
    """`[P, 2]`: those of dSprites' 32 x 32 places that keep clear of the middle."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        line = torch.linspace(LOW, HIGH, 32, dtype=torch.float64)
        places = torch.cartesian_prod(line, line)
        clear = (places - (LOW + HIGH) / 2).norm(dim=1) >= CLEARANCE
        return places[clear].float().to(device)


class SpriteGoal(SpriteWorld):
    """One object is the blue square; the others differ from it and each other in colour."""

    def __init__(self, num_scenes: int, **options: Any):
        super().__init__(num_scenes, **options)
        count, colours = self.num_objects, len(self._palette)
        highs = [count] + [len(SHAPES)] * count + [colours - k for k in range(count)]
        self._highs = torch.tensor(highs, device=self.device)
        self._blue = torch.tensor(TARGET[1], dtype=torch.uint8, device=self.device)

    def kinds(self, keys: Tensor) -> Kinds:
        count = self.num_objects
        draws = integers(bits(keys, len(self._highs)), self._highs)
        goal, shape, colour = draws.split([1, count, count], dim=1)
        target = torch.arange(count, device=self.device) == goal  # [B, N]
        return Kinds(
            shape=torch.where(target, SHAPES.index(TARGET[0]), shape),
            colour=torch.where(
                target[..., None], self._blue, self._palette[without_repeats(colour)]
            ),
            goal=goal[:, 0],
        )


class SpriteGoalEnv(SceneEnv):
    """Touch the blue square, and nothing else.

    ## Description
    The agent, a red heart, moves among objects in the look of Multi-dSprites: squares, ellipses and
    hearts in saturated colours on dark grey. One object is the blue square; all objects differ in
    colour. The task is "Object Goal" of the OCRL benchmark (Yoon et al., 2023), re-made so that an
    encoder trained on Multi-dSprites sees familiar frames: agent, three objects and background fill
    K = 5 slots.

    ## Action Space
    `Discrete(4)`: 0 up, 1 left, 2 down, 3 right. A step is 0.05 of the frame; the agent's centre
    stays within the middle half of the frame, where all centres in Multi-dSprites are.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`, `Box(0, 1, (32,), float32)`:
    x, y, red, green, blue and the shape (square, ellipse, heart, one-hot) of every object, in an
    order that does not tell the target, and then of the agent.

    ## Rewards
    1 for touching the blue square, otherwise 0. Two sprites touch when their centres are closer
    than .15 of the frame, 9.6 of 64 pixels: that is when discs of the size of the sprites would
    meet. If two objects are touched at once, the nearer one counts.

    ## Starting State
    The agent is in the middle. Objects take random places at least .28 apart and .2 from the agent,
    random shapes and random colours without repetition. Now and then the target is walled in, so
    that it cannot be reached without touching another: among three objects 7 times in a million,
    among four, five and six 1, 9 and 62 times in a thousand.

    ## Episode End
    Termination: the agent touches any object. Truncation: after 100 steps (through `gym.make`).
    `info["is_success"]` tells at every step whether the blue square has been touched.

    ## Arguments
    * `num_objects` (3): 1 to 6.
    * `colours` ("train"): the palette of the other objects. "ood" has six colours that "train" does
      not have, for testing on colours unseen in training; "all" has both.
    * `image_size` (64): the scene scales with it.
    * `observation` ("pixels"): or "state", the true factors, as an upper baseline.
    * `info_masks` (False): put the instance masks, `[H, W]` uint8, into `info["masks"]`:
      0 background, 1 to N the objects, N + 1 the agent, which is drawn on top.
    * `info_state` (False): put the true factors into `info["state"]`.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`: `device`, `tensors`, `autoreset_mode`.

    ## Version History
    * v0: initial version.
    """

    world_type = SpriteGoal


class SpriteGoalVectorEnv(SceneVectorEnv):
    """`SpriteGoalEnv`, N at once."""

    world_type = SpriteGoal

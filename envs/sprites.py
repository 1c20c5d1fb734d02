"""What all tasks in the look of Multi-dSprites share: an agent among objects, seen from above.

The parts are separate, so that a new task is one small class: what the objects look like and which
one matters (`SpriteWorld.kinds`), where they are (`places`, by default `scatter_apart`), how the
agent moves (`move`) and what a touch means (`judge`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

from envs.base import Outcome, check_choice, usable_device
from envs.counter_rng import bits, integers
from envs.scene import SHAPES, SpriteScene
from envs.sprites_render import Frames, render_sprites

STEP = 0.05
"""How far the agent moves in one step, in fractions of the frame, as all lengths here."""

LOW, HIGH = 0.25, 0.75
"""Where centres may be, as in dSprites."""

MIDDLE = ((LOW + HIGH) / 2, (LOW + HIGH) / 2)

SCALE = 0.5
"""Of the agent and all objects: the smallest of dSprites."""

CONTACT = 0.15
"""Sprites of scales a and b touch when their centres are closer than `CONTACT * (a + b)`: half the
side of the square, and the radius of the disc with the area of the ellipse, at scale 1."""

TOUCH = 2 * SCALE * CONTACT
"""Two sprites here touch when their centres are closer."""

TOUCH_SQUARED = torch.tensor(TOUCH).square().item()  # rounded as squared distances are

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

    Attributes:
        fewest: Objects that the task needs beside the agent.
        start: x and y of the agent at first.

    Args:
        num_scenes: How many episodes advance together.
        num_objects: Objects beside the agent, up to 6.
        colours: The objects' palette: "train", "ood" (colours that the other does not have) or
            "all" (both).
        image_size: Height and width of the pictures.
        device: Where everything is computed.
    """

    action_space: gym.spaces.Discrete
    replayable = True
    fewest: int = 1
    start: tuple[float, float] = MIDDLE

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
        if not self.fewest <= num_objects <= MAX_OBJECTS:
            raise ValueError(
                f"num_objects needs to be {self.fewest} to {MAX_OBJECTS}, which is what the task "
                f"is about and what fits beside the agent, but got {num_objects}."
            )
        if image_size < 16:
            raise ValueError(f"image_size needs to be at least 16 pixels, but got {image_size}.")
        self.action_space = gym.spaces.Discrete(len(_MOVES))
        self.device = usable_device(device)
        self.image_size = image_size
        self.num_objects = num_objects
        self.state_shape = (num_objects + 1, 8)
        self._palette = torch.tensor(COLOURS[colours], dtype=torch.uint8, device=self.device)
        self._moves = torch.tensor(_MOVES, device=self.device)
        self._scene = self._empty(num_scenes)
        self._goal = torch.zeros(num_scenes, dtype=torch.int64, device=self.device)

    @abstractmethod
    def kinds(self, keys: Tensor) -> Kinds:
        """The objects of new episodes: one task differs from another mostly here."""

    def places(self, keys: Tensor, kinds: Kinds) -> Tensor:
        """`[B, N, 2]` where these objects are at first."""
        return scatter_apart(keys, [clear_places(str(self.device))] * self.num_objects)

    def move(self, steps: Tensor) -> None:
        """Moves the agents by `[B, 2]`, as far as the frame lets them."""
        self._scene.centre[:, -1].add_(steps).clamp_(LOW, HIGH)

    def judge(self) -> Outcome:
        """Touching the goal object is worth 1, and touching any object ends the episode."""
        touching, nearest = touches(self._scene, -1, slice(None, -1))
        terminated = touching.any(dim=1)
        success = terminated & (nearest == self._goal)
        return Outcome(success.float(), terminated, success)

    def begin(self, rows: Tensor, keys: Tensor) -> None:
        """Starts new episodes in these rows."""
        kinds = self.kinds(keys)
        scene = self._scene
        scene.centre[rows, :-1] = self.places(keys, kinds)
        scene.centre[rows, -1] = self._start
        scene.shape[rows, :-1] = kinds.shape
        scene.colour[rows, :-1] = kinds.colour
        self._goal[rows] = kinds.goal

    def advance(self, actions: Tensor) -> Outcome:
        """Takes one step in every episode."""
        self.move(self._moves[actions])
        return self.judge()

    def frames(self, rows: Tensor | None = None, *, masks: bool = True) -> Frames:
        """Draws the scenes of these rows, or all; masks come anyway, images are made of them."""
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
        self._start = torch.tensor(self.start, device=device)
        return SpriteScene(
            shape=torch.full((batch, count), SHAPES.index(AGENT[0]), device=device),
            scale=torch.full((batch, count), SCALE, device=device),
            turn=upright.repeat(batch, count, 1),
            centre=self._start.repeat(batch, count, 1),
            colour=colour.repeat(batch, count, 1),
            background=background.repeat(batch, 1),
        )


def touches(scene: SpriteScene, one: int, others: slice) -> tuple[Tensor, Tensor]:
    """Which of these other sprites a sprite touches, and which is the nearest.

    Returns:
        `[B, M]` bool, and `[B]` int64, which decides if several are touched at once.
    """
    distance = squared(scene.centre[:, others] - scene.centre[:, one, None])  # [B, M]
    return distance < TOUCH_SQUARED, distance.argmin(dim=1)


def squared(away: Tensor) -> Tensor:
    """Squared lengths of vectors `[..., 2]`."""
    return (away * away).sum(-1)


def scatter_apart(keys: Tensor, tables: Sequence[Tensor], taken: Tensor | None = None) -> Tensor:
    """`[B, N, 2]` places, one from each table, at least `GAP` from each other.

    Each object takes the first of 32 random places of its table that is far enough from those
    before it, or the furthest of them. With up to three objects hardly any is walled in by the
    others then.

    Args:
        keys: `[B]` int64.
        tables: N times `[P, 2]`, where each object may be.
        taken: `[T, 2]` places, of all scenes, that objects keep the same distance from.
    """
    draws = bits(keys, len(tables) * _CANDIDATES, skip=_KINDS_DRAWS)
    draws = draws.view(len(keys), len(tables), _CANDIDATES)
    rows = torch.arange(len(keys), device=keys.device)
    chosen = None if taken is None else taken.expand(len(keys), -1, -1)
    for table, draw in zip(tables, draws.unbind(1), strict=True):
        candidates = table[integers(draw, len(table))]  # [B, candidates, 2]
        if chosen is None:
            chosen = candidates[:, :1]
            continue
        away = candidates[:, :, None] - chosen[:, None]  # [B, candidates, before, 2]
        distance = squared(away).amin(-1)  # to the nearest
        best = distance.clamp_(max=GAP**2).argmax(dim=1)  # the first, if several are far enough
        chosen = torch.cat([chosen, candidates[rows, best][:, None]], dim=1)
    assert chosen is not None
    return chosen[:, -len(tables) :]


@cache  # recordings read them for good (envs.replay)
def clear_places(
    device: str,
    start: tuple[float, float] = MIDDLE,
    within: tuple[tuple[float, float], tuple[float, float]] = ((LOW, HIGH), (LOW, HIGH)),
) -> Tensor:
    """`[P, 2]`: those of dSprites' 32 x 32 places that keep clear of the agent's start.

    Args:
        device: Where the table is.
        start: x and y of the agent.
        within: Bounds of x and of y.
    """
    with torch.inference_mode(False):  # they outlive the caller's mode
        line = torch.linspace(LOW, HIGH, 32, dtype=torch.float64)
        places = torch.cartesian_prod(line, line)
        clear = (places - torch.tensor(start, dtype=torch.float64)).norm(dim=1) >= CLEARANCE
        low, high = torch.tensor(within, dtype=torch.float64).unbind(1)
        clear &= ((places >= low) & (places <= high)).all(dim=1)
        return places[clear].float().to(device)

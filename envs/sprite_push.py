"""`SpritePush`: push the blue square into the corner, and nothing else."""

from typing import Any

import torch
from torch import Tensor

from envs.base import Outcome, SceneEnv
from envs.counter_rng import bits, integers, without_repeats
from envs.scene import SHAPES
from envs.sprites import (
    HIGH,
    LOW,
    TARGET,
    TOUCH,
    TOUCH_SQUARED,
    Kinds,
    SpriteWorld,
    clear_places,
    scatter_apart,
    squared,
    touches,
)
from envs.vector import SceneVectorEnv

GOAL = ("ellipse", (127, 255, 127))
"""Look of the goal; no palette has the colour."""

CORNER = (LOW, HIGH)
"""Where the goal is: at the left and at the bottom."""

_BEHIND = ((LOW, HIGH - TOUCH), (LOW + TOUCH, HIGH))
"""Bounds of x and of y that leave the agent room to the right of the square and above it."""


class SpritePush(SpriteWorld):
    """The goal, which is object 0, and things that the agent pushes, one of them the blue square.

    The plane is without inertia: an object moves as far as the agent that pushes it.
    """

    fewest = 2
    start = (HIGH, LOW)

    def __init__(self, num_scenes: int, **options: Any):
        super().__init__(num_scenes, **options)
        movable, colours = self.num_objects - 1, len(self._palette)
        highs = [movable] + [len(SHAPES)] * movable + [colours - k for k in range(movable)]
        self._highs = torch.tensor(highs, device=self.device)
        self._blue = torch.tensor(TARGET[1], dtype=torch.uint8, device=self.device)
        self._green = torch.tensor(GOAL[1], dtype=torch.uint8, device=self.device)
        self._corner = torch.tensor([CORNER], device=self.device)

    def kinds(self, keys: Tensor) -> Kinds:
        movable = self.num_objects - 1
        draws = integers(bits(keys, len(self._highs)), self._highs)
        target, shape, colour = draws.split([1, movable, movable], dim=1)
        is_target = torch.arange(movable, device=self.device) == target  # [B, movable]
        shape = torch.where(is_target, SHAPES.index(TARGET[0]), shape)
        colour = torch.where(
            is_target[..., None], self._blue, self._palette[without_repeats(colour)]
        )
        return Kinds(
            shape=torch.cat([torch.full_like(target, SHAPES.index(GOAL[0])), shape], dim=1),
            colour=torch.cat([self._green.expand(len(keys), 1, 3), colour], dim=1),
            goal=target[:, 0],  # its number among the movable
        )

    def places(self, keys: Tensor, kinds: Kinds) -> Tensor:
        device = str(self.device)
        target = clear_places(device, self.start, _BEHIND)
        others = [clear_places(device, self.start)] * (self.num_objects - 2)
        # The square chooses first, while there is most room, and then changes places.
        places = scatter_apart(keys, [target, *others], self._corner)  # [B, movable, 2]
        numbers = torch.arange(self.num_objects - 1, device=self.device).expand(len(keys), -1)
        goal = kinds.goal[:, None]
        order = torch.where(numbers == goal, 0, torch.where(numbers == 0, goal, numbers))
        places = places.gather(1, order[..., None].expand(-1, -1, 2))
        return torch.cat([self._corner.expand(len(keys), 1, 2), places], dim=1)

    def move(self, steps: Tensor) -> None:
        """Moves the agents, and what is in their way; if something else is there, nothing moves."""
        agent, things = self._scene.centre[:, -1], self._scene.centre[:, 1:-1]  # views
        ahead = (agent + steps).clamp_(LOW, HIGH)
        pushed = squared(things - ahead[:, None]) < TOUCH_SQUARED  # [B, M]
        moved = things + (ahead - agent)[:, None] * pushed[..., None]

        outside = ((moved < LOW) | (moved > HIGH)).any(dim=2) & pushed
        between = squared(moved[:, :, None] - moved[:, None])  # [B, M, M]
        hits = (between < TOUCH_SQUARED) & pushed[:, :, None] & ~pushed[:, None]
        free = ~(outside | hits.any(dim=2)).any(dim=1)  # [B]
        agent.copy_(torch.where(free[:, None], ahead, agent))
        things.copy_(torch.where(free[:, None, None], moved, things))

    def judge(self) -> Outcome:
        """The square on the goal is worth 1, and anything pushed there ends the episode."""
        touching, nearest = touches(self._scene, 0, slice(1, -1))
        terminated = touching.any(dim=1)
        success = terminated & (nearest == self._goal)
        return Outcome(success.float(), terminated, success)


class SpritePushEnv(SceneEnv):
    """Push the blue square to the goal in the corner.

    ## Description
    The agent, a red heart, moves among objects in the look of Multi-dSprites and pushes what is in
    its way. One object is the blue square; the goal, a pale green ellipse, is in the lower left
    corner of the middle half of the frame, in which all centres stay. The task is "Object
    Interaction" of the OCRL benchmark (Yoon et al., 2023), re-made so that an encoder trained on
    Multi-dSprites sees familiar frames: agent, goal, blue square, one more object and background
    fill K = 5 slots. All colours of a scene differ.

    A step moves the agent and every object that it would touch after it, by the same distance. If
    one of these objects would leave the middle half of the frame, or touch an object that is not
    pushed, nothing moves. The goal is painted on the ground: agent and objects pass over it.

    ## Action Space
    `Discrete(4)`: 0 up, 1 left, 2 down, 3 right. A step is 0.05 of the frame; the agent's centre
    stays within the middle half of the frame, where all centres in Multi-dSprites are.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`, `Box(0, 1, (32,), float32)`:
    x, y, red, green, blue and the shape (square, ellipse, heart, one-hot) of the goal, of every
    object in an order that does not tell the blue square, and of the agent.

    ## Rewards
    1 when the blue square touches the goal, otherwise 0. Two sprites touch when their centres are
    closer than .15 of the frame. If two objects get there at once, the nearer one counts.

    ## Starting State
    The agent is in the upper right corner of the middle half. Objects take random places at least
    .28 apart, .28 from the goal and .2 from the agent, with room for the agent to the right of the
    blue square and above it; shapes and colours are random, colours without repetition.

    ## Episode End
    Termination: an object other than the agent touches the goal. Truncation: after 100 steps
    (through `gym.make`). `info["is_success"]` tells at every step whether it is the blue square.

    ## Arguments
    * `num_objects` (3): 2 to 6, of which one is the goal and one the blue square; OCRL has 4.
    * `colours` ("train"): the palette of the others. "ood" has six colours that "train" does not
      have, for testing on colours unseen in training; "all" has both.
    * `image_size` (64), `observation` ("pixels"), `info_state` (False): as for `SpriteGoalEnv`.
    * `info_masks` (False): put the instance masks, `[H, W]` uint8, into `info["masks"]`:
      0 background, 1 the goal, 2 to N the other objects, N + 1 the agent, which is drawn on top.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`: `device`, `tensors`, `autoreset_mode`.

    ## Version History
    * v0: initial version.
    """

    world_type = SpritePush


class SpritePushVectorEnv(SceneVectorEnv):
    """`SpritePushEnv`, N at once."""

    world_type = SpritePush

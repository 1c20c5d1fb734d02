"""`SpriteGoal`: touch the blue square, and nothing else."""

from typing import Any

import torch
from torch import Tensor

from envs.base import SceneEnv
from envs.counter_rng import bits, integers, without_repeats
from envs.scene import SHAPES
from envs.sprites import TARGET, Kinds, SpriteWorld
from envs.vector import SceneVectorEnv


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

"""`SpriteObjectComparison` and `SpritePropertyComparison`: touch the odd one out."""

from typing import Any

import torch
from torch import Tensor

from envs.base import SceneEnv
from envs.counter_rng import bits, integers, without_repeats
from envs.scene import SHAPES
from envs.sprites import Kinds, SpriteWorld
from envs.vector import SceneVectorEnv

_NUM_SHAPES = len(SHAPES)


class SpriteObjectComparison(SpriteWorld):
    """All objects but one are equal; that one differs in colour or in shape."""

    fewest = 3

    def __init__(self, num_scenes: int, **options: Any):
        super().__init__(num_scenes, **options)
        colours = len(self._palette)
        highs = [self.num_objects, 2, _NUM_SHAPES, _NUM_SHAPES - 1, colours, colours - 1]
        self._highs = torch.tensor(highs, device=self.device)

    def kinds(self, keys: Tensor) -> Kinds:
        draws = integers(bits(keys, len(self._highs)), self._highs)
        goal, by_colour = draws[:, :1], draws[:, 1:2].bool()  # [B, 1]
        odd = torch.arange(self.num_objects, device=self.device) == goal  # [B, N]
        shape = without_repeats(draws[:, 2:4])  # [B, 2], the others' and the odd one's
        colour = without_repeats(draws[:, 4:6])
        return Kinds(
            shape=shape.gather(1, (odd & ~by_colour).long()),
            colour=self._palette[colour.gather(1, (odd & by_colour).long())],
            goal=goal[:, 0],
        )


class SpritePropertyComparison(SpriteWorld):
    """All objects but one agree in colour, or in shape; the other property is dealt out evenly.

    The dealt property is different for each of three objects; among more, two or three objects
    share a value. So nobody stands alone in it, and few objects, if any, are equal.
    """

    fewest = 3

    def __init__(self, num_scenes: int, **options: Any):
        super().__init__(num_scenes, **options)
        count, colours = self.num_objects, len(self._palette)
        self._values = 3 if count == 3 else count // 2  # of the dealt property
        highs = [count, 2, *range(count, 0, -1)]
        for kinds in (_NUM_SHAPES, colours):
            highs += [kinds - k for k in range(self._values)]
        self._highs = torch.tensor(highs, device=self.device)

    def kinds(self, keys: Tensor) -> Kinds:
        count, values = self.num_objects, self._values
        draws = integers(bits(keys, len(self._highs)), self._highs)
        goal, by_colour, order, shape, colour = draws.split([1, 1, count, values, values], dim=1)
        odd = (torch.arange(count, device=self.device) == goal).long()  # [B, N]
        dealt = without_repeats(order) % values  # [B, N]
        told = by_colour.bool()
        return Kinds(
            shape=without_repeats(shape).gather(1, torch.where(told, dealt, odd)),
            colour=self._palette[without_repeats(colour).gather(1, torch.where(told, odd, dealt))],
            goal=goal[:, 0],
        )


class SpriteObjectComparisonEnv(SceneEnv):
    """Touch the object unlike the others.

    ## Description
    The agent, a red heart, moves among objects in the look of Multi-dSprites. All objects but one
    have the same colour and the same shape; the odd one has another colour or, as often, another
    shape. Which colours and shapes these are changes with every episode, so that objects need to be
    compared. The task is "Object Comparison" of the OCRL benchmark (Yoon et al., 2023), re-made
    so that an encoder trained on Multi-dSprites sees familiar frames: agent, three objects and
    background fill K = 5 slots. Objects of the same colour are in the nature of the task; a model
    that groups pixels by colour alone fails here.

    ## Action Space
    `Discrete(4)`: 0 up, 1 left, 2 down, 3 right. A step is 0.05 of the frame; the agent's centre
    stays within the middle half of the frame, where all centres in Multi-dSprites are.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`, `Box(0, 1, (32,), float32)`:
    x, y, red, green, blue and the shape (square, ellipse, heart, one-hot) of every object, in an
    order that does not tell the odd one, and then of the agent.

    ## Rewards
    1 for touching the odd one, otherwise 0. Two sprites touch when their centres are closer than
    .15 of the frame. If two objects are touched at once, the nearer one counts.

    ## Starting State
    The agent is in the middle. Objects take random places at least .28 apart and .2 from the agent.
    Two different colours and two different shapes are drawn, and which of the two properties the
    odd one differs in.

    ## Episode End
    Termination: the agent touches any object. Truncation: after 100 steps (through `gym.make`).
    `info["is_success"]` tells at every step whether the odd one has been touched.

    ## Arguments
    * `num_objects` (3): 3 to 6; OCRL has 4.
    * `colours` ("train"): the palette. "ood" has six colours that "train" does not have, for
      testing on colours unseen in training; "all" has both.
    * `image_size` (64), `observation` ("pixels"), `info_masks` (False), `info_state` (False): as
      for `SpriteGoalEnv`.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`: `device`, `tensors`, `autoreset_mode`.

    ## Version History
    * v0: initial version.
    """

    world_type = SpriteObjectComparison


class SpriteObjectComparisonVectorEnv(SceneVectorEnv):
    """`SpriteObjectComparisonEnv`, N at once."""

    world_type = SpriteObjectComparison


class SpritePropertyComparisonEnv(SceneEnv):
    """Touch the object that differs in a property in which all others agree.

    ## Description
    The agent, a red heart, moves among objects in the look of Multi-dSprites. All objects but one
    agree in one property, colour or shape, and the odd one differs in it. In the other property
    three objects are all different; more than three form groups of two or three, so that nobody
    stands alone. Equal objects are rare or absent, and comparing whole objects does not tell the
    odd one: properties need to be compared. The task is "Property Comparison" of the OCRL
    benchmark (Yoon et al., 2023), where four objects have two colours and two shapes; with four
    objects the rule is that one's, "the only object with a unique colour or shape".

    ## Action Space
    `Discrete(4)`: 0 up, 1 left, 2 down, 3 right. A step is 0.05 of the frame; the agent's centre
    stays within the middle half of the frame, where all centres in Multi-dSprites are.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`, `Box(0, 1, (32,), float32)`:
    x, y, red, green, blue and the shape (square, ellipse, heart, one-hot) of every object, in an
    order that does not tell the odd one, and then of the agent.

    ## Rewards
    1 for touching the odd one, otherwise 0. Two sprites touch when their centres are closer than
    .15 of the frame. If two objects are touched at once, the nearer one counts.

    ## Starting State
    The agent is in the middle. Objects take random places at least .28 apart and .2 from the agent.
    Which property tells the odd one, and all colours and shapes, are random.

    ## Episode End
    Termination: the agent touches any object. Truncation: after 100 steps (through `gym.make`).
    `info["is_success"]` tells at every step whether the odd one has been touched.

    ## Arguments
    * `num_objects` (3): 3 to 6; OCRL has 4.
    * `colours` ("train"): the palette. "ood" has six colours that "train" does not have, for
      testing on colours unseen in training; "all" has both.
    * `image_size` (64), `observation` ("pixels"), `info_masks` (False), `info_state` (False): as
      for `SpriteGoalEnv`.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`: `device`, `tensors`, `autoreset_mode`.

    ## Version History
    * v0: initial version.
    """

    world_type = SpritePropertyComparison


class SpritePropertyComparisonVectorEnv(SceneVectorEnv):
    """`SpritePropertyComparisonEnv`, N at once."""

    world_type = SpritePropertyComparison

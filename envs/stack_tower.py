"""`StackTower`: set down block after block so that a ShapeStacks tower stands until it is complete.

Blocks fall by MuJoCo, each tower for itself and many at a time; all are drawn at once.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from envs.base import Outcome, SceneEnv, check_choice, usable_device
from envs.raycast import Renderer
from envs.solids import SOLIDS, Camera, Solids, SolidScene, StackStage
from envs.sprites_render import Frames
from envs.stack_tower_physics import Pile, height_of
from envs.stack_tower_plan import PALETTES, SPOT, VIEWS, Plans, draw_plans
from envs.textures import stack_textures
from envs.tower_blocks import CUBOID, LYING, MAX_BLOCKS
from envs.tower_physics import mujoco_module
from envs.towers import stack_camera
from envs.vector import SceneVectorEnv

STEP = 0.4
"""Between neighbouring places that a block can be moved to; lengths are in the room's units."""

SIDEWAYS, NEARER = (-2, -1, 0, 1, 2), (0, 1, 2, 3)
"""Steps that a block can be moved by, to the right and towards the camera."""

HANG = 0.6
"""Height of the next block above the tower."""

FIRST_CAMERA = 13
"""Of the four cameras of ShapeStacks that look down steeply."""

_SOLID_OF = torch.tensor([SOLIDS.index(s) for s in ("box", "cylinder", "cylinder", "sphere")])
_NUMBERS = 17  # in the true state of a block
_REACH, _HIGHEST = 2.0, 6.0  # what the state's places are divided by


class StackTower:
    """Episodes of the task.

    Places are those that the camera sees: x to the right of the room's axis, y beyond it, z up.

    Args:
        num_scenes: How many episodes advance together.
        num_objects: Blocks of the complete tower, 2 to 6; one stands at first.
        colours: Of the blocks: "train", those of ShapeStacks, "ood", those between them, or "all".
        image_size: Height and width of the pictures.
        samples: Rays per pixel in each direction; 1 is faster, 2 looks more like the data set.
        textures: ShapeStacks' own `mjcf/textures`; procedural look-alikes unless given.
        device: Where pictures are drawn. Blocks fall on the CPU.
        threads: How many towers are simulated at a time; as many as there are cores unless given.
    """

    replayable = False  # MuJoCo is called anew

    def __init__(
        self,
        num_scenes: int,
        *,
        num_objects: int = 5,
        colours: Literal["train", "ood", "all"] = "train",
        image_size: int = 64,
        samples: int = 1,
        textures: str | None = None,
        device: torch.device | str = "cpu",
        threads: int | None = None,
    ):
        check_choice("colours", colours, tuple(PALETTES))
        if not 2 <= num_objects <= MAX_BLOCKS:
            raise ValueError(
                f"num_objects needs to be 2 to {MAX_BLOCKS} blocks, but got {num_objects}."
            )
        if image_size < 16:
            raise ValueError(f"image_size needs to be at least 16 pixels, but got {image_size}.")
        if samples not in (1, 2, 3):
            raise ValueError(f"samples needs to be 1, 2 or 3 rays, but got {samples}.")
        if threads is not None and threads < 1:
            raise ValueError(f"threads needs to be at least 1, but got {threads}.")
        mujoco_module()  # a missing one is reported now, not by the first episode
        self.action_space = gym.spaces.Discrete(len(SIDEWAYS) * len(NEARER))
        self.device = usable_device(device)
        self.image_size, self.samples, self.num_objects = image_size, samples, num_objects
        self.state_shape = (MAX_BLOCKS, _NUMBERS)  # for any tower: agents can be tried on others
        self._textures = textures
        if textures is not None:
            _renderer(textures, self.device)  # what is wrong with them shows at once
        self._camera, self._right = _cameras()
        self._palette = palette = torch.tensor(PALETTES[colours], dtype=torch.float32)
        self._threads = min(threads or os.cpu_count() or 1, num_scenes)
        self._pool: ThreadPoolExecutor | None = None

        shape = (num_scenes, num_objects)
        self._plans = draw_plans(torch.zeros(num_scenes, dtype=torch.int64), num_objects, palette)
        self._piles: list[Pile | None] = [None] * num_scenes
        self._hangs = np.zeros((*shape, 2))
        self._position = np.zeros((*shape, 3))
        self._rotation = np.tile(np.eye(3), (*shape, 1, 1))
        self._standing = np.zeros(num_scenes, dtype=np.int64)  # blocks that have been set down
        self._over = np.ones(num_scenes, dtype=bool)

    def begin(self, rows: Tensor, keys: Tensor) -> None:
        """Starts new episodes in these rows."""
        rows, plans = rows.cpu(), draw_plans(keys.cpu(), self.num_objects, self._palette)
        for kept, drawn in zip(self._plans, plans, strict=True):
            kept[rows] = drawn
        columns = (plans.kind, plans.size, plans.yaw, plans.spot)
        for row, kind, size, yaw, spot in zip(
            rows.tolist(), *(column.numpy() for column in columns), strict=True
        ):
            turns = [_turned(*of) for of in zip(kind, yaw.tolist(), strict=True)]
            self._rotation[row] = turns
            blocks = kind.tolist(), size, self._rotation[row], spot
            if (pile := self._piles[row]) is None:
                self._piles[row] = Pile(*blocks)
            else:
                pile.begin(*blocks)
            self._over[row] = False
            self._show(row)

    def advance(self, actions: Tensor) -> Outcome:
        """Sets down the next block of every tower; nothing more happens to those that are over."""
        action = actions.cpu().numpy()
        moves = np.stack(
            [
                STEP * np.take(SIDEWAYS, action % len(SIDEWAYS)),
                -STEP * np.take(NEARER, action // len(SIDEWAYS)),
            ],
            axis=-1,
        )
        playing = np.flatnonzero(~self._over)
        stands = np.zeros(len(self._over), dtype=bool)
        stands[playing] = self._each(self._set_down, playing, moves[playing])
        success = stands & self._over
        return Outcome(
            torch.from_numpy(stands.astype(np.float32) / (self.num_objects - 1)),
            torch.from_numpy(self._over.copy()),
            torch.from_numpy(success),
        )

    def frames(self, rows: Tensor | None = None, *, masks: bool = True) -> Frames:
        """Draws the towers of these rows, or all; masks number the blocks from the bottom."""
        chosen = slice(None) if rows is None else rows.cpu().numpy()
        plans = self._plans if rows is None else Plans(*(value[chosen] for value in self._plans))
        # As vectors [B, N, 4, 3]: where blocks are, and their own axes.
        place, axes = self._position[chosen][:, :, None], self._rotation[chosen].swapaxes(2, 3)
        right = self._right[plans.view][:, None, None]  # [B, 1, 1, 2]
        vectors = _to_world(torch.from_numpy(np.concatenate([place, axes], axis=2)), right).float()
        solids = Solids(
            kind=_SOLID_OF[plans.kind],
            size=plans.size.float(),
            position=vectors[:, :, 0],
            rotation=vectors[:, :, 1:].transpose(2, 3),
            colour=plans.colour,
            owner=torch.from_numpy(self._owners()[chosen]),
        )
        stage = StackStage(plans.floor, plans.wall, plans.light)
        scene = SolidScene(solids, stage, self._camera[plans.view])
        renderer = _renderer(self._textures, self.device)
        return Frames(*renderer.render(scene, self.image_size, self.samples, masks)[:2])

    def state(self, rows: Tensor | None = None) -> Tensor:
        """`[B, 6 * 17]`: what is seen of the blocks, from the bottom; 0 for those not in sight."""
        chosen = slice(None) if rows is None else rows.cpu().numpy()
        kind, size, colour = (
            getattr(self._plans, name)[chosen].numpy() for name in ("kind", "size", "colour")
        )
        place, axis = self._position[chosen], self._rotation[chosen][..., :2, 0]
        low = np.array([-_REACH, np.mean(SPOT[1]) - _REACH, 0])
        place = (place - low) / (2 * _REACH, 2 * _REACH, _HIGHEST)
        # A block looks the same after half a turn, and round ones after any.
        x, y = np.moveaxis(axis, -1, 0) * np.isin(kind, (CUBOID, LYING))
        turn = np.stack([x * x - y * y + 1, 2 * x * y + 1], axis=-1) / 2
        one_hot = kind[..., None] == np.arange(4)
        owners = self._owners()[chosen]
        standing = owners * (np.arange(self.num_objects) < self._standing[chosen, None]) > 0
        flags = np.stack([standing, (owners > 0) & ~standing], axis=-1)
        columns = [place, size, turn, colour, one_hot, flags]
        state = np.concatenate(columns, axis=-1).clip(0, 1) * (owners > 0)[..., None]
        flat = np.zeros((len(state), math.prod(self.state_shape)), dtype=np.float32)
        flat[:, : self.num_objects * _NUMBERS] = state.reshape(len(state), -1)
        return torch.from_numpy(flat).to(self.device)

    def _set_down(self, row: int, move: np.ndarray) -> bool:
        pile = self._piles[row]
        assert pile is not None
        block = pile.count
        stands = pile.add(self._position[row, block, :2] + move)
        self._over[row] = not stands or pile.count == self.num_objects
        self._show(row)
        return stands

    def _show(self, row: int) -> None:
        """Takes over where the blocks of a tower are, and hangs up the next one."""
        pile = self._piles[row]
        assert pile is not None
        block = self._standing[row] = pile.count
        self._position[row, :block] = pile.position
        self._rotation[row, :block] = pile.rotation
        if not self._over[row]:
            kind, size = int(self._plans.kind[row, block]), self._plans.size[row, block].numpy()
            half = height_of(kind, size, self._rotation[row, block]) / 2
            beside = self._plans.hangs[row, block].numpy()
            self._position[row, block, :2] = self._position[row, block - 1, :2] + beside
            self._position[row, block, 2] = pile.top() + HANG + half

    def _owners(self) -> np.ndarray:
        """`[S, N]` int64: the number of every block that is in sight, and 0."""
        number = np.arange(1, self.num_objects + 1)
        return number * (number <= (self._standing + ~self._over)[:, None])

    def _each(self, call: Callable[[int, np.ndarray], bool], *columns: np.ndarray) -> list[bool]:
        """Calls for every tower, in threads if there are several of both."""
        if self._threads == 1 or len(columns[0]) < 2:
            return list(map(call, *columns))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        return list(self._pool.map(call, *columns))


def _turned(kind: int, degrees: int) -> np.ndarray:
    """`[3, 3]`: the axes of a block that is about to be set down, as in `Towers.rotation`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return np.stack([x, z, -y] if kind == LYING else [x, y, z], axis=-1)


def _to_world(vector: Tensor, right: Tensor) -> Tensor:
    """`[..., 3]` vectors, to the right, away and up, in the room's axes; `right` is `[..., 2]`."""
    (x, y, z), (cos, sin) = vector.unbind(-1), right.unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos, z], dim=-1)


@lru_cache(maxsize=1)
def _cameras() -> tuple[Camera, Tensor]:
    """The four cameras, and `[4, 2]` float64 which way is right for them."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        cameras = stack_camera(torch.arange(FIRST_CAMERA, FIRST_CAMERA + VIEWS), crop=True)
        return cameras, cameras.rotation[:, :2, 0].double()


@lru_cache(maxsize=4)
def _renderer(textures: str | None, device: torch.device) -> Renderer:
    with torch.inference_mode(False):  # it outlives the caller's mode
        return Renderer(stack_textures(textures), device)


class StackTowerEnv(SceneEnv):
    """Set down block after block so that the tower stands until it is complete.

    ## Description
    A ShapeStacks room, seen from one of the data set's four cameras that look down steeply. One
    block stands on the floor, and the next hangs above it and off to a side or behind: it has to be
    moved over the tower before it is let go. Floor, walls, light, camera, kinds of block, sizes and
    colours are drawn anew for every episode, within those of the data set's recipe, so that an
    encoder trained on generated towers sees familiar frames. Blocks are cuboids and standing
    cylinders; the last one may also be a sphere or a lying cylinder. MuJoCo simulates every block
    that is let go, with the contacts that `envs.tower_physics` decides about towers by.

    ## Action Space
    `Discrete(20)`: action `5 * n + r` moves the block that hangs by .4 (r - 2) units to the right
    (r from 0 to 4) and by .4 n towards the camera (n from 0 to 3), lowers it to the tower and lets
    it go. The best action leaves it within .2 units of the middle of the block below in either
    direction; half of a block's side is .35 to .6.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`,
    `Box(0, 1, (102,), float32)`: 17 numbers for each of six blocks from the bottom, 0 for those
    that are not in sight: centre (to the right, away from the camera, up), half sizes, cosine and
    sine of twice its yaw, red, green, blue, kind (cuboid, standing cylinder, lying cylinder,
    sphere; one-hot), whether it has been set down, and whether it hangs. The size does not depend
    on `num_objects`.

    ## Rewards
    1 / (N - 1) for every block after which the tower stands, 1 in all for a complete tower of N
    blocks, and 0 when it falls.

    ## Starting State
    The lowest block stands before the middle of the room, where a tower of six is in view. Each
    block hangs .6 units above the tower, up to 1 to the left or right of the block below, and from
    .2 before to 1.4 behind it, so that it does not hide where it is going.

    ## Episode End
    Termination: the tower falls, that is the centre of a block moves by more than .2 units from
    where it was set down; or it is complete. A block is watched until everything is at rest (no
    block faster than .01 units or radians a second), for 2 seconds at most. Truncation: never
    before that, as episodes are shorter than `gym.make`'s limit of 100 steps.
    `info["is_success"]` tells at every step whether the tower is complete.

    ## Arguments
    * `num_objects` (5): blocks of the complete tower, 2 to 6.
    * `colours` ("train"): "train", ShapeStacks' six, "ood", six between them that it does not have,
      or "all". Blocks of a tower differ.
    * `image_size` (64), `samples` (1): pixels, and rays per pixel in each direction; 2 is slower,
      without jagged edges, and nearer to what an encoder of the data set has seen.
    * `textures` (None): ShapeStacks' own `mjcf/textures`; procedural look-alikes unless given.
    * `observation` ("pixels"): or "state", the true factors, as an upper baseline.
    * `info_masks` (False): put the instance masks, `[H, W]` uint8, into `info["masks"]`: 0 the
      room, k the k-th block from the bottom.
    * `info_state` (False): put the true factors into `info["state"]`.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`, `device`, `tensors` and `autoreset_mode`, and `threads`, how many
    towers are simulated at a time; as many as there are cores unless given. Threads change no bit.

    Needs MuJoCo: `pip install 'genesis-rl[env]'`.

    ## Version History
    * v0: initial version.
    """

    world_type = StackTower


class StackTowerVectorEnv(SceneVectorEnv):
    """`StackTowerEnv`, N at once."""

    world_type = StackTower

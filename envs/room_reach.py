"""`RoomReach`: walk an avatar across a GQN room to the blue sphere, and touch nothing else."""

from functools import lru_cache
from typing import Literal, NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from envs.base import Outcome, SceneEnv, check_choice, usable_device
from envs.counter_rng import bits, fold, integers, without_repeats
from envs.raycast import Renderer
from envs.rooms import (
    ROOM_SHAPES,
    Rooms,
    distance,
    draw_rooms,
    footprints,
    ring_camera,
    room_scene,
    view_angles,
    vivid,
)
from envs.sprites_render import Frames
from envs.textures import room_textures
from envs.vector import SceneVectorEnv

STEP = 0.2
"""How far the avatar walks in one step; lengths are in the room's units."""

REACH = 1.0
"""Objects stay in a square of the floor that is all in view: so far from the room's axis to the
left, to the right, towards the camera and away from it."""

CLEARANCE, GAP = 0.85, 0.9
"""Least distance of an object from the avatar's start, and of two objects from each other."""

SATURATION = 0.85
AVATAR = ("capsule", (0.2, 0.2, 0.525), 0.0)  # shape, half sizes, hue: red
TARGET = ("sphere", (0.3, 0.3, 0.3), 2 / 3)  # blue
SHAPES = ("box", "sphere", "cylinder", "cone", "capsule")
"""What objects may be; the capsule is the avatar alone."""

_OBJECTS = {  # half sizes, within those of the data set
    "box": (0.24, 0.24, 0.3),
    "sphere": (0.3, 0.3, 0.3),
    "cylinder": (0.25, 0.25, 0.35),
    "cone": (0.405, 0.405, 0.38),
}
_HUES: dict[str, tuple[int, ...]] = {  # in degrees; red and blue are taken
    "train": (30, 60, 90, 120, 180, 300),
    "ood": (45, 75, 105, 150, 275, 330),
}
_HUES["all"] = _HUES["train"] + _HUES["ood"]
_MOVES = ((0.0, STEP), (-STEP, 0.0), (0.0, -STEP), (STEP, 0.0))  # away, left, towards, right
_CANDIDATES = 32
MAX_OBJECTS = 3


class _Kinds(NamedTuple):
    """What the objects of B episodes look like, and which is the target."""

    shape: Tensor  # [B, N] int64, an index into `_OBJECTS`
    hue: Tensor  # [B, N] float32
    goal: Tensor  # [B] int64


class RoomReach:
    """Episodes of the task, an avatar being the last object of every room.

    Places are those that the camera sees: x to the right of the room's axis, y beyond it.

    Args:
        num_scenes: How many episodes advance together.
        num_objects: Objects beside the avatar, 1 to 3.
        colours: Of the objects: "train", "ood" (hues that the other does not have) or "all".
        image_size: Height and width of the pictures.
        samples: Rays per pixel in each direction; 1 is faster, 2 looks like the data set.
        textures: "labmaze" for the genuine ones, "procedural", or "auto" for what is installed.
        device: Where everything is computed.
    """

    def __init__(
        self,
        num_scenes: int,
        *,
        num_objects: int = 2,
        colours: Literal["train", "ood", "all"] = "train",
        image_size: int = 64,
        samples: int = 2,
        textures: Literal["auto", "labmaze", "procedural"] = "auto",
        device: torch.device | str = "cpu",
    ):
        check_choice("colours", colours, tuple(_HUES))
        if not 1 <= num_objects <= MAX_OBJECTS:
            raise ValueError(f"num_objects needs to be 1 to {MAX_OBJECTS}, but got {num_objects}.")
        if image_size < 16:
            raise ValueError(f"image_size needs to be at least 16 pixels, but got {image_size}.")
        if samples not in (1, 2, 3):
            raise ValueError(f"samples needs to be 1, 2 or 3 rays, but got {samples}.")
        self.action_space = gym.spaces.Discrete(len(_MOVES))
        self.device = usable_device(device)
        self.image_size, self.samples, self.num_objects = image_size, samples, num_objects
        self.state_shape = (num_objects + 1, 5 + len(SHAPES))
        self._renderer = _renderer(textures, self.device)
        self.replayable = self._renderer.fused  # plain torch picks out the rays that meet objects
        self._hues = torch.tensor(_HUES[colours], device=self.device) / 360
        self._moves = torch.tensor(_MOVES, device=self.device)
        self._kinds_of = torch.tensor([ROOM_SHAPES.index(s) for s in _OBJECTS], device=self.device)
        self._sizes_of = torch.tensor([*_OBJECTS.values()], device=self.device)
        hues = len(self._hues)
        highs = (
            [num_objects] + [len(_OBJECTS)] * num_objects + [hues - k for k in range(num_objects)]
        )
        self._highs = torch.tensor(highs, device=self.device)
        self._shapes = torch.tensor([ROOM_SHAPES.index(s) for s in SHAPES], device=self.device)
        self._goal = torch.zeros(num_scenes, dtype=torch.int64, device=self.device)
        self._angle = torch.zeros(num_scenes, device=self.device)
        self._rooms = self._empty(num_scenes)

    def begin(self, rows: Tensor, keys: Tensor) -> None:
        """Starts new episodes in these rows."""
        kinds, rooms = self._kinds(fold(keys, 0)), self._rooms
        drawn = draw_rooms(fold(keys, 1), torch.zeros_like(keys))
        rooms.shape[rows, :-1] = self._kinds_of[kinds.shape]
        rooms.size[rows, :-1] = self._sizes_of[kinds.shape]
        rooms.colour[rows, :-1] = vivid(kinds.hue, torch.full_like(kinds.hue, SATURATION))
        rooms.yaw[rows, :-1] = drawn.yaw[:, : self.num_objects]
        places = scatter(fold(keys, 2), self.num_objects)
        rooms.place[rows] = F.pad(places, (0, 0, 0, 1))  # the avatar is on the axis
        for name in ("floor", "wall", "light"):
            getattr(rooms, name)[rows] = getattr(drawn, name)
        self._goal[rows] = kinds.goal
        self._angle[rows] = view_angles(fold(keys, 3), torch.zeros_like(keys), 1)[:, 0]

    def advance(self, actions: Tensor) -> Outcome:
        """Takes one step in every episode; touching any object ends it."""
        place = self._rooms.place
        place[:, -1].add_(self._moves[actions]).clamp_(-REACH, REACH)
        radius = footprints(self._rooms.shape, self._rooms.size)  # [B, N + 1]
        away = distance(place[:, :-1] - place[:, -1:])
        room = away - radius[:, :-1] - radius[:, -1:]
        terminated = (room < 0).any(dim=1)
        success = terminated & (room.argmin(dim=1) == self._goal)
        return Outcome(success.float(), terminated, success)

    def frames(self, rows: Tensor | None = None, *, masks: bool = True) -> Frames:
        """Draws the rooms of these rows, or all; masks number the objects, the avatar last."""
        rooms, angle = self._rooms, self._angle
        if rows is not None:
            rooms, angle = Rooms(*(value[rows] for value in rooms)), angle[rows]
        camera = ring_camera(angle)
        right, away = camera.rotation[:, :2, 0], -camera.rotation[:, :2, 2]  # [B, 2] each
        x, y = rooms.place[..., :1], rooms.place[..., 1:]
        rooms = rooms._replace(place=x * right[:, None] + y * away[:, None])
        scene = room_scene(rooms, camera)
        return Frames(*self._renderer.render(scene, self.image_size, self.samples, masks)[:2])

    def state(self, rows: Tensor | None = None) -> Tensor:
        """`[B, (N + 1) * 10]`: x, y, colour and one-hot shape of every object and of the avatar."""
        rooms = self._rooms
        if rows is not None:
            rooms = Rooms(*(value[rows] for value in rooms))
        one_hot = (rooms.shape[..., None] == self._shapes).float()
        place = (rooms.place / REACH + 1) / 2
        return torch.cat([place, rooms.colour, one_hot], dim=-1).flatten(1)

    def _kinds(self, keys: Tensor) -> _Kinds:
        """One object is the blue sphere; the others differ from it and each other in hue."""
        count = self.num_objects
        draws = integers(bits(keys, len(self._highs)), self._highs)
        goal, shape, hue = draws.split([1, count, count], dim=1)
        target = torch.arange(count, device=self.device) == goal  # [B, N]
        return _Kinds(
            shape=torch.where(target, [*_OBJECTS].index(TARGET[0]), shape),
            hue=torch.where(target, TARGET[2], self._hues[without_repeats(hue)]),
            goal=goal[:, 0],
        )

    def _empty(self, batch: int) -> Rooms:
        """Rooms with the avatar and, for the objects, placeholders."""
        count, device = self.num_objects + 1, self.device
        shape, size, hue = AVATAR
        colour = vivid(torch.tensor(hue), torch.tensor(SATURATION))
        return Rooms(
            shape=torch.full((batch, count), ROOM_SHAPES.index(shape), device=device),
            size=torch.tensor(size, device=device).repeat(batch, count, 1),
            colour=colour.to(device).repeat(batch, count, 1),
            place=torch.zeros(batch, count, 2, device=device),
            yaw=torch.zeros(batch, count, device=device),
            present=torch.ones(batch, count, dtype=torch.bool, device=device),
            floor=torch.zeros(batch, dtype=torch.int64, device=device),
            wall=torch.zeros(batch, dtype=torch.int64, device=device),
            light=torch.zeros(batch, 3, device=device),
        )


def scatter(keys: Tensor, count: int) -> Tensor:
    """`[B, count, 2]` places of objects, clear of the avatar's start and of each other.

    Each object takes the first of 32 random places that is clear, or the one with the most room.
    """
    draws = integers(bits(keys, count * _CANDIDATES * 2), 1 << 16).view(len(keys), count, -1, 2)
    tries = (draws.float() / (1 << 15) - 1) * REACH
    rows = torch.arange(len(keys), device=keys.device)
    chosen = tries[:, :0, 0]  # none yet
    for k in range(count):
        room = distance(tries[:, k]) - CLEARANCE
        if k:
            apart = distance(tries[:, k, :, None] - chosen[:, None]).amin(-1) - GAP
            room = torch.minimum(room, apart)
        best = room.clamp_(max=0).argmax(dim=1)  # the first, if several are clear
        chosen = torch.cat([chosen, tries[rows, k, best][:, None]], dim=1)
    return chosen


@lru_cache(maxsize=4)
def _renderer(textures: Literal["auto", "labmaze", "procedural"], device: torch.device) -> Renderer:
    with torch.inference_mode(False):  # it outlives the caller's mode
        return Renderer(room_textures(textures), device)


class RoomReachEnv(SceneEnv):
    """Walk to the blue sphere, and touch nothing else.

    ## Description
    A red capsule, the avatar, stands among objects in a GQN room (`rooms_ring_camera`), seen from a
    camera on the ring of the data set, whose place is drawn anew for every episode, as are floor,
    walls and lamp. One object is the blue sphere; all objects differ in hue. With two objects and
    the avatar a room holds three, the most that the data set has, so that an encoder trained on it
    sees familiar frames.

    ## Action Space
    `Discrete(4)`: as seen by the camera, 0 away from it, 1 left, 2 towards it, 3 right. A step is
    0.2 units; the avatar stays within 1 unit of the room's axis in each of these directions.

    ## Observation Space
    `Box(0, 255, (64, 64, 3), uint8)`, RGB. With `observation="state"`, `Box(0, 1, (30,), float32)`:
    x (to the right) and y (away from the camera), red, green, blue and the shape (box, sphere,
    cylinder, cone, capsule; one-hot) of every object, in an order that does not tell the target,
    and then of the avatar.

    ## Rewards
    1 for touching the blue sphere, otherwise 0. Two objects touch when the discs that they take on
    the floor meet: the avatar's has a radius of .2, the others' of .25 to .41. If two are touched
    at once, the one that overlaps more counts.

    ## Starting State
    The avatar is on the room's axis. Objects take random places at least .9 apart and .85 from the
    avatar, random shapes, and random hues without repetition. None of 4,000 targets was walled in
    by the others; in 3 of 100 rooms the sphere is hidden behind another object at first.

    ## Episode End
    Termination: the avatar touches any object. Truncation: after 100 steps (through `gym.make`).
    `info["is_success"]` tells at every step whether the blue sphere has been touched.

    ## Arguments
    * `num_objects` (2): 1 to 3 beside the avatar.
    * `colours` ("train"): the palette of the other objects. "ood" has six hues that "train" does
      not have, for testing on colours unseen in training; "all" has both.
    * `image_size` (64), `samples` (2): pixels, and rays per pixel in each direction; 1 is faster.
    * `textures` ("auto"): "labmaze" or "procedural" surfaces; "auto" takes labmaze's if installed.
    * `observation` ("pixels"): or "state", the true factors, as an upper baseline.
    * `info_masks` (False): put the instance masks, `[H, W]` uint8, into `info["masks"]`: 0 the
      room, 1 to N the objects, N + 1 the avatar.
    * `info_state` (False): put the true factors into `info["state"]`.

    `gym.make_vec` makes the natively vectorised form, which also takes the arguments of
    `envs.vector.SceneVectorEnv`: `device`, `tensors`, `autoreset_mode`.

    ## Version History
    * v0: initial version.
    """

    world_type = RoomReach


class RoomReachVectorEnv(SceneVectorEnv):
    """`RoomReachEnv`, N at once."""

    world_type = RoomReach

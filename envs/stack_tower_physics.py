"""A tower that grows block by block, simulated by MuJoCo with the settings of `tower_physics`.

Shapes: N blocks, of which the first k have been set down. Own frame, lengths in world units, z up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.tower_blocks import CUBOID, SPHERE
from envs.tower_physics import (
    FALL,
    TIMESTEP,
    add_block,
    empty_floor,
    mujoco_module,
    reshape_blocks,
)

GAP = 0.002
"""Height above the tower at which a block is let go."""

ROLLING = 0.02
"""Rolling friction, ten times that of `tower_physics`: towers lean a little where blocks are off
centre, and a ball on top of one would roll off long after it was set down."""

REST = 0.01
"""A tower is at rest once no block is faster: world units or radians a second."""

SECONDS = 2.0
"""Longest that a block is waited for; what has not come down until then stands."""

_CHECK_EVERY = 5  # steps
_AT_LEAST = 4  # checks: a block that is let go begins at rest
_AWAY = 50.0
_ARENA = 1 << 20  # bytes for contacts; MuJoCo's default takes longer to allocate than a compile


class Pile:
    """One tower. Its outcome depends on itself alone, whatever else runs beside it.

    Args:
        kinds: N of `CUBOID` to `SPHERE`, the lowest first. Only the last may be curved.
        sizes: `[N, 3]` half sizes.
        rotations: `[N, 3, 3]`, own axes to the frame's, as blocks are set down.
        spot: x and y of the first block, which stands from the start.
    """

    def __init__(
        self,
        kinds: Sequence[int],
        sizes: np.ndarray,
        rotations: np.ndarray,
        spot: Sequence[float],
    ):
        self._mujoco = mujoco_module()
        spec = empty_floor()
        spec.memory = _ARENA
        for block in range(len(kinds)):
            # What has not been set down floats far away from everything.
            place = [_AWAY * block, 0, _AWAY]
            add_block(spec, CUBOID, [1, 1, 1], place, np.eye(3), rolling=ROLLING)
        self._model = spec.compile()
        self._data = self._mujoco.MjData(self._model)
        self.begin(kinds, sizes, rotations, spot)

    def begin(
        self,
        kinds: Sequence[int],
        sizes: np.ndarray,
        rotations: np.ndarray,
        spot: Sequence[float],
    ) -> None:
        """Starts another tower of as many blocks: compiling one takes ten times as long."""
        reshape_blocks(self._model, self._data, kinds, sizes, rotations)
        self._model.body_gravcomp[1:] = 1
        self._kinds, self._sizes = kinds, sizes
        self._set_down = np.zeros((len(kinds), 3))
        self.count = 0
        self._let_go(spot, height_of(kinds[0], sizes[0], rotations[0]) / 2)
        self._mujoco.mj_kinematics(self._model, self._data)

    @property
    def position(self) -> np.ndarray:
        """`[k, 3]` centres of the blocks that have been set down."""
        return np.asarray(self._data.xpos[1 : self.count + 1])

    @property
    def rotation(self) -> np.ndarray:
        """`[k, 3, 3]`, their own axes to the frame's."""
        return np.asarray(self._data.xmat[1 : self.count + 1]).reshape(-1, 3, 3)

    def top(self) -> float:
        """Height of the highest point."""
        blocks = zip(self._kinds, self._sizes, self.rotation, self.position[:, 2], strict=False)
        return max(z + height_of(kind, size, turn) / 2 for kind, size, turn, z in blocks)

    def add(self, place: Sequence[float]) -> bool:
        """Lets the next block go above x and y, and waits; whether the tower stands then.

        It has fallen once the centre of any block has moved by more than `FALL` since that block
        was set down.
        """
        turn = self._data.xmat[self.count + 1].reshape(3, 3)
        half = height_of(self._kinds[self.count], self._sizes[self.count], turn) / 2
        self._let_go(place, self.top() + half + GAP)
        stands = self._settle()
        self._mujoco.mj_kinematics(self._model, self._data)
        return stands

    def _let_go(self, place: Sequence[float], height: float) -> None:
        block = self.count
        self._set_down[block] = (*place, height)
        self._data.qpos[7 * block : 7 * block + 3] = self._set_down[block]
        self._data.qvel[6 * block : 6 * block + 6] = 0
        self._model.body_gravcomp[block + 1] = 0
        self.count += 1

    def _settle(self) -> bool:
        centre = self._data.qpos.reshape(-1, 7)[: self.count, :3]  # these follow the simulation
        speed = self._data.qvel[: 6 * self.count]
        begin = self._set_down[: self.count]
        for check in range(round(SECONDS / TIMESTEP / _CHECK_EVERY)):
            self._mujoco.mj_step(self._model, self._data, _CHECK_EVERY)  # lets other threads run
            if np.square(centre - begin).sum(axis=1).max() > FALL**2:
                return False
            if check >= _AT_LEAST and np.abs(speed).max() < REST:
                return True
        return True


def height_of(kind: int, size: np.ndarray, rotation: np.ndarray) -> float:
    """How high a block is, turned in any way."""
    if kind == SPHERE:
        return float(2 * size[0])
    vertical = np.abs(rotation[2])
    if kind == CUBOID:
        return float(2 * vertical @ size)
    return float(2 * (size[0] * np.hypot(vertical[0], vertical[1]) + size[2] * vertical[2]))

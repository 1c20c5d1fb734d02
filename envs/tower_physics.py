"""Whether towers stand: simulated by MuJoCo, as a check on the geometry of `envs.tower_blocks`.

Needs the extra `env`. The settings are not those of ShapeStacks' own simulation, whose contacts
creep: there a third of the stable towers move within five seconds.

Shapes: B towers, 6 slots for blocks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.counter_rng import bits, fold
from envs.tower_blocks import CUBOID, CYLINDER, LYING, MAX_BLOCKS, SPHERE, Towers

SECONDS = 4.0
"""A tower that stands for so long stands."""

FALL = 0.2
"""It has fallen once the centre of a block has moved so far from where it began."""

TIMESTEP = 0.004
_NUDGE = 0.01  # standard deviation of starting velocities: they break exact balance on curves
_CHECK_EVERY = 25  # steps
_CONTACT = {"solimp": [0.95, 0.99, 0.001, 0.5, 2], "condim": 6, "friction": [1, 0.005, 0.002]}


def mujoco_module() -> ModuleType:
    """Imports MuJoCo, which only physics needs."""
    try:
        import mujoco
    except ImportError as error:
        raise ModuleNotFoundError(
            "simulating towers needs MuJoCo: pip install 'genesis-rl[env]'"
        ) from error
    return mujoco


def stays(
    towers: Towers,
    seed: int = 0,
    *,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """`[B]` bool on the CPU: which towers stand for `SECONDS`; arguments as in `fall_times`."""
    return fall_times(towers, seed, threads=threads, progress=progress).isinf()


def fall_times(
    towers: Towers,
    seed: int = 0,
    *,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """Lets go of towers and watches.

    A tower's outcome depends on itself and on seed and number, not on the batch or the threads.

    Args:
        towers: The towers.
        seed: Of the slight pushes that they start with.
        threads: How many to simulate at a time; as many as there are cores unless given.
        progress: Called with 1 after each tower.

    Returns:
        `[B]` float64 on the CPU: seconds until a block had moved by `FALL`, to a tenth; infinity
        for towers that stay.
    """
    towers = towers.to("cpu")
    pushes = _pushes(towers.number, seed)

    def watch(row: int) -> float:
        seconds = _fall_time(tower_model(towers, row), pushes[row])
        progress(1)
        return seconds

    mujoco_module()  # a missing one is reported once, not by every thread
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return torch.tensor(list(pool.map(watch, range(len(towers)))), dtype=torch.float64)


def tower_model(towers: Towers, row: int) -> Any:
    """The `mujoco.MjModel` of a tower: a floor, and a free body per block from the bottom."""
    spec, rotations = empty_floor(), towers.rotation()[row].double().numpy()
    for block in range(int(towers.height[row])):
        kind, size = int(towers.kind[row, block]), towers.size[row, block].tolist()
        add_block(spec, kind, size, towers.position[row, block].tolist(), rotations[block])
    return spec.compile()


def empty_floor() -> Any:
    """A `mujoco.MjSpec` with our settings and a floor, to which `add_block` adds blocks."""
    mujoco = mujoco_module()
    spec = mujoco.MjSpec()
    spec.option.timestep = TIMESTEP
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # MuJoCo 4's own collision detection now and then throws a lying cylinder off a standing one.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_NATIVECCD
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[10, 10, 1], **_CONTACT)
    return spec


def add_block(
    spec: Any,
    kind: int,
    size: Sequence[float],
    position: Sequence[float],
    rotation: np.ndarray,
    rolling: float = 0.002,
) -> Any:
    """Adds a free body of one block, and returns it.

    Args:
        spec: From `empty_floor`.
        kind: `CUBOID` to `SPHERE`.
        size: Half sizes, as `Towers` has them.
        position: Of the centre.
        rotation: `[3, 3]`, own axes to the world's.
        rolling: Coefficient of rolling friction: what rolls comes to rest on slopes below this
            divided by its radius.
    """
    mujoco = mujoco_module()
    turn = np.empty(4)
    mujoco.mju_mat2Quat(turn, rotation.ravel())
    body = spec.worldbody.add_body(pos=position, quat=turn)
    body.add_freejoint()
    contact = _CONTACT | {"friction": [1, 0.005, rolling]}
    body.add_geom(type=_geom_types()[kind], size=_geom_size(kind, size), **contact)
    return body


def reshape_blocks(
    model: Any, data: Any, kinds: Sequence[int], sizes: np.ndarray, rotations: np.ndarray
) -> None:
    """Gives the blocks of a compiled model other shapes, a tenth of the work of compiling it.

    Args:
        model: A `mujoco.MjModel` of `empty_floor` and N blocks by `add_block`.
        data: Its `mujoco.MjData`, which is reset.
        kinds: `CUBOID` to `SPHERE`, of all N blocks.
        sizes: `[N, 3]` half sizes, as `Towers` has them.
        rotations: `[N, 3, 3]`, own axes to the world's.
    """
    factor, spread, bound = np.split(np.array([_SOLID[kind] for kind in kinds]), [1, 4], axis=1)
    mass = _DENSITY * factor * sizes.prod(axis=1, keepdims=True)  # [N, 1]
    spread = spread * sizes**2  # mean squares of x, y and z within the body
    model.body_mass[1:] = mass[:, 0]
    model.body_inertia[1:] = mass * (spread.sum(axis=1, keepdims=True) - spread)
    types = _geom_types()
    model.geom_type[1:] = [types[kind] for kind in kinds]
    model.geom_size[1:] = [_geom_size(kind, size) for kind, size in zip(kinds, sizes, strict=True)]
    model.geom_rbound[1:] = np.sqrt((bound * sizes**2).sum(axis=1))
    model.geom_aabb[1:, 3:] = model.bvh_aabb[1:, 3:] = sizes
    mujoco = mujoco_module()
    for turn, rotation in zip(model.body_quat[1:], rotations, strict=True):
        mujoco.mju_mat2Quat(turn, rotation.ravel())
    model.qpos0.reshape(-1, 7)[:, 3:] = model.body_quat[1:]
    mujoco.mj_setConst(model, data)
    model.stat.meaninertia = model.dof_M0.mean()  # which the solver's tolerance is relative to
    mujoco.mj_resetData(model, data)


_DENSITY = 1000.0  # MuJoCo's
_SOLID = {  # volume per product of half sizes; mean x^2, y^2, z^2, and bound^2, per squared ones
    CUBOID: (8, 1 / 3, 1 / 3, 1 / 3, 1, 1, 1),
    CYLINDER: (2 * math.pi, 1 / 4, 1 / 4, 1 / 3, 1, 0, 1),
    LYING: (2 * math.pi, 1 / 4, 1 / 4, 1 / 3, 1, 0, 1),
    SPHERE: (4 * math.pi / 3, 1 / 5, 1 / 5, 1 / 5, 1, 0, 0),
}


def _geom_size(kind: int, size: Sequence[float] | np.ndarray) -> Sequence[float] | np.ndarray:
    """MuJoCo's cylinder is radius, half length."""
    return [size[0], size[2], 0] if kind in (CYLINDER, LYING) else size


def _geom_types() -> dict[int, Any]:
    geom = mujoco_module().mjtGeom
    round_type = geom.mjGEOM_CYLINDER
    return {
        CUBOID: geom.mjGEOM_BOX,
        CYLINDER: round_type,
        LYING: round_type,
        SPHERE: geom.mjGEOM_SPHERE,
    }


def _fall_time(model: Any, push: np.ndarray) -> float:
    mujoco = mujoco_module()
    data = mujoco.MjData(model)
    data.qvel[:] = push[: model.nv]
    mujoco.mj_forward(model, data)
    start = data.xpos.copy()
    for _ in range(round(SECONDS / TIMESTEP / _CHECK_EVERY)):
        mujoco.mj_step(model, data, _CHECK_EVERY)  # lets other threads run meanwhile
        if np.linalg.norm(data.xpos - start, axis=1).max() > FALL:
            return round(data.time, 6)
    return math.inf


def _pushes(number: Tensor, seed: int) -> np.ndarray:
    """`[B, 36]` normal velocities, linear and angular, of six blocks."""
    random = bits(fold(fold(seed, 0x9057), number), 6 * MAX_BLOCKS)
    uniform = (((random >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52
    return (_NUDGE * torch.special.ndtri(uniform)).numpy()

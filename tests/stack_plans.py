"""A scripted player of StackTower: of the true state, it takes the move with the safest tower.

How often it completes towers of 4 to 6 blocks:

    python tests/stack_plans.py 500
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from envs.tower_blocks import stability_margin
from envs.tower_physics import FALL, TIMESTEP
from envs.towers import draw_towers

NUMBERS = 17
MOVES = torch.tensor([(0.4 * (r - 2), -0.4 * n) for n in range(4) for r in range(5)]).double()
A_TOWER = draw_towers(torch.tensor([0]))


def rows(state):
    """One line per block: x, y, z in the room's units, half sizes, turn, colour, kind, flags."""
    table = np.asarray(state, dtype=np.float64).reshape(-1, NUMBERS).copy()
    table[:, :3] = table[:, :3] * (4, 4, 6) + (-2, -3.6, 0)
    table[:, 6:8] = 2 * table[:, 6:8] - 1
    return table


def margins(state, moves=MOVES):
    """`[M]`: how safely the tower would stand after each of these moves; below 0 it would fall."""
    table = torch.from_numpy(rows(state))
    count, slots = int(table[:, 15:].any(dim=1).sum()), 6
    kind = torch.full((len(moves), slots), -1)
    kind[:, :count] = table[:count, 11:15].argmax(dim=1)
    size, position = (torch.zeros(len(moves), slots, 3).double() for _ in range(2))
    size[:, :count], position[:, :count] = table[:count, 3:6], table[:count, :3]
    position[:, count - 1, :2] += moves
    yaw = torch.zeros(len(moves), slots).double()
    yaw[:, :count] = torch.atan2(table[:count, 7], table[:count, 6]) / 2
    tower = replace(A_TOWER, kind=kind, size=size, position=position, yaw=yaw)
    return stability_margin(tower).numpy()


def best_move(state):
    """The action after which the tower's smallest margin is largest."""
    return int(margins(state).argmax())


def stays(env, seconds=4.0):
    """Whether a tower that is complete stays so, by the rule of the task; ends its episode."""
    import mujoco

    pile = env.unwrapped._world._piles[0]
    for _ in range(round(seconds / TIMESTEP / 25)):
        mujoco.mj_step(pile._model, pile._data, 25)
        centre = pile._data.qpos.reshape(-1, 7)[:, :3]
        if np.linalg.norm(centre - pile._set_down, axis=1).max() > FALL:
            return False
    return True


def main(episodes):
    import gymnasium as gym

    import envs  # noqa: F401  registers the ids

    for count in (4, 5, 6):
        env = gym.make("GenesisRL/StackTower-v0", observation="state", num_objects=count)
        solved, total, stayed = 0, 0.0, 0
        for seed in range(episodes):
            (state, _), over = env.reset(seed=seed), False
            while not over:
                state, reward, over, _, info = env.step(best_move(state))
                total += reward
            solved += info["is_success"]
            stayed += info["is_success"] and stays(env)
        print(
            f"{count} blocks: success {solved / episodes:.3f}, return {total / episodes:.3f}; "
            f"{stayed} of {solved} complete towers stand four seconds later",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))

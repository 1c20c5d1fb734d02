"""Would a GECO schedule let beta collapse? A model of training answers in seconds, not GPU hours.

Training is reduced to two curves, fitted to the short H200 runs described in docs/log.md:

    skill     what the error would be at beta = 0: floor + A (t + 45)^-0.48, A slower on textures
    price     what a beta costs: KL = 89 beta^-0.376 nats, at most 4,500, and the error that the
              model gives up for it, which is the integral of beta dKL

The model follows beta with a lag of 500 steps; `Geco` itself, the class that trains, does the rest.
It knows nothing of segmentation, noise or seeds: it sorts out schedules that cannot work. Prices
stay as they are, though networks get better at them: after 110,000 steps of rooms the KL was half
of what the model says.

    python -m benchmarks.geco_dynamics
    python -m benchmarks.geco_dynamics --scene rooms --steps 190000
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks.common import positive_int, run_cli
from genesis_rl.losses.geco import Geco
from pretrain.command_line import Parser

ELEMENTS = 3 * 64**2
FLOOR = 0.562264  # nats per element at a standard deviation of 0.7
DECLINE, HEAD_START = 0.48, 45
PRICE, ELASTICITY, LARGEST_KL = 88.9, 0.376, 4500.0
LAG = 500  # steps
STRIDE = 50  # steps of training that a step of the model stands for

# Steps after which beta = 0 would meet the paper's goal of 0.5655. That of rooms is fitted to a run
# with beta >= 1e-2 on 24,000 generated scenes, which met it after 13,400.
SKILL = {"sprites": 15_000, "towers": 60_000, "rooms": 11_000}

SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {},
    "beta >= 1e-3": {"beta_range": (1e-3, 1e10)},
    "beta >= 1e-2": {"beta_range": (1e-2, 1e10)},
    "step <= 1e-3": {"largest_step": 1e-3},
    "step <= 3e-4": {"largest_step": 3e-4},
    "step <= 1e-4": {"largest_step": 1e-4},
    "rate 1e-6 x 100": {"step_size": 1e-6, "speedup": 100.0},
    "goal .5675": {"goal": 0.5675},
    "from .5675, halving in 20k": {"first_goal": 0.5675, "half_life": 20_000},
    "from .58, halving in 10k": {"first_goal": 0.58, "half_life": 10_000},
    "from first error, 2k, beta <= 1": {"half_life": 2000, "beta_range": (1e-10, 1.0)},
    "from first error, 5k, beta <= 1": {"half_life": 5000, "beta_range": (1e-10, 1.0)},
}


class Point(NamedTuple):
    """The state after a number of steps; error in nats per element, KL in nats per image."""

    steps: int
    error: float
    kl: float
    beta: float


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", choices=SKILL, help="default: all")
    parser.add_argument("--steps", type=positive_int, default=190_000)
    args = parser.parse_args(argv)
    for scene in [args.scene] if args.scene else SKILL:
        print(f"\n{scene}, {args.steps:,} steps: goal met, lowest beta, steps of KL > 1,000, end")
        for name, options in SCHEDULES.items():
            points = simulate(SKILL[scene], args.steps, **options)
            last = points[-1]
            met = next((p.steps for p in points if p.error <= 0.5655), None)
            high = STRIDE * sum(p.kl > 1000 for p in points)
            print(
                f"{name:32} {met or '-':>7} {min(p.beta for p in points):9.1e} {high:8} "
                f"  error {last.error:.5f}  beta {last.beta:.1e}  KL {last.kl:5.0f}"
            )


def simulate(meets_after: int, steps: int, **options: Any) -> list[Point]:
    """Plays a schedule through.

    Args:
        meets_after: Steps after which beta = 0 would meet the paper's goal.
        steps: To simulate.
        options: Of `Geco.for_image_size`.

    Returns:
        One point every `STRIDE` steps.
    """
    geco = _in_strides(Geco.for_image_size(64, **options))
    skill = (0.5655 - FLOOR) * (meets_after + HEAD_START) ** DECLINE
    points, followed = [], 0.0  # the log of the beta that the model has got used to
    for step in range(0, steps, STRIDE):
        beta = geco.beta.item()
        kl, given_up = price(math.exp(followed))
        error = FLOOR + skill * (step + HEAD_START) ** -DECLINE + given_up / ELEMENTS
        points.append(Point(step, error, kl, beta))
        geco(torch.tensor(error * ELEMENTS), torch.tensor(kl))
        followed += (math.log(geco.beta.item()) - followed) * STRIDE / LAG
    return points


def price(beta: float) -> tuple[float, float]:
    """Returns the KL that a model keeps at a beta, and the error it gives up for it, in nats."""
    kl = min(LARGEST_KL, PRICE * beta**-ELASTICITY)
    return kl, PRICE * ELASTICITY / (1 - ELASTICITY) * beta ** (1 - ELASTICITY)


def _in_strides(geco: Geco) -> Geco:
    """Lets one update stand for `STRIDE` of them."""
    geco.step_size *= STRIDE
    geco.largest_step *= STRIDE
    geco.decay **= STRIDE
    geco.half_life /= STRIDE
    return geco


if __name__ == "__main__":
    run_cli(main)

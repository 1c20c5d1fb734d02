"""Tower labels: do towers that are named stable stand, and do those that are named unstable fall?

Labels come from geometry (`envs.tower_blocks.stability_margin`) and go into the scenarios' names.
Here MuJoCo lets every tower go and watches it for four seconds. Needs the extra `env`.

    python -m benchmarks.tower_labels --towers 1000
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result

if TYPE_CHECKING:
    from torch import Tensor

    from envs.tower_blocks import Towers

VIOLATIONS = ("none", "centre of mass", "curved support")


def agreement(towers: Towers, stands: Tensor) -> dict[str, Any]:
    """How many towers behave as they are named, in all and by what their names say.

    Args:
        towers: B of them.
        stands: `[B]` bool, what the simulation found.
    """
    right = stands == towers.stable
    table: dict[str, Any] = {"towers": len(towers), "agreement": _share(right)}
    table["by_violation"] = {
        name: {"towers": int(rows.sum()), "agreement": _share(right[rows])}
        for number, name in enumerate(VIOLATIONS)
        if (rows := towers.violation == number).any()
    }
    table["by_height"] = {
        str(height): _share(right[towers.height == height])
        for height in towers.height.unique().tolist()
    }
    table["contradictions"] = [towers[row : row + 1].names()[0] for row in (~right).nonzero()[:, 0]]
    return table


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--towers", type=positive_int, default=1000)
    parser.add_argument("--shapes", default="both", choices=("ccs", "blocks", "both"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return measure(args, argv)


def measure(args: Any, argv: Sequence[str] | None) -> dict[str, Any]:
    """Draws the towers, simulates them, and reports."""
    import torch
    from tqdm import tqdm

    from envs.tower_physics import fall_times, mujoco_module
    from envs.towers import draw_towers

    try:
        mujoco = mujoco_module()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    device = prepare_device(args.device, args.threads)
    towers = draw_towers(torch.arange(args.towers), args.seed, shapes=args.shapes)
    started = time.perf_counter()
    with tqdm(total=args.towers, unit="tower", disable=None) as bar:
        times = fall_times(towers, args.seed, threads=args.threads, progress=bar.update)
    seconds = time.perf_counter() - started

    table = agreement(towers, times.isinf())
    print(
        f"{args.towers} towers ({args.shapes}): {table['agreement']:.1%} behave as they are named"
    )
    for name, row in table["by_violation"].items():
        print(f"  violation: {name:<16}{row['towers']:>6}{row['agreement']:>8.1%}")
    print(f"{'height':>10}" + "".join(f"{height:>8}" for height in table["by_height"]))
    print(f"{'':>10}" + "".join(f"{share:>8.1%}" for share in table["by_height"].values()))
    fell = times[times.isfinite()]
    values = {
        "shapes": args.shapes,
        **table,
        "fall_seconds": {f"p{q}": _quantile(fell, q) for q in (50, 90, 99)},
        "towers_per_second": round(args.towers / seconds, 2),
        "mujoco": mujoco.__version__,
    }
    return save_result(
        "tower_labels", values, device=device, seed=args.seed, folder=args.results_dir, argv=argv
    )


def _quantile(values: Tensor, percent: int) -> float | None:
    return round(values.quantile(percent / 100).item(), 2) if len(values) else None


def _share(right: Tensor) -> float:
    return round(right.double().mean().item(), 5)


if __name__ == "__main__":
    run_cli(main)

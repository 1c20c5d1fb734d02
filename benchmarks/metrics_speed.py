"""Metrics: how fast is the batched adjusted Rand index against scikit-learn's, image by image?

Both score the same random label maps, and have to agree to 1e-12.

    python -m benchmarks.metrics_speed --batch 256
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import numpy as np
    import torch

SEED = 0
SIDE, OBJECTS = 64, 5


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--batch", type=positive_int, default=256, help="images")
    parser.add_argument(
        "--seconds", type=positive_number, default=3.0, help="roughly, for each of the two"
    )
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    true, predicted = label_maps(args.batch)
    values = compare(true, predicted, device, args.seconds)
    print(
        f"ARI-FG of {args.batch} images: {values['scikit_learn_ms']:.1f} ms by scikit-learn, "
        f"{values['ours_ms']:.2f} ms in one batch: {values['speedup']:.1f} times faster"
    )
    values = {"batch": args.batch, **values}
    return save_result(
        "metrics_speed", values, device=device, seed=SEED, folder=args.results_dir, argv=argv
    )


def label_maps(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random true and predicted labels `[B, 64, 64]`, 70 % of whose pixels agree."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    true = rng.integers(0, OBJECTS, (batch, SIDE, SIDE))
    other = rng.integers(0, OBJECTS, true.shape)
    return true, np.where(rng.random(true.shape) < 0.7, true, other)


def compare(
    true: np.ndarray, predicted: np.ndarray, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Times both on the same label maps.

    Raises:
        ValueError: They differ by 1e-12 or more.
    """
    import torch

    from benchmarks.timing import time_calls
    from genesis_rl.metrics import adjusted_rand_index

    try:
        from sklearn.metrics import adjusted_rand_score
    except ImportError:
        raise ValueError("this needs scikit-learn: pip install scikit-learn") from None

    def theirs() -> list[float]:
        pairs = zip(true, predicted, strict=True)
        return [adjusted_rand_score(t[t > 0], p[t > 0]) for t, p in pairs]

    there = torch.from_numpy(true).to(device), torch.from_numpy(predicted).to(device)

    def ours() -> list[float]:
        values: list[float] = adjusted_rand_index(there[0], there[1]).tolist()
        return values

    difference = max(abs(a - b) for a, b in zip(ours(), theirs(), strict=True))
    if not difference < 1e-12:
        raise ValueError(f"scikit-learn's index differs by {difference}, which needs to be < 1e-12")
    cpu = torch.device("cpu")
    slow, fast = (
        time_calls(work, where, seconds=seconds).latency
        for work, where in ((theirs, cpu), (ours, device))
    )
    return {
        "scikit_learn_ms": round(1e3 * slow, 3),
        "ours_ms": round(1e3 * fast, 3),
        "speedup": round(slow / fast, 2),
        "difference": difference,
    }


if __name__ == "__main__":
    run_cli(main)

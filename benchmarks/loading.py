"""Loading: does training ever wait for its images?

The images of a training run lie in the device's memory, so that they arrive in two ways: all of
them once, out of their compact form on disk (`compact form, first time` has to decode the
published files and write that form), and then a batch a step, gathered in a random order and
turned into floats. Both are timed as `pretrain/run.py` does them.

    python -m benchmarks.loading --dataset gqn --train-images 60000
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
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pretrain.config import Config

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    from pretrain.config import build

    parser = argument_parser(__doc__)
    parser.add_argument("--dataset", default="gqn")
    parser.add_argument("--data-dir", help="where the dataset is; a look-alike is made otherwise")
    parser.add_argument("--train-images", type=positive_int, default=60_000)
    parser.add_argument("--image-size", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--batch-size", type=positive_int, default=32)
    parser.add_argument("--seconds", type=positive_number, default=2.0, help="roughly, for batches")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    names = ("dataset", "data_dir", "train_images", "image_size", "batch_size")
    config = build({name: getattr(args, name) for name in names})
    rows, images = loading_rows(config, device)
    rows.append(batch_row(images, config.batch_size, device, args.seconds))
    for row in rows:
        print(f"{row['what']:<28}{row['images_per_s']:>12,.0f} images/s")
    values = {"rows": rows, "dataset": args.dataset, "images": len(images)}
    return save_result("loading", values, device=device, seed=0, folder=args.results_dir, argv=argv)


def loading_rows(config: Config, device: torch.device) -> tuple[list[Row], Tensor]:
    """Brings the training images to the device twice; returns both rates, and the images."""
    from benchmarks.timing import synchronise
    from pretrain.assembly import load_split

    rows = []
    for what in ("compact form, first time", "compact form, again"):
        synchronise(device)
        started = time.perf_counter()
        images = load_split(config, "train", config.train_images, device).images
        synchronise(device)
        rate = len(images) / (time.perf_counter() - started)
        rows.append({"what": what, "images_per_s": round(rate, 1)})
    return rows, images


def batch_row(images: Tensor, batch_size: int, device: torch.device, seconds: float) -> Row:
    """Times the batches of a training step alone."""
    import torch

    from benchmarks.timing import time_calls
    from genesis_rl.losses.geco import BetaWarmup
    from pretrain.engine import Engine

    model = torch.nn.Linear(1, 1).to(device)
    engine = Engine(model, BetaWarmup(), images, batch_size=batch_size)
    interval = time_calls(engine.batch, device, seconds=seconds).interval
    return {
        "what": f"batches of {batch_size}",
        "images_per_s": round(batch_size / interval, 1),
        "us": round(interval * 1e6, 2),
    }


if __name__ == "__main__":
    run_cli(main)

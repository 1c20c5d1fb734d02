"""Training speed: how many steps a second, with and without our own kernels, and what is slow?

Each row is a model of full size on its own, trained as `pretrain/run.py` trains it. With
`--profile` the kernels of a step follow, longest first.

    python -m benchmarks.training_speed --device cuda --slots 5 7 9 --fused off on --profile
    python -m benchmarks.training_speed --device cuda --slots 7 --models monet bd_vae dc_vae
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from benchmarks.profiling import print_profile
from benchmarks.speed_rows import Row, floor_of, resolve_precision, speed_row
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch

    from pretrain.config import Config
    from pretrain.engine import Engine


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    models = ("genesis", "genesis_s", "monet", "bd_vae", "dc_vae")
    parser.add_argument("--models", nargs="+", choices=models, default=["genesis"])
    parser.add_argument("--slots", type=positive_int, nargs="+", default=[5, 7, 9])
    parser.add_argument("--batches", type=positive_int, nargs="+", default=[32])
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[64], choices=(32, 64, 128))
    parser.add_argument("--fused", nargs="+", choices=("auto", "off", "on"), default=["auto"])
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    parser.add_argument("--seconds", type=positive_number, default=5.0, help="roughly, per row")
    parser.add_argument("--profile", action="store_true", help="name the kernels of a step")
    parser.add_argument(
        "--inductor",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of torch's compiler, to try",
    )
    parser.add_argument("--top", type=positive_int, default=30, help="kernels to name")
    args = parser.parse_args(argv)
    measure(args, argv)


def measure(args: Any, argv: Sequence[str] | None) -> None:
    """Measures what the arguments name, prints it as it comes, and saves the rows."""
    from pretrain.config import Config

    device = prepare_device(args.device, args.threads)
    set_up_compiler(args.inductor)
    precision = resolve_precision(args.precision, device)
    rows = []
    for model, slots, batch, size, fused in product(
        args.models, args.slots, args.batches, args.image_sizes, args.fused
    ):
        settings = {"model": model, "num_slots": slots, "batch_size": batch, "image_size": size}
        config = Config(**settings, precision=precision, fused=fused)
        engine = build_engine(config, device)
        rows.append(row := train_row(config, device, args.seconds, engine=engine))
        row |= {"model": model, "slots": engine.model.num_slots}
        row |= {"image_size": size, "fused": engine.fused}
        print(describe(row), flush=True)
        if args.profile:
            row["families"] = print_profile(engine.step, device, row["ms"], top=args.top)
    save_result(
        "training_speed", {"rows": rows}, device=device, seed=0, folder=args.results_dir, argv=argv
    )


def set_up_compiler(settings: Sequence[str]) -> None:
    """Applies settings such as `combo_kernels=True` to torch's compiler."""
    if not settings:
        return
    from torch._inductor import config

    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            setattr(config, name, ast.literal_eval(value))
        except (AttributeError, SyntaxError, ValueError):
            raise ValueError(
                f"--inductor takes NAME=VALUE as torch has them, not {setting!r}"
            ) from None


def build_engine(config: Config, device: torch.device) -> Engine:
    """Returns an engine as `pretrain/run.py` makes it, on images of noise; not yet prepared."""
    import torch

    from pretrain.assembly import build_model, build_objective, pick_kernels, set_up_torch
    from pretrain.engine import Engine

    set_up_torch(config, device)
    if device.type == "cuda":
        torch.compiler.reset()  # or dynamo counts all engines as one that keeps changing
    torch.manual_seed(0)
    batch, size = config.batch_size, config.image_size
    return Engine(
        build_model(config).to(device),
        build_objective(config).to(device),
        torch.randint(0, 256, (max(1024, batch), size, size, 3), dtype=torch.uint8, device=device),
        batch_size=batch,
        precision=resolve_precision(config.precision, device),
        compile=device.type == "cuda",
        fused=pick_kernels(config, device),
    )


def train_row(
    config: Config, device: torch.device, seconds: float, *, engine: Engine | None = None
) -> Row:
    """Times whole training steps, of that engine if one is given."""
    from benchmarks import timing

    timing.reset_peak_memory(device)
    engine = engine or build_engine(config, device)
    began = time.perf_counter()
    engine.prepare()
    timing.synchronise(device)
    preparation = time.perf_counter() - began
    used, batch = resolve_precision(config.precision, device), config.batch_size
    clock = timing.time_against_peak(engine.step, device, used, seconds=seconds)
    return {
        **speed_row("train", batch, used, device, clock.timing.interval),
        **floor_of(clock, training_flops(config), batch),
        "mode": engine.mode,
        "preparation_s": round(preparation, 2),
    }


def training_flops(config: Config) -> int:
    """Returns the arithmetic of a forward and a backward pass on one image."""
    import torch

    from benchmarks.timing import count_flops
    from pretrain.assembly import build_model

    model = build_model(config).train()

    def step() -> None:
        output = model(torch.zeros(1, 3, config.image_size, config.image_size))
        (output.error + output.kl).sum().backward()

    return count_flops(step)


def describe(row: Mapping[str, Any]) -> str:
    """Returns a row in a line for people."""
    images = row["per_second"] * row["batch"]
    return (
        f"{row['model']} K={row['slots']} batch {row['batch']} {row['image_size']} px "
        f"{row['dtype']} {'fused' if row['fused'] else 'plain'}: {row['per_second']:.1f} steps/s, "
        f"{images:,.0f} images/s, {row['ms']:.3f} ms, {row['of_floor']:.1%} of the floor, "
        f"{row['peak_memory_mb']:.0f} MB, {row['mode']}, ready in {row['preparation_s']:.1f} s"
    )


if __name__ == "__main__":
    run_cli(main)

"""FID: do images that a model dreams up look like images of the dataset?

Protocol: Engelcke et al. (2020), section 4.1. 10,000 samples against the first 10,000 test images,
both 8-bit, in the features of TensorFlow's Inception of 2015 (`--inception-weights`, or torch hub's
cache). Without those weights the distance is taken in the features of a small network that learns
the dataset's own factors. That number is called "Frechet distance (factor features)", it is not the
FID, and it cannot be compared with one.

    python -m benchmarks.fid --checkpoint multi_dsprites --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from pretrain.command_line import output_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.reference import Reference

# Engelcke et al. (2020), Table 2, by dataset and model; 10,000 against 10,000 images.
PAPER = {
    "multi_dsprites": {
        "genesis": 24.9,
        "genesis_s": 28.2,
        "monet": 92.7,
        "bd_vae": 89.8,
        "dc_vae": 100.5,
    },
    "gqn": {"genesis": 80.5, "genesis_s": 70.2, "monet": 176.4, "bd_vae": 145.5, "dc_vae": 82.5},
}


def sample_images(
    model: Any, noise: Tensor, batch_size: int, device: torch.device, **options: Any
) -> Iterator[Tensor]:
    """Yields what a model dreams up, as 8-bit images `[B, H, W, 3]`.

    Args:
        model: Anything with GENESIS's `sample`, on the device and in eval mode.
        noise: `[N, K, D]` standard normal, which decides every image.
        batch_size: B.
        device: Where the model is.
        options: Further arguments of `sample`.

    Raises:
        ValueError: A sample holds values that are not finite; found out after the last one, because
            to look at each batch would wait for the device.
    """
    import torch

    from genesis_rl.inference.cuda import precision_of

    finite = torch.ones((), dtype=torch.bool, device=device)
    for part in noise.split(batch_size):
        with torch.no_grad(), precision_of("fp32"):
            images = model.sample(len(part), part.to(device), **options).reconstruction
        finite &= images.isfinite().all()
        yield quantise(images)
    if not bool(finite):
        raise ValueError("samples hold NaN or infinite values; the checkpoint is broken")


def quantise(images: Tensor) -> Tensor:
    """Turns `[B, 3, H, W]` into `[B, H, W, 3]` uint8 by truncation, as the published protocol."""
    import torch

    levels = (images.float().clamp(0, 1) * 255).to(torch.uint8)  # rounds towards 0
    return levels.permute(0, 2, 3, 1)


def check_model(model: Any, checkpoint: str, name: str, raw_prior_means: bool) -> None:
    """Refuses models that cannot do what is asked of them, before anything long starts.

    Raises:
        ValueError: The model cannot sample, or not in this way.
    """
    if not callable(getattr(model, "sample", None)):
        raise ValueError(
            f"{checkpoint} holds a {name}, which has no sample(count, noise) and so dreams up no "
            "images; give a checkpoint of a generative model"
        )
    if raw_prior_means and name != "genesis":
        raise ValueError(f"--raw-prior-means is for genesis, but {checkpoint} holds a {name}")


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the result line of each checkpoint."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--checkpoint", nargs="+", default=["multi_dsprites"], help="shipped ids or folders"
    )
    parser.add_argument("--dataset", default="multi_dsprites", help="what samples should look like")
    parser.add_argument("--data-dir", type=Path, help="where the dataset is, if it is on disk")
    parser.add_argument(
        "--images", type=positive_int, default=10_000, help="of either kind (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the samples")
    parser.add_argument(
        "--features",
        default="auto",
        choices=("auto", "inception", "factors"),
        help="auto takes Inception's if the weights are there, and factor features if not",
    )
    parser.add_argument(
        "--inception-weights", type=Path, help="pt_inception-2015-12-05-6726825d.pth"
    )
    parser.add_argument(
        "--controls",
        action=argparse.BooleanOptionalAction,
        help="also measure images known to be close or far (default: with factor features only)",
    )
    parser.add_argument(
        "--raw-prior-means",
        action="store_true",
        help="sample GENESIS as the authors' release does, without tanh on the prior means",
    )
    parser.add_argument("--batch-size", type=positive_int, default=64)
    parser.add_argument(
        "--picture",
        type=output_file,
        default=Path("runs/fid.png"),
        help="true images above samples",
    )
    args = parser.parse_args(argv)

    from benchmarks.feature_space import find_inception

    device = prepare_device(args.device, args.threads)
    weights = find_inception(args.inception_weights, args.features)
    references: dict[int, Reference] = {}  # by image size
    lines: list[dict[str, Any]] = []
    rows: list[Tensor] = []
    for checkpoint in args.checkpoint:
        line, reference, samples = evaluate(checkpoint, args, device, weights, references)
        lines.append(line)
        rows += [samples] if rows else [reference.shown, samples]
        save_picture(args.picture, rows)
        print_table(lines)
        print(f"true images, and samples below them: {args.picture}")
        lines[-1] = save_result(
            "fid", line, device=device, seed=args.seeds, folder=args.results_dir, argv=argv
        )
    return lines


def evaluate(
    checkpoint: str,
    args: Any,
    device: torch.device,
    weights: Path | None,
    references: dict[int, Reference],
) -> tuple[dict[str, Any], Reference, Tensor]:
    """Measures one checkpoint.

    Returns:
        What is to be saved, what it was compared with, and some samples `[S, H, W, 3]`.
    """
    from benchmarks.reference import SHOWN, build_reference
    from benchmarks.segmentation import draw_noise
    from genesis_rl import load_checkpoint
    from genesis_rl.checkpoint import checkpoint_sha256, read_config

    model = load_checkpoint(checkpoint).to(device)
    name = read_config(checkpoint)["model"]
    check_model(model, checkpoint, name, args.raw_prior_means)
    if model.image_size not in references:
        references[model.image_size] = build_reference(args, model.image_size, device, weights)
    reference = references[model.image_size]

    started = time.perf_counter()
    distances = measure(model, reference, args, device)
    line = {
        "metric": reference.space.metric,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_sha256(checkpoint),
        "model": name,
        "dataset": args.dataset,
        "source": reference.source,
        "split": "test",
        "images": args.images,
        "features": reference.space.size,
        "distance": mean_std(distances),
        "per_seed": [round(distance, 5) for distance in distances],
        "controls": reference.controls,
        "network": reference.space.origin,
        "sampler": "raw prior means" if args.raw_prior_means else "as trained",
        "seconds": round(time.perf_counter() - started, 2),
    }
    noise = draw_noise(model, SHOWN, args.seeds[:1])
    shown = next(sample_images(model, noise, SHOWN, device, **sampler(args)))
    return line, reference, shown.cpu()


def measure(model: Any, reference: Reference, args: Any, device: torch.device) -> list[float]:
    """Returns the distance of each seed's samples from the data."""
    from benchmarks.feature_space import describe
    from benchmarks.frechet import frechet_distance
    from benchmarks.segmentation import draw_noise

    distances = []
    for seed in args.seeds:
        noise = draw_noise(model, args.images, [seed])
        images = sample_images(model, noise, args.batch_size, device, **sampler(args))
        label = f"samples, seed {seed}"
        samples = describe(images, reference.space, device, total=args.images, label=label)
        distances.append(frechet_distance(samples, reference.gaussian))
    return distances


def sampler(args: Any) -> dict[str, Any]:
    """Returns the further arguments of `sample` that the command line asks for."""
    return {"squash_prior_means": False} if args.raw_prior_means else {}


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """Prints a row for each checkpoint, the controls, and what else the numbers need."""
    from benchmarks import inception

    last = lines[-1]
    fid = last["metric"] == inception.METRIC
    print(f"{last['metric']}, {last['dataset']} ({last['source']}), {last['images']} images each")
    print(f"{'':<40}{'mean':>12}{'std':>10}" + f"{'the paper':>12}" * fid)
    for line in lines:
        published = PAPER.get(line["dataset"], {}).get(line["model"], "") if fid else ""
        distance = line["distance"]
        row = f"{line['checkpoint'][-38:]:<40}{distance['mean']:12.4f}{distance['std']:10.4f}"
        print(f"{row}{published:>12}" if fid else row)
    for name, control in last["controls"].items():
        print(f"{name:<40}{control:12.4f}")
    if not fid:
        accuracy, chance = last["network"]["accuracy"], last["network"]["chance"]
        named = ", ".join(f"{k} {v:.0%} ({chance[k]:.0%})" for k, v in accuracy.items())
        print(f"factors that the network names (by chance): {named}")
        print("this is not the FID and cannot be compared with it")


def save_picture(path: Path, rows: Sequence[Tensor], scale: int = 2) -> None:
    """Draws rows of `[S, H, W, 3]` images below each other; smaller ones are magnified."""
    import cv2
    import numpy as np

    from benchmarks.sheets import write_png
    from genesis_rl.pictures import tile

    side = max(row.shape[1] for row in rows) * scale
    columns = min(len(row) for row in rows)
    views = np.zeros((len(rows), columns, side, side, 3), dtype=np.uint8)
    for target, row in zip(views, rows, strict=True):
        for view, image in zip(target, row.numpy(), strict=False):
            view[...] = cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST)
    write_png(path, tile(views))


def mean_std(values: Sequence[float]) -> dict[str, float]:
    """Returns mean and standard deviation over seeds."""
    from statistics import fmean, pstdev

    return {"mean": round(fmean(values), 5), "std": round(pstdev(values), 5)}


if __name__ == "__main__":
    run_cli(main)

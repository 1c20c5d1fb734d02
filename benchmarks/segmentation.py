"""Segmentation: do the slots of a checkpoint coincide with the true objects?

Protocol: Engelcke et al. (2020), section 4.2. Hard masks (the most likely slot of each pixel) of
320 random test images against the true instance masks: adjusted Rand index on the foreground
(ARI-FG) and segmentation covering (SC, mSC). Masks come from posterior means unless `--samples`
asks for one posterior sample, which is what the published numbers used.

    python -m benchmarks.segmentation --checkpoint multi_dsprites --images 320
    python -m benchmarks.segmentation --checkpoint runs/seed-0 runs/seed-1 runs/seed-2

Several checkpoints see the same images; then mean and standard deviation over models are printed,
which is what the paper reports (five seeds).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from pretrain.command_line import output_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from genesis_rl.metrics import SegmentationScores

METRICS = ("ari_fg", "ari", "sc", "msc")


@dataclass(frozen=True)
class SegmentationResult:
    """Scores of N images.

    Attributes:
        scores: ARI and covering of each image's masks.
        one_slot: The same if one slot held the whole image: the level to beat.
        error: `[N]` negative log-likelihood in nats per pixel and channel.
        mse: `[N]` squared error of the reconstruction.
    """

    scores: SegmentationScores
    one_slot: SegmentationScores
    error: Tensor
    mse: Tensor

    def summary(self) -> dict[str, Any]:
        """Returns mean and standard deviation over images, those without foreground left out."""
        scored = self.scores.scored
        values = {name: getattr(self.scores, name)[scored] for name in METRICS}
        values |= {"error_per_element": self.error, "mse": self.mse}
        means = self.one_slot.means()
        return {
            "images": int(scored.sum()),
            "skipped": int((~scored).sum()),
            **{name: _mean_std(value) for name, value in values.items()},
            "one_slot": {name: round(float(means[name]), 5) for name in METRICS},
        }

    def order(self) -> list[int]:
        """Returns the scored images from best to worst."""
        scores = self.scores
        keys = [
            (-float(scores.ari_fg[i]), -float(scores.msc[i]), i)
            for i in range(len(scores.scored))
            if scores.scored[i]
        ]
        return [i for _, _, i in sorted(keys)]


def run(
    model: Any,
    images: Tensor,
    masks: Tensor,
    *,
    device: torch.device,
    noise: Tensor | None = None,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda done: None,
) -> SegmentationResult:
    """Scores a model in eval mode.

    Args:
        model: Anything with GENESIS's `forward` and `decompose`.
        images: `[N, H, W, 3]` uint8.
        masks: `[N, H, W]` true instance labels; 0 is the background.
        device: Where the model is.
        noise: `[N, K, D]` standard normal, for one posterior sample; None takes posterior means.
        batch_size: Images per forward pass.
        progress: Called with the number of images of each finished batch.
    """
    import torch

    from genesis_rl.metrics import SegmentationScores, segment, segmentation_scores
    from pretrain.evaluation import to_float

    model.eval()
    ours, trivial, errors, squares = [], [], [], []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        x = to_float(images[part].to(device))
        output = decompose(model, x, None if noise is None else noise[part])
        true, predicted = masks[part].to(device).long(), segment(output.log_masks)
        ours.append(segmentation_scores(true, predicted))
        trivial.append(segmentation_scores(true, torch.zeros_like(true)))
        errors.append(output.error.double() / x[0].numel())
        squares.append((output.reconstruction - x).double().square().mean(dim=(1, 2, 3)))
        progress(len(x))

    def joined(parts: list[SegmentationScores]) -> SegmentationScores:
        return SegmentationScores(*(torch.cat(field).cpu() for field in zip(*parts, strict=True)))

    return SegmentationResult(
        scores=joined(ours),
        one_slot=joined(trivial),
        error=torch.cat(errors).cpu(),
        mse=torch.cat(squares).cpu(),
    )


def decompose(model: Any, images: Tensor, noise: Tensor | None) -> Any:
    """Returns the model's output on posterior means, or on the samples that the noise makes."""
    import torch

    from genesis_rl.inference.cuda import precision_of

    with torch.no_grad(), precision_of("fp32"):  # cuDNN would take TF32 for granted
        return model.decompose(images) if noise is None else model(images, noise.to(images))


def choose_images(length: int, images: int, seed: int) -> np.ndarray:
    """Returns which of a split's images are scored: a random subset that only the seed decides."""
    import numpy as np

    if images > length:
        raise ValueError(f"--images must be at most {length}, the size of the split; got {images}")
    return np.sort(np.random.default_rng(seed).choice(length, images, replace=False))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the result line of each checkpoint."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=["multi_dsprites"],
        help="shipped ids or folders; several are averaged",
    )
    parser.add_argument("--dataset", default="multi_dsprites", help="dataset with masks")
    parser.add_argument("--data-dir", type=Path, help="where the dataset is, if it is on disk")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--images", type=positive_int, default=320, help="per seed (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one set of images each")
    parser.add_argument("--samples", action="store_true", help="posterior samples, not means")
    parser.add_argument("--batch-size", type=positive_int, default=32)
    parser.add_argument(
        "--picture",
        type=output_file,
        default=Path("runs/segmentation.png"),
        help="best, median, worst",
    )
    args = parser.parse_args(argv)
    lines = [evaluate(checkpoint, args, argv) for checkpoint in args.checkpoint]
    if len(lines) > 1:
        print(f"mean and std over {len(lines)} checkpoints")
        for name, value in over_models(lines).items():
            print(f"{name:<20}{value['mean']:8.4f}{value['std']:8.4f}")
    return lines


def over_models(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns mean and standard deviation, over models, of each model's mean."""
    import torch

    names = (*METRICS, "error_per_element", "mse")
    return {
        name: _mean_std(torch.tensor([line[name]["mean"] for line in lines], dtype=torch.float64))
        for name in names
    }


def evaluate(checkpoint: str, args: Any, argv: Sequence[str] | None) -> dict[str, Any]:
    """Scores one checkpoint on what the arguments name, and reports."""
    from tqdm import tqdm

    from genesis_rl import load_checkpoint
    from genesis_rl.checkpoint import checkpoint_sha256, read_config
    from pretrain.evaluation import to_float

    device = prepare_device(args.device, args.threads)
    model = load_checkpoint(checkpoint).to(device)
    images, masks = load_images(args, model.image_size)
    noise = draw_noise(model, args.images, args.seeds) if args.samples else None

    started = time.perf_counter()
    with tqdm(total=len(images), unit="image", disable=None) as bar:
        result = run(
            model,
            images,
            masks,
            device=device,
            noise=noise,
            batch_size=args.batch_size,
            progress=bar.update,
        )
    seconds = time.perf_counter() - started

    summary = result.summary()
    picture = picture_path(args, checkpoint)
    cases = picture_cases(result)
    output = decompose(
        model, to_float(images[cases].to(device)), None if noise is None else noise[cases]
    )
    save_picture(picture, images[cases], masks[cases], output)
    latents = "samples" if args.samples else "means"
    print(f"{checkpoint} on {args.dataset}, {summary['images']} images, posterior {latents}")
    print_table(summary)
    print(f"best, median and worst image: {picture}")

    seeds = [slice(i * args.images, (i + 1) * args.images) for i in range(len(args.seeds))]
    per_seed = {
        name: [round(float(result.scores.part(seed).means()[name]), 5) for seed in seeds]
        for name in METRICS
    }
    return save_result(
        "segmentation",
        {
            "checkpoint": str(checkpoint),
            "checkpoint_sha256": checkpoint_sha256(checkpoint),
            "model": read_config(checkpoint)["model"],
            "slots": model.num_slots,
            "dataset": args.dataset,
            "split": args.split,
            "latents": latents,
            **summary,
            "per_seed": per_seed,
            "seconds": round(seconds, 2),
        },
        device=device,
        seed=args.seeds,
        folder=args.results_dir,
        argv=argv,
    )


def load_images(args: Any, image_size: int) -> tuple[Tensor, Tensor]:
    """Returns the images that the arguments name, `[N, H, W, 3]`, and their masks `[N, H, W]`."""
    import torch

    from pretrain import data

    options = {} if args.data_dir is None else {"data_dir": args.data_dir}
    dataset = data.load(args.dataset, split=args.split, image_size=image_size, **options)
    batches = [dataset.batch(choose_images(len(dataset), args.images, seed)) for seed in args.seeds]
    images = torch.cat([batch.images.cpu() for batch in batches])
    masks = [batch.masks.cpu() for batch in batches if batch.masks is not None]
    if not masks:
        raise ValueError(f"dataset {args.dataset!r} has no instance masks to compare with")
    return images, torch.cat(masks)


def picture_path(args: Any, checkpoint: str) -> Path:
    """Returns where the picture of a checkpoint goes; several do not overwrite each other."""
    path: Path = args.picture
    if len(args.checkpoint) == 1:
        return path
    number = args.checkpoint.index(checkpoint)
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def print_table(summary: dict[str, Any]) -> None:
    """Prints the scores of a checkpoint, beside those of a single slot for everything."""
    print(f"{'':<20}{'mean':>8}{'std':>8}{'one slot':>10}")
    for name in (*METRICS, "error_per_element", "mse"):
        mean, std = summary[name]["mean"], summary[name]["std"]
        chance = f"{summary['one_slot'][name]:10.3f}" if name in METRICS else ""
        print(f"{name:<20}{mean:8.4f}{std:8.4f}{chance}")
    print(f"{summary['skipped']} images had no foreground and were skipped")


def draw_noise(model: Any, images: int, seeds: Sequence[int]) -> Tensor:
    """Draws the noise of one posterior sample per image, on the CPU: the same on all devices."""
    import torch

    shape = (images, model.num_slots, model.slot_dim)
    return torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def picture_cases(result: SegmentationResult) -> list[int]:
    """Returns the best, the median and the worst image."""
    order = result.order()
    return [order[0], order[len(order) // 2], order[-1]] if order else []


def save_picture(path: Path, images: Tensor, masks: Tensor, output: Any, scale: int = 2) -> None:
    """Draws one row per image: true masks, then the decomposition as `render_slots` shows it."""
    import numpy as np

    from benchmarks.sheets import write_png
    from genesis_rl.pictures import decomposition_picture, slot_colours, tile
    from pretrain.evaluation import to_float

    if not len(images):
        return
    # The background in white, objects in the slots' colours, though in another order.
    colours = np.array([(255, 255, 255), *slot_colours(int(masks.max()) + 1)], dtype=np.uint8)
    true = colours[masks.cpu().numpy()].repeat(scale, axis=1).repeat(scale, axis=2)
    drawn = decomposition_picture(to_float(images.to(output.error.device)), output, scale=scale)
    picture = np.concatenate([tile(true[:, None]), drawn], axis=1)
    write_png(path, picture)


def _mean_std(values: Tensor) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "std": 0.0}
    return {
        "mean": round(float(values.mean()), 5),
        "std": round(float(values.std(unbiased=False)), 5),
    }


if __name__ == "__main__":
    run_cli(main)

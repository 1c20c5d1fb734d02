"""ShapeStacks probes: what can be read off frozen latents about a tower of blocks?

Protocol: Engelcke et al. (2020), section 4.3 and appendix B.5. Small classifiers (one hidden layer
of 512 ELU units) see only the latents, and say whether the tower will fall, how high it is, and
from where it is seen. Latents are what the wrappers give to an agent. Beside them stand a CNN that
sees the pixels, and chance.

    python benchmarks/probe_shapestacks.py --checkpoint shapestacks
    python benchmarks/probe_shapestacks.py --checkpoint shapestacks --genuine frames.npz
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    argument_parser,
    positive_int,
    prepare_device,
    run_cli,
    save_result,
)
from pretrain.command_line import output_file, output_folder

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor

    from benchmarks.probe_data import Towers
    from benchmarks.probes import ProbeResult

Row = dict[str, Any]

NAME = "probe_shapestacks"
TASKS = ("stability", "height", "view")
LATENTS = ("mean", "samples", "parity")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    args = _parser().parse_args(argv)
    for name in ("checkpoint", "tasks", "seeds", "latents"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name))))
    if args.genuine is not None and args.data_dir is not None:
        raise ValueError("--genuine and --data-dir are two sources of images; give one of them")
    return evaluate(args, argv)


def evaluate(args: argparse.Namespace, argv: Sequence[str] | None) -> dict[str, Any]:
    """Encodes, probes and reports."""
    from benchmarks import plots

    device = prepare_device(args.device, args.threads)
    if args.picture:
        plots.require_matplotlib()
    observers, size = open_observers(args, device)
    seconds: dict[str, float] = {}
    with _timed(seconds, "images"):
        towers = load(args, size, device)
    rows = measure(args, observers, towers, device, seconds)
    train, test = towers.sizes()
    values = {
        "source": towers.source,
        "genuine": args.genuine is not None,
        "train": train,
        "test": test,
        "towers": towers.tested_towers(),
        "image_size": size,
        "epochs": args.epochs,
        "pixel_epochs": args.pixel_epochs,
        "rows": rows,
        "seconds": seconds,
    }
    return report(args, argv, values, device)


def measure(
    args: argparse.Namespace,
    observers: dict[Any, Any],
    towers: Towers,
    device: torch.device,
    seconds: dict[str, float],
) -> list[Row]:
    """Returns a row for each encoder and latents, one for the CNN, and two for chance."""
    from benchmarks.probe_data import CLIP
    from benchmarks.probe_scores import chance_rows, score
    from genesis_rl.checkpoint import read_config

    with _timed(seconds, "encoding"):
        features = encode_all(observers, towers, device, args.keep_latents)
    with _timed(seconds, "probes"):
        results = probe_latents(features, towers, args, device)
    rows: list[Row] = [
        {
            "model": read_config(name)["model"],
            "checkpoint": name,
            "checkpoint_sha256": observers[name, latents].encoder.sha256,
            "num_slots": observers[name, latents].encoder.num_slots,
            "latents": latents,
            "features": features[name, latents].shape[1],
            "clipped": int((features[name, latents].abs() >= CLIP).sum()),
            "tasks": score(own, towers, args.tasks),
        }
        for (name, latents), own in results.items()
    ]
    if args.pixel_epochs:
        with _timed(seconds, "pixels"):
            own = probe_pixels(towers, args, device)
        rows.append({"model": "pixel_cnn", "tasks": score(own, towers, args.tasks)})
    return rows + chance_rows(towers, args.tasks)


def report(
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    values: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Prints the table beside the paper's, and writes table, picture and result line."""
    from benchmarks import probe_table
    from benchmarks.probe_scores import across_checkpoints
    from genesis_rl.durable import replace_file

    rows = values["rows"]
    title = (
        f"{values['source']}: {values['train']:,} training and {values['test']:,} test images, "
        f"last of {args.epochs} epochs, probe seeds {', '.join(map(str, args.seeds))}"
    )
    cells = probe_table.table([*rows, *across_checkpoints(rows)], args.tasks)
    print(f"{title}\n\n{probe_table.as_text(cells)}\n\n{probe_table.LEGEND}")
    line = save_result(
        NAME, values, device=device, seed=args.seeds, folder=args.results_dir, argv=argv
    )
    text = (
        f"# ShapeStacks probes\n\n{title}.\n\n{probe_table.as_markdown(cells)}\n\n"
        f"{probe_table.LEGEND}\n\n    {line['command']}\n"
    )
    replace_file(args.results_dir / f"{NAME}.md", text.encode())
    if args.picture:
        probe_table.draw(rows, args.tasks, args.picture, title)
    return line


def open_observers(args: argparse.Namespace, device: torch.device) -> tuple[dict[Any, Any], int]:
    """Opens every checkpoint with every kind of latents, and says how large images need to be.

    Images have the paper's 64 pixels, or more if a checkpoint sees more; encoders of another size
    get them resized as the wrappers do.
    """
    from benchmarks.probe_data import IMAGE_SIZE, SLOTS, open_observer
    from genesis_rl.checkpoint import read_config

    sizes = [read_config(name)["config"]["image_size"] for name in args.checkpoint]
    size = IMAGE_SIZE if args.genuine else max(IMAGE_SIZE, *sizes)
    observers = {
        (name, latents): open_observer(name, latents, image_size=size, device=device)
        for name in args.checkpoint
        for latents in args.latents
    }
    for name, slots in {key[0]: o.encoder.num_slots for key, o in observers.items()}.items():
        if slots not in (1, SLOTS):
            note = f"note: {name} has {slots} slots, the published models of ShapeStacks {SLOTS}"
            print(note, file=sys.stderr)
    return observers, size


def load(args: argparse.Namespace, image_size: int, device: torch.device) -> Towers:
    """Reads the images and labels that the arguments name."""
    from benchmarks.probe_data import load_genuine, load_split

    options = {name: getattr(args, name) for name in ("tasks", "seeds", "train", "test")}
    if args.genuine is not None:
        return load_genuine(args.genuine, **options)
    return load_split(args.data_dir, image_size=image_size, device=device, **options)


def encode_all(
    observers: dict[Any, Any], towers: Towers, device: torch.device, keep: Path | None
) -> dict[Any, Tensor]:
    """Encodes all images once with each encoder: `[N, D]` each, on the CPU."""
    from tqdm import tqdm

    from benchmarks.probe_data import encode

    batch_size = 1024 if device.type == "cuda" else 64
    features = {}
    for key, observer in observers.items():
        name = " ".join([Path(key[0]).name, *key[1:]])
        with tqdm(
            total=len(towers.images), desc=f"encode {name}", unit=" images", disable=None
        ) as bar:
            features[key] = encode(
                observer, towers.images, batch_size=batch_size, keep=keep, progress=bar.update
            )
    return features


def probe_latents(
    features: dict[Any, Tensor], towers: Towers, args: argparse.Namespace, device: torch.device
) -> dict[Any, list[ProbeResult]]:
    """Trains the probes of all latents of one size together: every task, every seed.

    Args:
        features: `[N, D]` by whatever names them.
        towers: The images' labels and splits.
        args: `tasks`, `seeds` and `epochs`.
        device: Where to train.

    Returns:
        The results under the same names, in the order of `features`.
    """
    import torch
    from tqdm import tqdm

    from benchmarks.probes import MlpProbes, Probe, fit

    examples = towers.examples
    results: dict[Any, list[ProbeResult]] = {key: [] for key in features}
    for size in dict.fromkeys(values.shape[1] for values in features.values()):
        keys = [key for key, values in features.items() if values.shape[1] == size]
        probes = [
            Probe(source, task, seed)
            for source in range(len(keys))
            for task in args.tasks
            for seed in args.seeds
        ]
        classes = [examples.classes[probe.task] for probe in probes]
        network = MlpProbes(size, classes, [probe.seed for probe in probes])
        inputs = torch.stack([features[key] for key in keys]).to(device)
        name = f"{len(probes)} probes of {size} numbers"
        with tqdm(total=args.epochs, desc=name, unit=" epochs", disable=None) as bar:
            fitted = fit(network, inputs, examples, probes, epochs=args.epochs, progress=bar.update)
        for result in fitted:
            results[keys[result.probe.source]].append(result)
    return results


def probe_pixels(
    towers: Towers, args: argparse.Namespace, device: torch.device
) -> list[ProbeResult]:
    """Trains a CNN from scratch for every task and seed, on the same images."""
    from tqdm import tqdm

    from benchmarks.pixel_cnn import LEARNING_RATE, PixelProbes
    from benchmarks.probes import Probe, fit

    probes = [Probe(0, task, seed) for task in args.tasks for seed in args.seeds]
    classes = [towers.examples.classes[probe.task] for probe in probes]
    network = PixelProbes(towers.images.shape[1], classes, [probe.seed for probe in probes])
    with tqdm(
        total=args.pixel_epochs, desc=f"{len(probes)} CNNs", unit=" epochs", disable=None
    ) as bar:
        return fit(
            network,
            towers.images[None].to(device),
            towers.examples,
            probes,
            epochs=args.pixel_epochs,
            learning_rate=LEARNING_RATE,
            evaluations=5,  # each costs as much as half an epoch
            progress=bar.update,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--checkpoint", nargs="+", default=["shapestacks"], help="shipped ids or folders"
    )
    parser.add_argument("--data-dir", type=Path, help="where ShapeStacks is, if it is on disk")
    parser.add_argument(
        "--genuine", type=Path, metavar="NPZ", help="probe genuine frames, split anew by each seed"
    )
    parser.add_argument("--train", type=positive_int, help="training images (50000)")
    parser.add_argument("--test", type=positive_int, help="test images (at most as many as train)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the probes")
    parser.add_argument(
        "--latents",
        nargs="+",
        choices=LATENTS,
        default=["mean"],
        help="posterior means, one sample, or samples as the authors' release lays them out",
    )
    parser.add_argument("--epochs", type=positive_int, default=100, help="of the probes")
    parser.add_argument(
        "--pixel-epochs", type=_not_negative, default=20, help="of the CNN on pixels; 0: no CNN"
    )
    parser.add_argument(
        "--keep-latents",
        type=output_folder,
        metavar="DIR",
        help="keep latents there, and find them again",
    )
    parser.add_argument("--picture", type=output_file, help="where to draw bars, as PNG")
    return parser


def _not_negative(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


class _timed:
    """Adds the seconds that a block takes to a dict."""

    def __init__(self, seconds: dict[str, float], name: str):
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 2)


if __name__ == "__main__":
    run_cli(main)

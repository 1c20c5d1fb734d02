"""Model card: what is in a checkpoint, how it was made, how well it segments, and where it fails.

Scores the checkpoint on test images of its own dataset, writes `README.md` and a picture of the
best, the median and the worst image into its folder, and appends the scores to the results. With
the folder of the run that it comes from, or its `metrics.jsonl`, how training went is drawn, too.

    python -m benchmarks.model_card genesis_rl/weights/multi_dsprites --run runs/sprites
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, read_lines, run_cli

CARD = "README.md"
PICTURE = "decomposition.png"
CURVE = "training.png"
_SCORES = {"ari_fg": "ARI-FG", "sc": "SC", "msc": "mSC"}
_PANELS: tuple[tuple[str, Sequence[str], str, dict[str, Any]], ...] = (
    ("train", ["error"], "error, nats per value", {"ylim": (0.562, 0.58)}),
    ("train", ["kl"], "KL, nats", {"yscale": "log"}),
    ("train", ["beta"], "beta", {"yscale": "log"}),
    ("val", list(_SCORES), "validation images", {}),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--images", type=positive_int, default=320, help="test images")
    parser.add_argument("--data-dir", type=Path, help="where its dataset is, if it is on disk")
    parser.add_argument(
        "--note", default="", help="a paragraph of your own, such as known failures"
    )
    parser.add_argument("--run", type=Path, help="its run folder, or metrics.jsonl, for the curve")
    args = parser.parse_args(argv)

    from benchmarks import segmentation
    from genesis_rl.checkpoint import read_config

    entry = read_config(args.checkpoint)
    flags = ["--checkpoint", str(args.checkpoint), "--images", str(args.images)]
    flags += ["--dataset", entry["metadata"]["dataset"], "--device", args.device]
    flags += [] if args.data_dir is None else ["--data-dir", str(args.data_dir)]
    flags += ["--picture", str(args.checkpoint / PICTURE), "--results-dir", str(args.results_dir)]
    (line,) = segmentation.main(flags)
    if args.run is not None:
        draw_curve(args.run, args.checkpoint / CURVE)
    curve = CURVE if (args.checkpoint / CURVE).is_file() else None
    text = card(args.checkpoint.name, entry, line, args.note, curve)
    (args.checkpoint / CARD).write_text(text)
    print(f"wrote {args.checkpoint / CARD}")


def draw_curve(run: Path, picture: Path) -> None:
    """Draws error, KL, beta and segmentation over the steps of a run.

    Args:
        run: The run's folder, or its `metrics.jsonl` alone.
        picture: Where the PNG goes.

    Raises:
        ValueError: There are no metrics.
    """
    from benchmarks.plots import new_figure, save_figure

    path = run if run.is_file() else run / "metrics.jsonl"
    if not (lines := read_lines(path)):
        raise ValueError(f"{path} holds no metrics; --run needs the folder of a training run")
    figure = new_figure(8, 5)
    for axes, (split, keys, label, look) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for key in keys:
            points = [(row["step"], row[key]) for row in lines if row["split"] == split]
            axes.plot(*zip(*points, strict=True), label=_SCORES.get(key))
        axes.set(xlabel="steps", ylabel=label, **look)
        axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, picture, dpi=100)


def card(
    name: str,
    entry: dict[str, Any],
    line: dict[str, Any],
    note: str = "",
    curve: str | None = None,
) -> str:
    """Returns the card as Markdown with a YAML head.

    Args:
        name: Id of the checkpoint.
        entry: Its `config.json`.
        line: The result line of `benchmarks.segmentation`.
        note: A paragraph to add.
        curve: Name of the picture that shows how training went.
    """
    made, config = entry["metadata"], entry["config"]
    scores = {label: key for key, label in _SCORES.items()}
    head = [
        "---",
        "license: mit",
        "library_name: genesis-rl",
        "tags: [object-centric, reinforcement-learning, genesis]",
        f"datasets: [{made['dataset']}]",
        "model-index:",
        f"  - name: {name}",
        "    results:",
        "      - task: {type: image-segmentation}",
        f"        dataset: {{name: {made['dataset']}, type: {made['dataset']}, split: test}}",
        "        metrics:",
    ]
    head += [
        f"          - {{type: {label}, value: {line[k]['mean']}}}" for label, k in scores.items()
    ]
    rows = [
        ("model", f"{entry['model']}, K = {config['num_slots']}, {config['image_size']} pixels"),
        ("width of the first layer", config.get("width", "")),
        ("data", f"{made['dataset']}: {made.get('data', 'generated')}"),
        ("seed", made["seed"]),
        *([("started from", made["start_from"])] if made.get("start_from") else []),
        ("updates x images", f"{made['steps']:,} x {made['batch_size']}"),
        ("learning rate", made["learning_rate"]),
        *([("goal, nats per pixel and channel", made["goal"])] if made.get("goal") else []),
        *_averaging(made.get("weight_average", 0.0)),
        ("trained on", f"{made.get('device', 'unknown')}, {made.get('precision', '')}"),
        ("training time", f"{made.get('minutes', 'unknown')} minutes"),
        ("commit", made.get("commit", "unknown")),
        *((label, f"{line[k]['mean']:.3f} +- {line[k]['std']:.3f}") for label, k in scores.items()),
        ("the same if one slot held all", ", ".join(_chance(line, scores))),
        ("error, nats per pixel and channel", f"{line['error_per_element']['mean']:.4f}"),
        ("mean squared error", f"{line['mse']['mean']:.5f}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        "\n".join([*head, "---", "", f"# {name}", ""])
        + f"\n| | |\n|---|---|\n{table}\n\n"
        + f"Scores: {line['images']} test images, posterior {line['latents']}, mean +- standard "
        + f"deviation over images ({line['skipped']} without foreground left out), by\n"
        + f"`{line['command']}`.\n\n"
        + f"![best, median and worst image]({PICTURE})\n\nFrom top to bottom the best, the median "
        + "and the worst of these images; from left to right the true masks,\nthe image, its "
        + "reconstruction, the slots' tints, masks and components.\n"
        + (f"\n![error, KL, beta and scores over training]({curve})\n" if curve else "")
        + (f"\n{note}\n" if note else "")
    )


def _averaging(decay: float) -> list[tuple[str, str]]:
    return [("weights", f"running average of those of all steps, decay {decay:g}")] if decay else []


def _chance(line: dict[str, Any], scores: dict[str, str]) -> list[str]:
    return [f"{label} {line['one_slot'][key]:.3f}" for label, key in scores.items()]


if __name__ == "__main__":
    run_cli(main)

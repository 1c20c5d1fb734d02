"""The table of the ShapeStacks probes beside the paper's, as text, Markdown and picture.

A row is what `probe_shapestacks.py` writes: the model, its checkpoint, and a score for each task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import new_figure, save_figure

Row = dict[str, Any]

# Engelcke et al. (ICLR 2020), Table 1: test accuracy in percent; the last row is its "random".
PAPER: dict[str, dict[str, float]] = {
    "genesis": {"stability": 64.0, "height": 80.3, "view": 99.3},
    "genesis_s": {"stability": 63.2, "height": 80.8, "view": 99.7},
    "monet": {"stability": 59.6, "height": 88.4, "view": 99.5},
    "bd_vae": {"stability": 60.1, "height": 78.6, "view": 99.7},
    "dc_vae": {"stability": 59.0, "height": 67.5, "view": 99.1},
    "frequency": {"stability": 50.0, "height": 22.8, "view": 6.25},
}
LEGEND = (
    "Mean and standard deviation over the probes' seeds (or over checkpoints); in brackets the "
    "95 % interval that the number of test images leaves."
)
NAMES = {
    "genesis": "GENESIS",
    "genesis_s": "GENESIS-S",
    "monet": "MONet",
    "bd_vae": "BD-VAE",
    "dc_vae": "DC-VAE",
    "pixel_cnn": "CNN on pixels",
    "frequency": "chance: class frequencies",
    "majority": "chance: majority class",
}


def table(rows: Sequence[Row], tasks: Sequence[str]) -> list[list[str]]:
    """Returns the cells, header first: for each task what was measured and what was published.

    All five models of the paper have a line, measured or not, in the paper's order.
    """
    head = ["representation"]
    for task in tasks:
        head += [f"{task} %", "paper"]
    lines = [head]
    for model, name in NAMES.items():
        own = [row for row in rows if row["model"] == model]
        for row in own or [{"model": model, "tasks": {}}] * (model in PAPER):
            cells = [_label(row, name)]
            for task in tasks:
                published = PAPER.get(model, {}).get(task)
                cells += [_score(row["tasks"].get(task)), f"{published or '':}"]
            lines.append(cells)
    return lines


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """Lays the cells out in columns: names to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for line in cells:
        aligned = [line[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """The same for people who read it in a browser."""
    rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


def draw(rows: Sequence[Row], tasks: Sequence[str], path: Path, title: str) -> None:
    """Draws a bar with its interval per row and task, the paper's numbers as diamonds."""
    from benchmarks.curves import COLOURS

    chance = {
        row["model"]: row["tasks"] for row in rows if row["model"] in ("frequency", "majority")
    }
    bars = [row for row in rows if row["model"] not in chance]
    figure = new_figure(3.4 * len(tasks) + 1.6, 0.4 * len(bars) + 1.9)
    grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        for y, row in enumerate(bars):
            score = row["tasks"][task]
            low, high = (100 * bound for bound in score["interval_95"])
            value = 100 * score["accuracy"]
            colour = COLOURS[list(NAMES).index(row["model"]) % len(COLOURS)]
            axes.barh(y, value, height=0.7, color=colour, alpha=0.8)
            axes.errorbar(value, y, xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                          color="black", capsize=3)  # fmt: skip
            published = PAPER.get(row["model"], {}).get(task)
            if published:
                axes.plot(
                    published,
                    y,
                    "D",
                    color="white",
                    markeredgecolor="black",
                    zorder=3,
                    clip_on=False,
                )
        for name, style in (("frequency", ":"), ("majority", "--")):
            axes.axvline(100 * chance[name][task]["accuracy"], color="0.4", linestyle=style)
        axes.set(xlabel="test accuracy, %", xlim=(0, 100), title=task)
        axes.set_yticks(np.arange(len(bars)), [_label(row, NAMES[row["model"]]) for row in bars])
    grid[0].invert_yaxis()
    figure.suptitle(f"{title}\nlines: 95 %; diamonds: the paper; dotted: class frequencies; "
                    "dashed: majority class", fontsize=9)  # fmt: skip
    save_figure(figure, path)


def _label(row: Row, name: str) -> str:
    if "checkpoints" in row:
        return f"{name}, {row['checkpoints']} checkpoints, {row['latents']}"
    if "checkpoint" not in row:
        return name
    slots = f", K={row['num_slots']}" if row["num_slots"] > 1 else ""
    return f"{name} {short_name(row['checkpoint'])}{slots}, {row['latents']}"


def short_name(checkpoint: str) -> str:
    """An id as it is; of a path the last two folders, the last being called alike in all runs."""
    return "/".join(Path(checkpoint).parts[-2:])


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    text = f"{100 * score['accuracy']:.1f}"
    if "std" in score:
        text += f" +-{100 * score['std']:.1f}"
    if "interval_95" in score:
        low, high = score["interval_95"]
        text += f" ({100 * low:.1f}-{100 * high:.1f})"
    return text

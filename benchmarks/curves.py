"""Learning curves: interquartile means with stratified bootstrap intervals, as text and as PNG.

After Agarwal et al. (2021): the interquartile mean ignores the best and the worst quarter of the
runs, and its interval comes from resampling the runs of each task. Needs numpy; drawing a PNG needs
matplotlib (`pip install genesis-rl[viz]`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.plots import new_figure, save_figure

# Okabe and Ito's palette, distinct for colour-blind readers too, and never colour alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Interval(NamedTuple):
    """A statistic and its 95 % interval; floats, or arrays over the points of a curve."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Curve(NamedTuple):
    """A method's curve: `steps` `[P]`, and one score per run and point, `[R, P]`."""

    label: str
    steps: np.ndarray
    scores: np.ndarray


def interquartile_mean(scores: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of the middle half; equals `scipy.stats.trim_mean(scores, 0.25, axis)`."""
    ordered = np.sort(scores, axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    return np.asarray(ordered.take(range(cut, count - cut), axis=axis).mean(axis=axis))


def bootstrap_interval(
    scores: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    *,
    repetitions: int = 2000,
    seed: int = 0,
) -> Interval:
    """Returns a statistic of all runs and its 95 % interval from resampled runs.

    Args:
        scores: For each task an array `[R, ...]` of its runs' scores; the rest of the shape is
            alike. Runs are resampled within their task: the tasks are strata.
        statistic: Maps `[all runs, ...]` to `[...]`.
        repetitions: Resamples to draw.
        seed: Of the resampling.
    """
    tasks = [np.asarray(task, dtype=np.float64) for task in scores]
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([task[rng.integers(len(task), size=len(task))] for task in tasks]))
        for _ in range(repetitions)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Interval(statistic(np.concatenate(tasks)), low, high)


def ascii_curve(
    steps: Sequence[float],
    values: Sequence[float],
    *,
    title: str,
    reference: float | None = None,
    width: int = 60,
    height: int = 10,
) -> str:
    """Draws a curve with characters; a reference level is a dotted line."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    levels = y if reference is None else np.append(y, reference)
    low, high = float(levels.min()), float(levels.max())
    high = high if high > low else low + 1
    grid = [[" "] * width for _ in range(height)]

    def row(value: float) -> int:
        return height - 1 - round((value - low) / (high - low) * (height - 1))

    if reference is not None:
        grid[row(reference)] = list("." * width)
    columns = np.linspace(x.min(), x.max(), width)
    for column, value in enumerate(np.interp(columns, x, y)):
        grid[row(float(value))][column] = "*"
    lines = [title]
    for i, cells in enumerate(grid):
        level = high - (high - low) * i / (height - 1)
        lines.append(f"{level:8.3f} |{''.join(cells)}")
    lines.append(f"{'':8} +{'-' * width}")
    lines.append(f"{'':8}  {x.min():<{width // 2}.0f}{x.max():>{width - width // 2}.0f} steps")
    if reference is not None:
        lines.append(f"{'':8}  dotted: random policy, {reference:.3f}")
    return "\n".join(lines)


def draw_curves(
    curves: Sequence[Curve],
    path: Path,
    *,
    title: str,
    ylabel: str,
    reference: float | None = None,
) -> None:
    """Draws the interquartile mean of each method's runs, with its interval, as PNG."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for i, curve in enumerate(curves):
        band = bootstrap_interval([curve.scores])
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        label = f"{curve.label} ({len(curve.scores)} seeds)"
        axes.plot(curve.steps, band.value, color=colour, marker=marker, markersize=4, label=label)
        axes.fill_between(curve.steps, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
    if reference is not None:
        axes.axhline(reference, color="0.4", linestyle=":", label="random policy")
    axes.set(xlabel="environment steps", ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path)

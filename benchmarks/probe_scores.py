"""From what probes got right to rows of a table: accuracy, how sure it is, and chance.

Shapes: m test images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.probe_data import Towers
from benchmarks.probes import ProbeResult

Row = dict[str, Any]

_Z = 1.959964  # of a two-sided 95 % interval


class Chance(NamedTuple):
    """What two ways of guessing get right on the test images, 0 to 1.

    Attributes:
        frequency: Guessing each class as often as it occurs: the sum of squared frequencies.
        majority: Always answering the most frequent class.
    """

    frequency: float
    majority: float


def chance(labels: Tensor) -> Chance:
    """Returns the level to beat on test labels `[m]`."""
    shares = torch.bincount(labels).double() / len(labels)
    return Chance(float(shares.square().sum()), float(shares.max()))


def wilson(share: float, count: float) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share that was seen in `count` independent images."""
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    spread = share * (1 - share) / count + _Z**2 / (4 * count**2)
    half = _Z * math.sqrt(spread) / (1 + _Z**2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def effective_count(correct: Tensor, groups: Tensor) -> float:
    """How many independent images are worth as much as these.

    Views of one tower fall together, right or wrong, so 16 of them say less than 16 towers. The
    variance of the accuracy is estimated from the sums of the towers, as robust standard errors
    for clusters are. So many independent images would have the same.

    Args:
        correct: `[m]` bool.
        groups: `[m]` int64, equal for images that are not independent.

    Returns:
        At most m; m itself if all groups are single images.
    """
    share = float(correct.double().mean())
    _, group = groups.unique(return_inverse=True)
    count = int(group.max()) + 1
    if count == len(correct):
        return float(count)
    if share in (0.0, 1.0):  # no variance to estimate: the cautious answer
        return float(count)
    excess = torch.zeros(count, dtype=torch.float64)
    excess.index_add_(0, group, correct.double() - share)
    variance = float(excess.square().sum()) / len(correct) ** 2 * count / max(count - 1, 1)
    independent = share * (1 - share) / variance if variance else math.inf
    return float(min(independent, len(correct)))


def score(
    results: Iterable[ProbeResult], towers: Towers, tasks: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Sums up the probes of one representation, task by task, ready for JSON."""
    results, scores = list(results), {}
    for task in tasks:
        own = [result for result in results if result.probe.task == task]
        seeds = [result.accuracy for result in own]
        tests = [towers.tower[towers.examples.test[result.probe.seed]] for result in own]
        images = np.mean([effective_count(r.correct, t) for r, t in zip(own, tests, strict=True)])
        mean = float(np.mean(seeds))
        curves = {
            name: np.mean([getattr(result.curve, name) for result in own], axis=0).round(4).tolist()
            for name in ("loss", "train", "test")
        }
        scores[task] = {
            "accuracy": round(mean, 5),
            "std": round(float(np.std(seeds)), 5),
            "interval_95": [round(bound, 5) for bound in wilson(mean, float(images))],
            "effective_images": round(float(images), 1),
            "per_seed": [round(accuracy, 5) for accuracy in seeds],
            "curve": {"epochs": own[0].curve.epochs, **curves},
        }
    return scores


def chance_rows(towers: Towers, tasks: Sequence[str]) -> list[Row]:
    """What guessing gets right on the test images, in two ways."""
    examples = towers.examples
    levels = {
        task: [chance(examples.labels[task][rows]) for rows in examples.test.values()]
        for task in tasks
    }
    return [
        {
            "model": name,
            "tasks": {
                task: {"accuracy": round(float(np.mean([getattr(c, name) for c in own])), 5)}
                for task, own in levels.items()
            },
        }
        for name in Chance._fields
    ]


def across_checkpoints(rows: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation over the checkpoints of one model, where there are several."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "checkpoint" in row:
            groups.setdefault((row["model"], row["latents"]), []).append(row)
    summary = []
    for (model, latents), own in groups.items():
        if len(own) < 2:
            continue
        values = {task: [row["tasks"][task]["accuracy"] for row in own] for task in own[0]["tasks"]}
        tasks = {
            task: {
                "accuracy": round(float(np.mean(seen)), 5),
                "std": round(float(np.std(seen)), 5),
            }
            for task, seen in values.items()
        }
        summary.append(
            {"model": model, "latents": latents, "checkpoints": len(own), "tasks": tasks}
        )
    return summary

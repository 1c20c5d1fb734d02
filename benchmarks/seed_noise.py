"""Do seeds alone explain how far two recipes are apart? Statistics on lines of `recipes`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

Line = dict[str, Any]
COMPARED = {"ari_fg": "ARI-FG", "msc": "mSC", "error": "error"}  # of recipes with several seeds
# Student's t within which 95 % are, by degrees of freedom from 1 on; the last for more.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

_HEAD = ["recipe", "runs", "score", "baseline", "here", "difference, 95 % interval"]
_HEAD += ["explained by seeds", "and at points of the curve"]


class Difference(NamedTuple):
    """How far the means of two groups of runs are apart, and by how much seeds blur that."""

    value: float
    margin: float  # the 95 % interval is value +- margin

    @property
    def explained(self) -> bool:
        """Whether seeds alone explain it: the interval holds 0."""
        return abs(self.value) <= self.margin


def noise_table(rows: Sequence[Line]) -> str:
    """Returns what seeds explain of each recipe's distance to the baseline, as Markdown.

    A line for each score of each recipe of several seeds; empty if there is none.

    Args:
        rows: Result lines of one comparison. The baseline's differ in nothing.
    """
    recipes = by_recipe(rows)
    baseline = recipes.pop("{}", [])
    lines = []
    for group in recipes.values():
        if min(len(group), len(baseline)) < 2:
            continue
        for score, name in COMPARED.items():
            pairs = _along_curves(group, baseline, score)
            if not pairs:
                continue
            ours, theirs = pairs[-1]
            gaps = [difference(*pair) for pair in pairs]
            digits = 5 if score == "error" else 4
            means = [f"{statistics.fmean(scores):.{digits}f}" for scores in (theirs, ours)]
            interval = f"{gaps[-1].value:+.{digits}f} +- {gaps[-1].margin:.{digits}f}"
            lines.append(
                [
                    *(name_of(group), f"{len(group)} and {len(baseline)}", name),
                    *(*means, interval, "yes" if gaps[-1].explained else "no"),
                    f"{sum(gap.explained for gap in gaps)} of {len(gaps)}",
                ]
            )
    return markdown([_HEAD, *lines]) if lines else ""


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compares the means of runs with different seeds, as if both groups spread alike.

    Args:
        ours: A score of each run; at least two.
        theirs: Likewise.
    """
    freedom = len(ours) + len(theirs) - 2
    squares = sum(statistics.variance(x) * (len(x) - 1) for x in (ours, theirs))
    error = math.sqrt(squares / freedom * (1 / len(ours) + 1 / len(theirs)))
    student = _STUDENT[min(freedom, len(_STUDENT)) - 1]
    return Difference(statistics.fmean(ours) - statistics.fmean(theirs), student * error)


def _along_curves(
    ours: list[Line], theirs: list[Line], score: str
) -> list[tuple[list[float], list[float]]]:
    """Returns a score of each run of two recipes, wherever all of them were validated."""
    curves = [
        {point["steps"]: point[score] for point in line["curve"] if point[score] is not None}
        for line in [*ours, *theirs]
    ]
    shared = sorted(set.intersection(*map(set, curves)))
    values = [[curve[step] for curve in curves] for step in shared]
    return [(line[: len(ours)], line[len(ours) :]) for line in values]


def by_recipe(rows: Sequence[Line]) -> dict[str, list[Line]]:
    """Groups result lines by what they differ in."""
    recipes: dict[str, list[Line]] = {}
    for line in rows:
        recipes.setdefault(json.dumps(line["differs"], sort_keys=True), []).append(line)
    return recipes


def name_of(group: Sequence[Line]) -> str:
    """Returns a recipe's name: that of its run, or of its runs without the seed."""
    run = str(group[0]["run"])
    return run if len(group) == 1 else run.rpartition("-s")[0] or run


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table; its first line is the head."""
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])

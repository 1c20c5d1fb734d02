"""What all sections of RESULTS.md are made of: tables, where numbers come from, and commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]


def section(title: str, head: list[str], rows: list[list[str]], below: list[str]) -> str:
    """Returns a heading, a table and what stands below it."""
    table = [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"## {title}", "", *table, "", *below, ""])


def newest(lines: Sequence[Line], *keys: str) -> list[Line]:
    """Returns the last line of each combination of values."""
    return list({tuple(str(line.get(key)) for key in keys): line for line in lines}.values())


def commands(lines: Sequence[Line], missing: Sequence[str]) -> list[str]:
    """Returns the commands that made the numbers, and those that will make the missing ones."""
    made = list(dict.fromkeys(f"{line['command']}" for line in lines))
    wanted = list(dict.fromkeys(missing))
    text = []
    if made:
        text += ["Made by", "", *(f"    {command}" for command in made)]
    if wanted:
        text += [*([""] if text else []), "To measure", "", *(f"    {line}" for line in wanted)]
    return text


def origin(line: Line) -> str:
    """Returns where a number comes from."""
    seed = "" if line["seed"] is None else f", seed {line['seed']}"
    return f"{line['device']}, `{line['commit']}`{seed}, {line['date'][:10]}"


def number(value: float | None, digits: int = 2) -> str:
    """Returns a number, or an empty cell."""
    return "" if value is None else f"{value:.{digits}f}"


def mean_std(value: dict[str, float], digits: int = 3) -> str:
    """Returns mean and standard deviation."""
    return f"{value['mean']:.{digits}f} +- {value['std']:.{digits}f}"

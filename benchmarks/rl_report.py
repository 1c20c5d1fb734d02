"""What the RL benchmark found: tables, curves and intervals, from its result lines alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import read_lines

REPRESENTATIONS = ("state", "cnn", "vae", "genesis", "random-genesis")

Row = dict[str, Any]


def read_rows(folder: Path, env_ids: Sequence[str] | None) -> list[Row]:
    """Returns the stored rows of these tasks, or all; of repeated ones the last."""
    rows = {
        (row["env_id"], label(row), row["steps"], row["seed"]): row
        for row in read_lines(folder / "rl.jsonl")
    }
    missing = set(env_ids or []) - {row["env_id"] for row in rows.values()}
    if missing or not rows:
        tasks = " ".join(sorted(missing))
        raise ValueError(
            f"{folder / 'rl.jsonl'} has no row of {tasks or 'any task'}; make some with "
            f"python -m benchmarks.rl{' --env-id ' if tasks else ''}{tasks}"
        )
    return [row for row in rows.values() if not env_ids or row["env_id"] in env_ids]


def label(row: Row) -> str:
    """Names what the agent of a row sees, and with what head where it is not the usual one."""
    name = str(row["representation"])
    name += "" if row["latents"] == "both" else f", {row['latents']} latents"
    name += "" if row.get("head", "mlp") == "mlp" else f", {row['head']}"
    return name + (", normalised" if row["normalise"] else "")


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Returns one line per representation and head: final success over seeds, with intervals."""
    import numpy as np

    from benchmarks.curves import bootstrap_interval

    lines = []
    for (name, steps), group in _groups(rows).items():
        success = np.array([row["final"]["success"] for row in group])
        band = bootstrap_interval([success])
        lines.append(
            {
                "representation": name,
                "steps": steps,
                "seeds": [row["seed"] for row in group],
                "success": round(float(success.mean()), 4),
                "success_std": round(float(success.std()), 4),
                "iqm": round(float(band.value), 4),
                "iqm_95": [round(float(band.low), 4), round(float(band.high), 4)],
                "return": round(float(np.mean([row["final"]["return"] for row in group])), 4),
                "transfer": _transfer(group),
                "frames_per_s": round(float(np.median([row["frames_per_s"] for row in group])), 1),
                "training_s": round(sum(row["training_s"] for row in group), 1),
            }
        )
    return lines


def summarise_tasks(rows: Sequence[Row]) -> list[Row]:
    """Returns one line per representation that has been tried on all tasks: its IQM over them.

    Runs are resampled within their task (Agarwal et al., 2021).
    """
    import numpy as np

    from benchmarks.curves import bootstrap_interval

    tasks = list(dict.fromkeys(row["env_id"] for row in rows))
    lines = []
    for (name, steps), group in _groups(rows).items():
        scores = [[r["final"]["success"] for r in group if r["env_id"] == task] for task in tasks]
        if not all(scores):
            continue
        band = bootstrap_interval([np.array(runs) for runs in scores])
        lines.append(
            {
                "representation": name,
                "steps": steps,
                "tasks": len(tasks),
                "iqm": round(float(band.value), 4),
                "iqm_95": [round(float(band.low), 4), round(float(band.high), 4)],
            }
        )
    return lines


def report(rows: Sequence[Row], picture: Path) -> None:
    """Draws the curves of each task, prints its table, and ends with one line of JSON."""
    tasks = list(dict.fromkeys(row["env_id"] for row in rows))
    results = []
    for env_id in tasks:
        own = [row for row in rows if row["env_id"] == env_id]
        path = picture
        if len(tasks) > 1:
            path = picture.with_name(f"{picture.stem}-{slug(env_id)}{picture.suffix}")
        _draw(own, env_id, path)
        chance, lines = own[0]["random"], summarise(own)
        _print_table(env_id, chance, lines)
        print(f"curve: {path}\n")
        results.append({"env_id": env_id, "random": chance["success"], "rows": lines})
    overall = summarise_tasks(rows) if len(tasks) > 1 else []
    for line in overall:
        low, high = line["iqm_95"]
        print(
            f"{line['representation']:<28}{line['steps']:>10} steps, IQM over {line['tasks']} "
            f"tasks {line['iqm']:.3f} ({low:.3f} to {high:.3f})"
        )
    print(json.dumps({"benchmark": "rl", "tasks": results, "overall": overall}))


def slug(env_id: str) -> str:
    """The task's name for folders and files."""
    return env_id.rpartition("/")[2].lower()


def _print_table(env_id: str, chance: Row, lines: Sequence[Row]) -> None:
    print(f"{env_id}: success of the last evaluation; random policy {chance['success']:.3f}")
    others = list(dict.fromkeys(name for line in lines for name in line["transfer"]))
    head = f"{'representation':<28}{'steps':>10}{'seeds':>6}{'mean':>8}{'IQM':>8}   95 % interval"
    print(head + f"{'frames/s':>10}" + "".join(f"{name:>16}" for name in others))
    for line in lines:
        low, high = line["iqm_95"]
        found = [line["transfer"].get(name) for name in others]
        print(
            f"{line['representation']:<28}{line['steps']:>10}{len(line['seeds']):>6}"
            f"{line['success']:8.3f}{line['iqm']:8.3f}   {low:.3f} to {high:.3f}"
            f"{line['frames_per_s']:10.0f}"
            + "".join(f"{'' if value is None else f'{value:.3f}':>16}" for value in found)
        )


def _draw(rows: Sequence[Row], env_id: str, path: Path) -> None:
    import numpy as np

    from benchmarks.curves import Curve, draw_curves

    curves = []
    for (name, _), group in _groups(rows).items():
        steps = np.array(group[0]["curve"]["steps"])
        scores = [np.interp(steps, r["curve"]["steps"], r["curve"]["success"]) for r in group]
        curves.append(Curve(name, steps, np.array(scores)))
    chance = rows[0]["random"]["success"]
    title = env_id.rpartition("/")[2]
    draw_curves(curves, path, title=title, ylabel="success rate", reference=chance)


def _transfer(group: Sequence[Row]) -> dict[str, float]:
    """Mean success over seeds in each variant of the environment that all of them were tried in."""
    first, *others = [row.get("transfer") or {} for row in group]
    means = {}
    for name, value in first.items():
        values = [value, *(other.get(name) for other in others)]
        if None not in values:
            means[name] = round(sum(values) / len(values), 4)
    return means


def _groups(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """Groups rows by label and length: in the order of REPRESENTATIONS, other heads after "mlp"."""
    groups: dict[tuple[str, int], list[Row]] = {}

    def rank(row: Row) -> tuple[int, bool, int, int]:
        other = row.get("head", "mlp") != "mlp"
        return REPRESENTATIONS.index(row["representation"]), other, row["steps"], row["seed"]

    for row in sorted(rows, key=rank):
        groups.setdefault((label(row), row["steps"]), []).append(row)
    return groups

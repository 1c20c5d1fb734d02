"""Which recipe learns best at equal budget? Reads finished runs; trains nothing.

Protocol: the runs of a study differ from its baseline in one setting or a few. They are compared
where all of them have been: at equal steps, or with `--by minutes` at equal time on the device
(training, validation and saving; not start-up and compilation). A score is that of the last
validation until then. Runs that differ in nothing but the seed are one recipe: mean +- deviation.
Where baseline and recipe both have several seeds, a second table asks whether seeds alone explain
what they differ by: means, and the interval (95 %, Student's, spread pooled) of their difference.

    python -m pretrain.many --gpus 4 --out runs/recipes multi_dsprites_recipes
    python -m benchmarks.recipes runs/recipes --picture benchmarks/results/recipes.png
    python -m benchmarks.recipes runs/recipes --by minutes --budget 5
    python -m benchmarks.recipes runs/kernels --baseline plain
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import RESULTS, append_line, provenance, read_lines, run_cli
from benchmarks.curves import COLOURS
from benchmarks.plots import new_figure, save_figure
from benchmarks.seed_noise import COMPARED, by_recipe, markdown, name_of, noise_table
from pretrain.command_line import Parser, output_file, output_folder, positive_number
from pretrain.config import Config, build
from pretrain.strict_yaml import load_yaml

SCORES = ("ari_fg", "msc", "sc", "error", "kl")  # of validation images
COMPUTING = ("compile", "fused", "deterministic")  # settings that only decide how it is computed


@dataclass(frozen=True)
class Point:
    """What a run had reached after `steps` and `minutes`; values by their names in the metrics."""

    steps: int
    minutes: float
    values: dict[str, float]


@dataclass(frozen=True)
class History:
    """What a run has left behind, in the order of steps.

    Attributes:
        training: Points with error (nats per element), kl, beta.
        validation: Points with the `SCORES`.
        origin: The run's `env.json`: commit, device, versions.
    """

    name: str
    config: Config
    training: list[Point]
    validation: list[Point]
    origin: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the result lines, one a run."""
    args = _parse(argv)
    found = [read_history(folder) for root in args.folders for folder in run_folders(root)]
    histories = [history for history in found if history.validation]
    for history in found:
        if history not in histories:
            print(f"{history.name} has no validation yet, so it is left out", file=sys.stderr)
    if not histories:
        raise ValueError(f"no run with a validation in {', '.join(map(str, args.folders))}")
    baseline = _baseline(histories, args.baseline)
    reached = min(getattr(h.validation[-1], args.by) for h in histories)
    budget = reached if args.budget is None else args.budget
    rows = [
        row(h, baseline=baseline.config, by=args.by, budget=budget, argv=argv) for h in histories
    ]
    print(f"at {budget:,.6g} {args.by}\n")
    print(table(rows))
    if noise := noise_table(rows):
        print(f"\n{noise}")
    for line in rows:
        append_line(args.results_dir / "recipes.jsonl", line)
    if args.picture:
        draw(histories, args.picture, by=args.by, baseline=baseline.name)
    print(json.dumps({"benchmark": "recipes", "by": args.by, "budget": budget, "runs": len(rows)}))
    return rows


def run_folders(root: Path) -> list[Path]:
    """Returns the folders under `root` that hold runs, in the order of their names."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; it should hold those of runs")
    return [path.parent for path in sorted(root.glob("*/metrics.jsonl"))]


def read_history(folder: Path) -> History:
    """Reads a run's settings and metrics."""
    lines = read_lines(folder / "metrics.jsonl")
    config = build(load_yaml(folder / "config.yaml"))
    train = [line for line in lines if line["split"] == "train"]
    clock = _clock(train)
    points: dict[str, list[Point]] = {"train": [], "val": []}
    for line in lines:
        values = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
        points[line["split"]].append(Point(line["step"], clock(line["step"]), values))
    origin = folder / "env.json"
    known = json.loads(origin.read_text()) if origin.is_file() else {}
    return History(folder.name, config, points["train"], points["val"], known)


def row(
    history: History, *, baseline: Config, by: str, budget: float, argv: Sequence[str] | None
) -> dict[str, Any]:
    """Returns a run's result line: its scores at the budget, and where they come from."""
    seen = [p for p in history.validation if getattr(p, by) <= budget * (1 + 1e-9)]
    trained = [p for p in history.training if getattr(p, by) <= budget * (1 + 1e-9)]
    at = seen[-1] if seen else Point(0, 0.0, {})
    betas = [p.values["beta"] for p in trained if "beta" in p.values]
    goal = history.config.goal if history.config.objective == "geco" else -math.inf
    made = provenance("recipes", device=_cpu(), seed=history.config.seed, argv=argv)
    made |= {k: history.origin[k] for k in ("device", "commit", "versions") if k in history.origin}
    return {
        "benchmark": "recipes",
        "run": history.name,
        "dataset": history.config.dataset,
        "differs": differences(history.config, baseline),
        "by": by,
        "budget": budget,
        "steps": at.steps,
        "minutes": round(at.minutes, 3),
        **{name: at.values.get(name) for name in SCORES},
        "curve": [{"steps": p.steps, **{k: p.values.get(k) for k in COMPARED}} for p in seen],
        "beta": betas[-1] if betas else None,
        "lowest_beta": min(betas, default=None),
        "goal_met_at": next((p.steps for p in trained if p.values["error"] <= goal), None),
        "skipped_steps": trained[-1].values.get("skipped_steps") if trained else None,
        **made,
    }


def differences(config: Config, baseline: Config) -> dict[str, Any]:
    """Returns the settings of what is learnt, and how, that differ; the seed is none."""
    ours, theirs = (
        settings.fixed_values() | {name: getattr(settings, name) for name in COMPUTING}
        for settings in (config, baseline)
    )
    return {
        name: value
        for name, value in ours.items()
        if name != "seed" and theirs.get(name, value) != value
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the comparison as Markdown: a line a recipe, the best segmentation first."""
    recipes = by_recipe(rows)
    head = ["recipe", "differs", "runs", "steps", "min", "ARI-FG", "mSC", "SC"]
    head += ["error", "KL", "beta", "lowest", "goal met at"]
    lines = [head]
    for group in sorted(recipes.values(), key=lambda g: -(_mean(g, "ari_fg") or -2)):
        differs = ", ".join(f"{k} {v}" for k, v in group[0]["differs"].items()) or "(baseline)"
        cells = [name_of(group), differs, str(len(group))]
        cells += [_cell(group, "steps", ",.0f"), _cell(group, "minutes", ".1f")]
        cells += [_cell(group, key, ".3f", spread=True) for key in ("ari_fg", "msc", "sc")]
        cells += [_cell(group, "error", ".5f"), _cell(group, "kl", ",.0f")]
        cells += [_cell(group, key, ".1e") for key in ("beta", "lowest_beta")]
        lines.append([*cells, _cell(group, "goal_met_at", ",.0f")])
    return markdown(lines)


def draw(histories: list[History], path: Path, *, by: str, baseline: str) -> None:
    """Draws what was validated, and beta, of every run as PNG; the baseline is black."""
    figure = new_figure(12.8, 7.2)
    panels = figure.subplots(2, 3).flat
    colours = [c for c in COLOURS if c != "#000000"]
    styles = ["-", "--", ":", "-."]
    others = [h for h in histories if h.name != baseline]
    titles = ("ARI-FG", "mSC", "SC", "error, nats per element", "KL, nats per image")
    for name, title, axes in zip((*SCORES, "beta"), (*titles, "beta"), panels, strict=True):
        for history in histories:
            i = others.index(history) if history in others else -1
            look = {"color": "black", "linewidth": 2.0, "zorder": 3}
            if i >= 0:
                look = {"color": colours[i % 6], "linestyle": styles[i // 6 % 4], "linewidth": 1.2}
            points = history.training if name == "beta" else history.validation
            points = [p for p in points if name in p.values]
            x, y = [getattr(p, by) for p in points], [p.values[name] for p in points]
            axes.plot(x, y, label=history.name, **look)
        axes.set(xlabel=by, title=title, yscale="log" if name in ("kl", "beta") else "linear")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save_figure(figure, path, dpi=110)


def _clock(train: list[dict[str, Any]]) -> Callable[[int], float]:
    """Returns minutes of training as a function of the step, from the speeds that were logged."""
    steps = [line["step"] for line in train]
    gaps = [step - before for step, before in zip(steps, [0, *steps], strict=False)]
    rates = [max(line["steps_per_second"], 1e-9) for line in train]
    minutes = list(accumulate(gap / rate / 60 for gap, rate in zip(gaps, rates, strict=True)))

    def at(step: int) -> float:
        return minutes[min(bisect_left(steps, step), len(steps) - 1)] if steps else 0.0

    return at


def _baseline(histories: list[History], name: str) -> History:
    for history in histories:
        if history.name == name or history.name.startswith(f"{name}-s"):
            return history
    known = ", ".join(history.name for history in histories)
    raise ValueError(f"no run is called {name!r}; --baseline is one of {known}")


def _mean(group: list[dict[str, Any]], key: str) -> float | None:
    values = [line[key] for line in group if line[key] is not None]
    return statistics.fmean(values) if values else None


def _cell(group: list[dict[str, Any]], key: str, form: str, *, spread: bool = False) -> str:
    mean = _mean(group, key)
    if mean is None:
        return ""
    values = [line[key] for line in group if line[key] is not None]
    deviation = f" +- {statistics.stdev(values):{form}}" if spread and len(values) > 1 else ""
    return f"{mean:{form}}{deviation}"


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="folders of runs, as pretrain.many makes them")
    add("--baseline", default="faithful", help="the run that others differ from")
    add("--by", choices=("steps", "minutes"), default="steps", help="what the budget counts")
    add("--budget", type=positive_number, help="default: as far as all runs have got")
    add("--picture", type=output_file, help="PNG of the curves")
    add(
        "--results-dir", type=output_folder, default=RESULTS, help="where result lines are appended"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_cli(main)

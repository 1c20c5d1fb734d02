"""Sections of RESULTS.md that repeat the paper's tables: segmentation, probes, sample quality."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import fid
from benchmarks.inception import METRIC as FID
from benchmarks.probe_scores import across_checkpoints
from benchmarks.probe_table import LEGEND, NAMES, table
from benchmarks.report_markdown import (
    Line,
    commands,
    mean_std,
    newest,
    number,
    origin,
    section,
)
from benchmarks.seed_noise import noise_table
from benchmarks.segmentation import METRICS, over_models

# Dataset, what it stands for, and the figures that others published.
SEGMENTATION_ANCHORS = (
    (
        "multi_dsprites",
        "Official release, its own Multi-dSprites, posterior samples",
        {"ari_fg": 0.57, "msc": 0.69},
    ),
    (
        "multi_dsprites",
        "Prototype, 8 minutes on one H200",
        {"ari_fg": 0.70, "sc": 0.83, "msc": 0.80},
    ),
    (
        "shapestacks",
        "Paper: GENESIS, five seeds, posterior samples",
        {"ari_fg": 0.73, "sc": 0.64, "msc": 0.60},
    ),
    (
        "shapestacks",
        "Paper: MONet, five seeds, posterior samples",
        {"ari_fg": 0.63, "sc": 0.52, "msc": 0.49},
    ),
)
DATASETS = ("multi_dsprites", "gqn", "shapestacks")
TASKS = ("stability", "height", "view")
_GENUINE = (
    "As above, on frames of a public course subset, split in training and test by each seed; its "
    "views are two kinds of camera. The paper's numbers are those of all of ShapeStacks, 16 views."
)


def segmentation_section(lines: Sequence[Line]) -> str:
    """Returns the table of ARI and covering: published, each checkpoint, and means over models."""
    rows = []
    for dataset, name, values in SEGMENTATION_ANCHORS:
        cells = [number(values.get(metric)) for metric in METRICS]
        rows.append([f"*{name}* ({dataset})", *cells, "", ""])
    measured = newest(lines, "checkpoint", "dataset", "split", "latents")
    for line in measured:
        name = f"`{line['checkpoint']}` ({line['dataset']}, {line['images']} {line['split']} images"
        name += f", posterior {line['latents']})"
        error = f"{line['error_per_element']['mean']:.4f}"
        rows.append([name, *(mean_std(line[metric]) for metric in METRICS), error, origin(line)])
        chance = [number(line["one_slot"][metric]) for metric in METRICS]
        rows.append(["one slot for everything, same images", *chance, "", ""])
    for (model, dataset, latents), own in _alike(measured).items():
        means = over_models(own)
        name = f"**{NAMES[model]}, {len(own)} models** ({dataset}, posterior {latents})"
        cells = [mean_std(means[metric]) for metric in METRICS]
        rows.append([name, *cells, f"{means['error_per_element']['mean']:.4f}", ""])
    wanted = [
        f"python -m benchmarks.segmentation --checkpoint {dataset} --dataset {dataset}"
        for dataset in DATASETS
        if dataset not in {line["dataset"] for line in measured}
    ]
    head = ["who", "ARI-FG", "ARI", "SC", "mSC", "error / element", "from"]
    return section("Segmentation", head, rows, commands(measured, wanted))


def probe_section(lines: Sequence[Line]) -> str:
    """Returns Table 1: what probes read off latents of towers, generated or genuine."""
    text = []
    for genuine, title in ((False, "Probes"), (True, "Probes on genuine frames")):
        own = [line for line in lines if line["genuine"] == genuine]
        found: dict[tuple[str, ...], Line] = {}
        for line in own:
            for row in line["rows"]:
                key = row["model"], row.get("checkpoint", ""), row.get("latents", "")
                found[key] = row
        rows = list(found.values())
        head, *cells = table([*rows, *across_checkpoints(rows)], TASKS)
        used = newest(own, "command")
        legend = [f"{line['source']}: {origin(line)}" for line in used]
        about = _GENUINE if genuine else LEGEND
        below = [about, "", *(f"* {entry}" for entry in legend), *([""] if legend else [])]
        command = "python -m benchmarks.probe_shapestacks --checkpoint shapestacks"
        command += " --genuine shapestacks_real_2000_64px.npz" * genuine
        below += commands(used, [] if used else [command])
        text.append(section(title, head, cells, below))
    return "\n".join(text)


def fid_section(lines: Sequence[Line]) -> str:
    """Returns Table 2: the FID, and in a column of its own the distance in factor features."""
    rows, used, wanted = [], [], []
    measured = newest(lines, "metric", "checkpoint", "dataset", "sampler")
    for dataset, published in fid.PAPER.items():
        for model, anchor in published.items():
            own = [
                line for line in measured if (line["dataset"], line["model"]) == (dataset, model)
            ]
            if not own:
                rows.append([f"{NAMES[model]}, {dataset}", f"{anchor}", "", "", ""])
                wanted.append(
                    f"python -m benchmarks.fid --checkpoint {dataset} --dataset {dataset}"
                )
            for line in own:
                used.append(line)
                distance = mean_std(line["distance"], 2)
                if len(line["seed"]) == 1:  # nothing spreads
                    distance = f"{line['distance']['mean']:.2f}"
                cells = [distance, ""] if line["metric"] == FID else ["", distance]
                name = f"{NAMES[model]}, {dataset}: `{line['checkpoint']}`, {line['images']} images"
                rows.append([name, f"{anchor}", *cells, origin(line)])
    for line in {line["dataset"]: line for line in used}.values():  # true images are the same
        rows += [
            [f"*{name}*, {line['dataset']}", "", "", f"{value:.2f}", ""]
            for name, value in line["controls"].items()
        ]
    head = ["samples of", "FID, the paper", "FID", "Frechet distance (factor features)", "from"]
    below = [
        "The last two columns of numbers have nothing to do with each other: the FID needs the "
        "Inception weights, the other distance is taken in features of a network trained on the "
        "dataset's own factors.",
        "",
        *commands(used, wanted),
    ]
    return section("Sample quality", head, rows, below)


def recipe_section(lines: Sequence[Line]) -> str:
    """Returns the study of recipes: each run at an equal budget, and what it changed."""
    measured = newest(lines, "run", "dataset", "by", "budget")
    rows = [
        [
            f"{line['run']} ({line['dataset']})",
            ", ".join(f"{key} {value}" for key, value in line["differs"].items()) or "baseline",
            f"{line['budget']:,.6g} {line['by']}",
            f"{line['steps']:,}",
            *(number(line[name], 3) for name in ("ari_fg", "msc", "sc")),
            number(line["error"], 4),
            number(line["kl"], 0),
            origin(line),
        ]
        for line in measured
    ]
    head = ["run", "differs in", "budget", "steps", "ARI-FG", "mSC", "SC", "error", "KL", "from"]
    wanted = [
        "python -m pretrain.many --gpus 4 --out runs/recipes multi_dsprites_recipes",
        "python -m benchmarks.recipes runs/recipes --picture benchmarks/results/recipes.png",
    ]
    below = []
    for command in dict.fromkeys(line["command"] for line in measured):
        own = [line for line in measured if line["command"] == command]
        if noise := noise_table(own):
            below += [noise, ""]
    below += commands(measured, [] if measured else wanted)
    return section("Recipes", head, rows, below)


def _alike(lines: Sequence[Line]) -> dict[tuple[str, str, str], list[Line]]:
    """Checkpoints of one model on one dataset, where there are several."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line.get("model"):
            groups.setdefault((line["model"], line["dataset"], line["latents"]), []).append(line)
    return {key: own for key, own in groups.items() if len(own) > 1}

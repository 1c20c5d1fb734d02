"""Makes the data that nobody gave: a look-alike of a dataset, once, in the cache folder."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from envs.base import usable_device
from pretrain.data import parse_name
from pretrain.data.cache import cache_root
from pretrain.data.generate import Recipe, default_workers, generate
from pretrain.data.make_gqn import GqnRecipe
from pretrain.data.make_shapestacks import SPLIT_COUNTS, ShapeStacksRecipe
from pretrain.data.manifest import MARKER, read_marker
from pretrain.data.shapestacks import VIEWS

_FULL = {"gqn": 200_000, "shapestacks": 100_000}  # training images where nobody says how many
_CPU = {"gqn": 2_000, "shapestacks": 4_000}  # and at most without a GPU, so that it takes minutes
_COUNTED = {"gqn": "scenes", "shapestacks": "of them"}
_VALIDATION_SHARE = 60  # of GQN's training files; see `gqn_files.split_files`
_CONTRADICTIONS = 0.01  # of towers that a simulation may leave out of the lists; 0.5 % are usual


def provide(
    dataset: str,
    *,
    train: int | None,
    validation: int,
    device: torch.device | str = "auto",
    seed: int = 0,
) -> Path:
    """The folder of a look-alike, which is generated if it is not there yet.

    Without a GPU sets are small, unless a larger one lies there already. Whoever wants another size
    than this chooses makes it by `python -m pretrain.data generate`, and gives its folder.

    Args:
        dataset: gqn or shapestacks.
        train: Images for training (scenes of gqn); by default what suits the device.
        validation: Images for validation at least.
        device: Where to render.
        seed: Another one is another dataset.
    """
    name, _ = parse_name(dataset)
    device = usable_device(device)
    wanted = train or _FULL[name]
    root = _folder(name, wanted, validation, seed)
    if device.type == "cpu" and wanted > _CPU[name] and not _is_complete(root):
        wanted = _CPU[name]
        root = _folder(name, wanted, validation, seed)
    if _is_complete(root):
        return root
    recipe = recipe_for(name, wanted, validation, seed)

    def announce() -> None:
        less = f" (of {train:,} that were asked for: no GPU)" if train and wanted < train else ""
        print(
            f"{name}: no --data-dir was given, so a look-alike of {recipe.images:,} images with "
            f"{wanted:,} {_COUNTED[name]} for training{less} is generated once, into {root}; it "
            f"takes about {_duration(estimate(name, recipe, device))}",
            file=sys.stderr,
        )

    progress = sys.stderr.isatty()
    return generate(recipe, root, device=device, progress=progress, announce=announce)


def recipe_for(name: str, train: int, validation: int, seed: int = 0, **options: Any) -> Recipe:
    """The recipe of a set with at least so many images for training and validation.

    Args:
        name: gqn or shapestacks.
        train: Images for training; scenes of gqn.
        validation: Images for validation.
        seed: Another one is another dataset.
        options: What else the recipe takes.
    """
    if name == "shapestacks":
        shares = {
            split: count / sum(SPLIT_COUNTS.values()) for split, count in SPLIT_COUNTS.items()
        }
        needed = max(-(-train // VIEWS) / shares["train"], -(-validation // VIEWS) / shares["eval"])
        # One more for rounding: shares of a few scenarios are not whole numbers.
        scenarios = int(needed * (1 + _CONTRADICTIONS)) + 1
        return ShapeStacksRecipe(VIEWS * scenarios, seed=seed, **options)
    each = min(max(validation, min(train // 64, 500)), 5000)  # scenes in a file
    files = -(-train // each) + 1
    while (files - max(1, files // _VALIDATION_SHARE)) * each < train:
        files += 1
    tests = max(validation, min(train // 10, 10_000))
    return GqnRecipe(files * each, tests, seed=seed, scenes_per_file=each, **options)


def estimate(name: str, recipe: Recipe, device: torch.device) -> float:
    """Seconds that a recipe will take, judged by a first small part that is thrown away."""
    trial = recipe_for(name, 1, 1)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the first one loads textures and warms up
            began = time.perf_counter()
            trial.write(0, Path(folder), device)
            times.append(time.perf_counter() - began)
    each = times[1] / (trial.images / trial.units())
    return times[0] + each * recipe.images / default_workers(device)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _folder(name: str, train: int, validation: int, seed: int) -> Path:
    return cache_root() / "lookalike" / f"{name}-{train}-{validation}-s{seed}"


def _is_complete(root: Path) -> bool:
    return (root / MARKER).is_file() and bool(read_marker(root / MARKER)["complete"])

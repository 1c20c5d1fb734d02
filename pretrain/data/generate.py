"""Runs a recipe for a dataset in parallel, so that it can be killed at any time and goes on.

A recipe divides a dataset into units of work that do not depend on each other. Worker processes do
them, the journal notes each unit that is done, and the marker is completed when all are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from envs.base import usable_device
from pretrain.data.manifest import Journal, Written
from pretrain.data.pixels import in_threads
from pretrain.data.workers import do_units
from pretrain.machine import available_cores, only_process, require_space

__all__ = ["Recipe", "Written", "generate", "put_file"]


class Recipe(Protocol):
    """How a dataset is made: independent units of work, each a pure function of its number.

    Recipes travel to worker processes, so they need to be picklable: a frozen dataclass of plain
    values is best. What is expensive to make (textures, a renderer) belongs behind a cache that is
    filled at the first `write` of a process.
    """

    @property
    def name(self) -> str:
        """The dataset that this looks like, a key of `DATASETS`."""

    @property
    def images(self) -> int:
        """Images in all, for the progress bar and the time estimate."""

    @property
    def bytes_per_image(self) -> int:
        """A guess on the high side; the disk needs that much before anything starts."""

    def settings(self) -> dict[str, Any]:
        """Everything the bytes depend on (seed, counts, sizes, the textures' source, a version).

        Goes into the marker as JSON, and has to be the same when an interrupted run goes on.
        `textures` is their source in words; logs and model cards repeat it.
        """

    def units(self) -> int:
        """Number of independent units: a TFRecord file, a run of some scenarios."""

    def write(self, unit: int, root: Path, device: torch.device) -> dict[str, Written]:
        """Writes a unit's files below the root, and returns them by their relative POSIX path.

        The bytes depend on the settings and the unit alone. A unit that was interrupted is written
        again, so files need to appear under their names when they are complete (`put_file`,
        `write_records`).
        """

    def finish(self, root: Path, files: Mapping[str, Written]) -> dict[str, Written]:
        """Writes what takes all units to know, such as split lists; may be a no-op.

        Args:
            root: Where everything lies.
            files: What all units wrote, by relative path, in the order of the units.
        """


def put_file(path: Path, data: bytes, records: int | None = None, note: Any = None) -> Written:
    """Writes a small file, which appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Written(hashlib.sha256(data).hexdigest(), len(data), records, note)


def generate(
    recipe: Recipe,
    root: Path,
    *,
    device: torch.device | str = "auto",
    workers: int | None = None,
    progress: bool = True,
    announce: Callable[[], None] | None = None,
) -> Path:
    """Sees to it that a folder holds all that a recipe makes, and returns the folder.

    What was interrupted goes on at the first unit that is not done, and a unit whose files have
    gone is made again. One process works at a folder; others wait for it.

    Args:
        recipe: What to make.
        root: Where; made if it does not exist. Its marker `genesis_rl.json` says what it holds.
        device: Where to render; auto takes CUDA where there is one.
        workers: Processes. By default one per core on the CPU, and a single one on CUDA.
        progress: Whether to show a bar.
        announce: Called before anything is made, by the one process that makes it.

    Raises:
        ValueError: The folder holds something else; OSError: the disk is, or would be, full.
    """
    root, device = root.expanduser(), usable_device(device)
    identity = {"dataset": recipe.name, "images": recipe.images, "settings": recipe.settings()}
    journal = Journal(root, identity)
    if journal.is_complete():
        return root  # may be on a disk that cannot be written to
    root.mkdir(parents=True, exist_ok=True)
    with only_process(root):
        journal = Journal(root, identity)
        if not journal.is_complete():  # another process may have made it meanwhile
            if announce is not None:
                announce()
            _make(recipe, journal, device, workers or default_workers(device), progress)
    return root


def default_workers(device: torch.device) -> int:
    """Processes to render with: as many as there are cores, or one that keeps a GPU busy."""
    return 1 if device.type == "cuda" else available_cores()


def _make(
    recipe: Recipe, journal: Journal, device: torch.device, workers: int, progress: bool
) -> None:
    root, units = journal.root, recipe.units()
    for left in root.rglob(".*.tmp"):  # of a process that was killed
        left.unlink()
    journal.open()
    kept = [unit for unit in journal.units if unit < units]
    damaged = in_threads(journal.damaged, kept)
    journal.drop({unit for unit, bad in zip(kept, damaged, strict=True) if bad} | {units})
    pending = [unit for unit in range(units) if unit not in journal.units]
    needed = recipe.bytes_per_image * recipe.images * len(pending) // units
    require_space(root, needed, "generate fewer images, or into a folder on another disk")
    bar = tqdm(
        total=recipe.images,
        desc=f"generating {recipe.name}",
        unit=" images",
        disable=not progress,
        initial=recipe.images * len(journal.units) // units,
    )
    try:
        done = do_units(partial(recipe.write, root=root, device=device), pending, workers)
        with bar, contextlib.closing(done):
            for unit, files in done:
                journal.add(unit, files)
                bar.update(recipe.images * len(journal.units) // units - bar.n)
        journal.add(units, recipe.finish(root, journal.files()))
        journal.complete()
    except BaseException:
        if journal.units:
            print(
                f"{root}: {len(journal.units)} of {units} parts are made and kept; the same "
                "command goes on from there",
                file=sys.stderr,
            )
        raise

"""Runs a recipe for a dataset in parallel, so that it can be killed at any time and goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch


class Written(NamedTuple):
    """What a recipe wrote to a file.

    Attributes:
        sha256: Of the whole file, in hexadecimal.
        bytes: Its size.
        records: Records that a TFRecord file holds; None for other files.
        note: What `Recipe.finish` wants to know of it, such as sums of pixels; anything that JSON
            can hold. Kept until then, and not in the marker.
    """

    sha256: str
    bytes: int
    records: int | None = None
    note: Any = None


class Recipe(Protocol):
    """How a dataset is made: independent units of work, each a pure function of its number.

    Recipes travel to worker processes, so they need to be picklable: a frozen dataclass of plain
    values is best. What is expensive to make (textures, a renderer) belongs behind a cache that is
    filled at the first `write` of a process.

    Attributes:
        name: The dataset that this looks like, a key of `DATASETS`.
        images: Images in all, for the progress bar and the time estimate.
        bytes_per_image: A guess on the high side; the disk needs that much before anything starts.
    """

    name: str
    images: int
    bytes_per_image: int

    def settings(self) -> dict[str, Any]:
        """Everything the bytes depend on (seed, counts, sizes, the textures' source, a version).

        Goes into the marker as JSON, and has to be the same when an interrupted run goes on.
        """

    def units(self) -> int:
        """Number of independent units: a TFRecord file, a run of some scenarios."""

    def write(self, unit: int, root: Path, device: torch.device) -> dict[str, Written]:
        """Writes a unit's files below the root, and returns them by their relative POSIX path.

        The bytes depend on the settings and the unit alone. A unit that was interrupted is written
        again, so files need to appear under their names when they are complete (`put_file`,
        `write_records`), but need no fsync: `generate` sees to that.
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
) -> Path:
    """Sees to it that a folder holds all that a recipe makes, and returns the folder.

    Args:
        recipe: What to make.
        root: Where; made if it does not exist. Its marker `genesis_rl.json` says what it holds.
        device: Where to render; auto takes CUDA where there is one.
        workers: Processes. By default one per core on the CPU, and a single one on CUDA.
        progress: Whether to show a bar.
    """
    raise NotImplementedError

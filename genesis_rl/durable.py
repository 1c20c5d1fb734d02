"""Files and folders that are written whole or not at all, and JSON that is read with suspicion."""

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Puts a file in place of an older one; a reader sees the one or the other, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_folder(fresh: Path, folder: Path, *, files: Collection[str]) -> None:
    """Moves `fresh` to `folder`, carrying over whatever was there beside the named files."""
    old = fresh.with_suffix(".old")
    if folder.exists():
        for entry in folder.iterdir():
            if entry.name not in files:
                copy = shutil.copytree if entry.is_dir() else shutil.copy2
                copy(entry, fresh / entry.name)
        folder.rename(old)
    try:
        sync_folder(fresh)
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Any) -> bytes:
    """Serialises a value for people and machines: indented, sorted, no NaN."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """Parses a JSON object; `path` is what the error message names.

    Raises:
        ValueError: The bytes are no JSON object.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); it is damaged, copy it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds {type(value).__name__}")
    return value

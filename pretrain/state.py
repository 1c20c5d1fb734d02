"""What a run leaves on disk so that it can go on: the locked folder and its saved states.

A state is `checkpoints/step_XXXXXXXX.pt`, tensors and plain values only, beside a manifest with its
hash that is written last: a file without a sound manifest does not count.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import genesis_rl
from genesis_rl.durable import parse_json, replace_file, to_json

# The disk, the quota or the largest allowed file is full.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Stop(BaseException):
    """Ends the program with one line and an exit status.

    No `Exception`, so that code that carries on after failures does not carry on after this.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def open_folder(folder: Path) -> io.TextIOWrapper:
    """Makes a run folder, takes its lock and clears what a killed run left half-written.

    Returns:
        The lock; the folder is free again once it is closed or the process ends.

    Raises:
        Stop: The folder cannot be written (status 2) or another process has it (status 5).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        lock = (folder / ".lock").open("a+")
    except OSError as error:
        raise Stop(2, f"cannot write to the run folder {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise Stop(
            5, f"{folder} is in use by {owner}; wait for it or choose another --out"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    for pattern in (".*.tmp", ".*.old", "*/.*.tmp"):
        for left in folder.glob(pattern):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return lock


def discard_folder(folder: Path) -> None:
    """Removes a run folder in which nothing has happened; anything else in it keeps it there."""
    if not has_run(folder):
        with contextlib.suppress(OSError):
            (folder / ".lock").unlink()
            (folder / "checkpoints").rmdir()
            folder.rmdir()


def save_state(folder: Path, state: dict[str, Any], *, step: int, config: str, keep: int) -> Path:
    """Writes a state and its manifest, then removes all but the newest `keep`.

    Args:
        folder: The run folder.
        state: Tensors, numbers, text and plain containers.
        step: Updates made so far.
        config: Fingerprint of the settings that may not change.
        keep: How many states stay.

    Raises:
        Stop: The disk is full, even after the older states but one were removed.
    """
    data = pack(state)
    path = folder / "checkpoints" / f"step_{step:08d}.pt"
    manifest = {
        "step": step,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "config": config,
        "versions": versions(),
    }
    manifest["seal"] = _seal(manifest)
    try:
        _write(path, data, manifest)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        prune_states(folder, keep=1)
        try:
            _write(path, data, manifest)
        except OSError as again:
            left = [p.stem for p in _states(folder)]
            free = shutil.disk_usage(folder).free
            raise Stop(
                1,
                f"the disk is full: a state needs {len(data):,} bytes, {free:,} are free in "
                f"{folder} ({again.strerror}); {left[0] if left else 'no state'} is intact, "
                "so make room and --resume",
            ) from again
    prune_states(folder, keep=keep)
    return path


def load_state(
    folder: Path, *, config: str, say: Callable[[str], None]
) -> tuple[int, dict[str, Any]] | None:
    """Returns step and content of the newest sound state; says why newer ones were passed over.

    Raises:
        Stop: The newest sound state belongs to other settings.
    """
    for path in _states(folder):
        try:
            manifest, data = _verified(path)
            state = unpack(data)
        except Exception as error:  # a damaged or forged file may raise anything
            say(f"passing over {path.name}: {' '.join(str(error).split())[:300]}")
            continue
        if manifest["config"] != config:
            raise Stop(2, f"{path} was saved with other settings than {folder / 'config.yaml'}")
        then, now = manifest.get("versions"), versions()
        if then != now:
            say(f"{path.name} was saved with {then}, this is {now}: going on, but not bit for bit")
        return manifest["step"], state
    return None


def pack(state: dict[str, Any]) -> bytes:
    """A state as the content of a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """The state that was packed; tensors and plain values only, so that data stays data."""
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def prune_states(folder: Path, *, keep: int) -> None:
    """Removes all but the newest `keep` states."""
    for path in _states(folder)[keep:]:
        path.with_suffix(".json").unlink(missing_ok=True)  # first: a state without it is void
        path.unlink()


def has_run(folder: Path) -> bool:
    """Whether the folder holds a run that has got anywhere."""
    metrics = folder / "metrics.jsonl"
    return bool(_states(folder)) or (metrics.is_file() and metrics.stat().st_size > 0)


def versions() -> dict[str, str]:
    """What a bitwise repetition depends on."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "genesis_rl": genesis_rl.__version__,
        "threads": str(torch.get_num_threads()),
    }
    if dist.is_available() and dist.is_initialized():
        found["processes"] = str(dist.get_world_size())
    return found


def _states(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step_*.pt"), reverse=True)


def _write(path: Path, data: bytes, manifest: dict[str, Any]) -> None:
    replace_file(path, data)
    replace_file(path.with_suffix(".json"), to_json(manifest))


def _verified(path: Path) -> tuple[dict[str, Any], bytes]:
    manifest_path = path.with_suffix(".json")
    manifest = parse_json(manifest_path.read_bytes(), manifest_path)
    data = path.read_bytes()
    if len(data) != manifest.get("bytes"):
        raise ValueError(f"{len(data)} bytes, but its manifest says {manifest.get('bytes')}")
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise ValueError("its SHA-256 is not the manifest's")
    if path.stem != f"step_{manifest.get('step'):08d}" or not isinstance(manifest["config"], str):
        raise ValueError("its manifest is that of another state")
    # Without it a flipped bit could make a sound state look as if it were of other settings.
    if manifest.pop("seal", None) != _seal(manifest):
        raise ValueError("its manifest is damaged")
    return manifest, data


def _seal(manifest: dict[str, Any]) -> str:
    """The SHA-256 of what a manifest says."""
    return hashlib.sha256(to_json(manifest)).hexdigest()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, each with the step it belongs to."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line, which is in the file when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def cut_after(self, step: int) -> int:
        """Drops lines of later steps and a torn last line; returns the latest step that was there.

        What is dropped is about to be computed again, so nothing in the file contradicts itself.
        """
        kept, latest = [], 0
        lines = self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                at = int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):
                continue
            latest = max(latest, at)
            if at <= step:
                kept.append(line + "\n")
        replace_file(self.path, "".join(kept).encode())
        return latest

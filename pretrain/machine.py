"""What processes on one machine share: its cores, its disk, who writes to a folder, their end."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may use, which a container or a job may limit."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Makes other processes that write to the folder wait until this one is done, or gone."""
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that fills {folder}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stop_with_parent() -> None:
    """Makes the kernel send SIGTERM, upon which a run saves, when the process's parent is gone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, on Linux


def require_space(folder: Path, needed: int, advice: str) -> None:
    """Raises an OSError unless so many bytes are free where the folder is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs {needed / 1e9:.1f} GB more, but only {free / 1e9:.1f} GB are free; "
            f"{advice}",
        )

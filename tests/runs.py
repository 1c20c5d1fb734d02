"""Tiny training runs for tests: in this process, or as a process that can be killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.reliability_runs import (
    TINY,
    arguments,
    exact,
    metrics,
    states,
    weights_sha256,
)

__all__ = ["ROOT", "TINY", "arguments", "exact", "metrics", "states", "weights_sha256"]


def start(flags: list[str], **options: object) -> subprocess.Popen:
    """Starts `pretrain/run.py` as its own process, on one thread."""
    return subprocess.Popen(
        [sys.executable, "pretrain/run.py", *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Waits for a process; returns its exit status and everything it printed."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Returns once the run has logged that step."""
    for _ in range(1200):
        assert process.poll() is None, process.stdout.read()
        lines = metrics(folder)
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was never logged in {folder}")

"""Where a number or a model comes from: commit and hardware, for runs and benchmarks alike."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_rl.durable import replace_file, to_json

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent


def device_name(device: torch.device) -> str:
    """Names the hardware: the GPU, or the CPU and the number of threads in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def note_environment(folder: Path, device: torch.device, **facts: Any) -> None:
    """Writes `env.json`: where, when and by which command a run was started, and further facts."""
    noted = {
        "device": device_name(device),
        "platform": platform.platform(),
        "commit": commit(),
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    replace_file(folder / "env.json", to_json(noted | facts))


@cache
def commit() -> str:
    """Returns the short hash of the checkout, with `-dirty` if tracked code differs from it.

    Whoever works for long asks at the beginning: the answer stays that of the code that runs.
    Outside a git checkout it is the variable GENESIS_RL_COMMIT, or "unknown".
    """
    try:
        sha = _git("rev-parse", "--short=10", "HEAD")
        # The results themselves do not change what is measured.
        changed = _git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results", ":!*.md")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("GENESIS_RL_COMMIT", "unknown")
    return f"{sha}-dirty" if changed else sha


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""Where Triton's kernels run in tests: on a GPU, or in its interpreter on the CPU."""

import os
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # must be set before Triton is imported
starts_the_interpreter = pytest.mark.skipif(INTERPRETED, reason="is what starts the interpreter")


def triton_device() -> torch.device:
    """Where kernels run here; skips the test if they do not."""
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device or TRITON_INTERPRET=1")
    pytest.importorskip("triton")
    return torch.device("cpu" if INTERPRETED else "cuda")


def run_in_interpreter(*tests: str) -> None:
    """Runs tests, by file or name, in a process where the interpreter runs kernels: all pass."""
    pytest.importorskip("triton")
    run = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "failed" not in result.stdout

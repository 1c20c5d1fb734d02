"""Tiny training runs for tests: in this process, or as a process that can be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = {
    "train-images": 24,
    "validation-images": 8,
    "num-slots": 3,
    "image-size": 32,
    "mask-latents": 8,
    "component-latents": 4,
    "width": 4,
    "batch-size": 4,
    "learning-rate": 1e-3,
    "steps": 12,
    "log-every": 1,
    "validate-every": 0,
    "picture-every": 0,
    "checkpoint-every": 5,
    "device": "cpu",
}


def arguments(out: Path, *extra: str, **options: object) -> list[str]:
    """Flags of a tiny run; keywords override its settings."""
    values = TINY | {name.replace("_", "-"): value for name, value in options.items()}
    return [*(f"--{name}={value}" for name, value in values.items()), f"--out={out}", *extra]


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


def metrics(folder: Path, split: str | None = None) -> list[dict]:
    """The lines of `metrics.jsonl`, a torn last one left out."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if split in (None, line["split"])]


def exact(folder: Path) -> list[tuple]:
    """What must not differ by one bit: step, loss, error, KL and beta in hexadecimal."""
    names = ("step", "loss_hex", "error_hex", "kl_hex", "beta_hex")
    return [tuple(line[name] for name in names) for line in metrics(folder, "train")]


def weights_sha256(checkpoint: Path) -> str:
    """The weights alone: the configuration beside them notes how long training took."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    return manifest["files"]["model.safetensors"]["sha256"]

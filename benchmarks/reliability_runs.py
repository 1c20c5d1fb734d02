"""Tiny training runs that can be killed: as processes of their own, and under torchrun."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT

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

_SLOW_TO_IMPORT = ["pretrain.trainer", "torch._dynamo", "torch.utils.tensorboard", "cv2"]


class Outcome(NamedTuple):
    """What a row of the scoreboard has found.

    Attributes:
        tried: How often something was done to the project.
        held: After how many of them the promise held.
        worst: The worst of them, in words and units; empty if nothing was measured.
        void: Why the row shows nothing; empty if it does.
        facts: Further counts.
    """

    tried: int
    held: int
    worst: str = ""
    void: str = ""
    facts: dict[str, Any] = {}


Tick = Callable[[], object]


def arguments(out: Path, *extra: str, **options: object) -> list[str]:
    """Flags of a tiny run; keywords override its settings."""
    values = TINY | {name.replace("_", "-"): value for name, value in options.items()}
    return [*(f"--{name}={value}" for name, value in values.items()), f"--out={out}", *extra]


def clean_server() -> Any:
    """Makes processes that are forked from one which has imported torch and done nothing.

    They start seconds faster than from nothing, and are just as dead after SIGKILL.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What the killed have left of semaphores is cleared up at the end, which need not be said.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SLOW_TO_IMPORT)
    return context


def start(flags: list[str], log: Path) -> Any:
    """Starts `pretrain.run` as a process, and group, of its own."""
    process = clean_server().Process(target=_train, args=(flags, str(log)))
    process.start()
    return process


def _train(flags: list[str], log: str) -> None:
    os.setsid()
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pretrain.run import main

    sys.exit(main(flags))


def survivors(process: Any) -> int:
    """Whether anybody of a run's process group lives on, as 0 or 1; waits a moment for it."""
    for _ in range(40):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return 0
        time.sleep(0.05)
    return 1


def torchrun(flags: list[str], *options: str) -> subprocess.Popen[str]:
    """Starts `pretrain/run.py` under torchrun, on two processes unless options say otherwise."""
    options = options or ("--standalone", "--nproc-per-node=2")
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "pretrain/run.py", *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of the ranks that a torchrun has started, by rank."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        ranks = [v.split(b"=")[1] for v in variables if v.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0])] = int(pid)
    return found


def wait_until(true: Callable[[], object], alive: Callable[[], bool], what: str) -> None:
    """Returns once something is true; two minutes later, or if the run has ended before, raises."""
    end = time.monotonic() + 120
    while not true():
        if not alive() or time.monotonic() > end:
            raise RuntimeError(f"{what} never came: the run {'waits' if alive() else 'has ended'}")
        time.sleep(0.005)


def wait_for_step(folder: Path, step: int, alive: Callable[[], bool]) -> None:
    """Returns once a run has logged that step."""
    wait_until(lambda: last_step(folder) >= step, alive, f"step {step}")


def metrics(folder: Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, a torn last one left out."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if split in (None, line["split"])]


def last_step(folder: Path) -> int:
    """The last step that a run has logged; 0 if there is none."""
    lines = metrics(folder)
    return int(lines[-1]["step"]) if lines else 0


def states(folder: Path) -> list[int]:
    """Steps of the states in a run folder, whole or not."""
    return sorted(int(path.stem[5:]) for path in (folder / "checkpoints").glob("step_*.pt"))


def exact(folder: Path) -> list[tuple[Any, ...]]:
    """What must not differ by one bit: step, loss, error, KL and beta in hexadecimal."""
    names = ("step", "loss_hex", "error_hex", "kl_hex", "beta_hex")
    return [tuple(line[name] for name in names) for line in metrics(folder, "train")]


def weights_sha256(checkpoint: Path) -> str:
    """The weights alone: the configuration beside them notes how long training took."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    return str(manifest["files"]["model.safetensors"]["sha256"])


def same_run(first: Path, second: Path) -> bool:
    """Whether two runs have logged and learnt the same, to the last bit."""
    weights = [weights_sha256(folder / "model") for folder in (first, second)]
    return exact(first) == exact(second) and weights[0] == weights[1]

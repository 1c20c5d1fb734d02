"""Rows of the RL benchmark, several at a time: a process each, shared out over the GPUs.

One agent keeps neither a GPU nor a CPU busy: it plays, encodes and learns in turns. Sixteen of them
do.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from pretrain.machine import available_cores, stop_with_parent

_ROOT = Path(__file__).resolve().parent.parent


def train_in_processes(
    rows: Sequence[tuple[Any, Path]], argv: Sequence[str], *, jobs: int, devices: Sequence[str]
) -> list[Path]:
    """Trains rows by commands of their own; what each says is in a file beside its row's folder.

    Args:
        rows: Settings (`RowConfig`) and folder of each.
        argv: The arguments that rows have in common; those of a row go behind and win.
        jobs: How many are trained at a time.
        devices: Shared out in turns, such as "cuda:0" and "cuda:1".

    Returns:
        The folders of rows whose command failed.
    """
    from tqdm import tqdm

    jobs = max(1, min(jobs, len(rows)))
    free: queue.Queue[str] = queue.Queue()
    for job in range(jobs):
        free.put(devices[job % len(devices)])
    threads = max(1, available_cores() // jobs)
    failed = []

    def train(config: Any, folder: Path) -> int:
        device = free.get()
        try:
            return _run(command(config, folder, argv, device, threads), _log(folder))
        finally:
            free.put(device)

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(rows), unit="row", disable=None) as bar:
        started = {pool.submit(train, config, folder): folder for config, folder in rows}
        for future in as_completed(started):
            folder, status = started[future], future.result()
            if status:
                failed.append(folder)
            bar.write(f"{folder}: {f'failed, see {_log(folder)}' if status else 'done'}")
            bar.update()
    return failed


def command(config: Any, folder: Path, argv: Sequence[str], device: str, threads: int) -> list[str]:
    """Returns the command that trains one row, and that anybody can repeat it by."""
    row = {
        "--env-id": config.env_id,
        "--representations": config.representation,
        "--heads": config.head,
        "--seeds": config.seed,
        "--jobs": 1,
        "--device": device,
        "--threads": threads,
        "--picture": folder / "curve.png",
    }
    flags = [str(word) for pair in row.items() for word in pair]
    return [sys.executable, "-m", "benchmarks.rl", *argv, *flags, "--resume"]


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")  # not within: a row clears its folder first


def _run(words: Sequence[str], log: Path) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=stop_with_parent,
        )
        return process.wait()

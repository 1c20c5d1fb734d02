"""Trains many models on the GPUs of one machine, one process each, and goes on where it stopped.

    python -m pretrain.many --gpus 4 --minutes 9 --out runs/gqn_geco gqn_geco
    python -m pretrain.many --gpus 0 --jobs 2 --out runs/small a=debug b=debug,learning_rate=3e-4

Each SPEC is a study (a name in pretrain/configs/studies, or a YAML file; see pretrain/study.py) or
NAME=PRESET,KEY=VALUE,... The same command again continues every run from its newest state, those
with the least training first, until all have made their steps. Each run has a folder of its own,
and a compiler's cache of its own in cache/, so that a later call compiles nothing again.

Standard output is one JSON object a run. Exit status: 0 if no run failed, 1 if one did, 2 for a
mistake in the arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from genesis_rl.durable import replace_file
from pretrain.bring_home import bring_home
from pretrain.command_line import Parser, output_folder, suggest, words
from pretrain.machine import available_cores, stop_with_parent
from pretrain.study import Progress, Run, progress, read_runs

_RUN = Path(__file__).resolve().parent / "run.py"
_POLL = 0.2  # seconds
_RESERVE = 30.0  # seconds that a run takes before and after those that it counts itself
_GRACE = 60.0  # seconds that a run may take to save after it was asked to stop
_DIVERGED = 4  # exit status of a run that would only diverge again


def main(arguments: list[str] | None = None) -> int:
    """Trains, and returns the exit status."""
    flags = _parse(arguments)
    try:
        runs = _only(flags.only, read_runs(flags.specs))
        slots = _slots(flags.gpus, flags.jobs)
        _require_gpus(flags.gpus)
        flags.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {words(error)}", file=sys.stderr)
        return 2
    launcher = Launcher(runs, flags.out, slots, minutes=flags.minutes, threads=flags.threads)
    launcher.run(every=flags.every)
    if flags.export is not None:
        bring_home([flags.out / run.name for run in runs], flags.export, jobs=len(slots))
    lines = [launcher.summary(run) for run in runs]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    replace_file(flags.out / "summary.jsonl", text.encode())
    print(text, end="", flush=True)
    failed = [str(line["run"]) for line in lines if line["state"] == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}; see {flags.out / 'logs'}", file=sys.stderr)
    return int(bool(failed))


@dataclass
class Process:
    """A run at work.

    Attributes:
        slot: The GPU it has, or "cpu 0" and so on.
        killed_at: When it is killed if it has not stopped by then; None before it was asked to.
    """

    run: Run
    slot: str
    popen: subprocess.Popen[bytes]
    log: IO[bytes]
    killed_at: float | None = None


class Launcher:
    """Gives runs to slots, the least advanced first, until all are done or the time is over.

    Args:
        runs: What to train.
        out: The folder of their folders.
        slots: Names of GPUs, or of shares of the CPU, that take one run at a time.
        minutes: When to stop all of them; 0 for never.
        threads: CPU threads of a run; None shares out the CPU.
    """

    def __init__(
        self, runs: list[Run], out: Path, slots: list[str], *, minutes: float, threads: int | None
    ):
        self.runs, self.out, self.slots = runs, out, slots
        self.threads = threads or max(1, available_cores() // len(slots))
        self.deadline = time.monotonic() + 60 * minutes if minutes else None
        self.worth_starting = min(60.0, 60 * minutes / 4)  # seconds left for a run to begin at all
        self.status: dict[str, int] = _diverged_before(out / "summary.jsonl")
        self.active: list[Process] = []
        self.stopping = False

    def run(self, *, every: float = 30.0) -> None:
        """Trains; prints how everything stands every so many seconds, and at the end."""
        found = {run.name: progress(self.out / run.name) for run in self.runs}
        waiting = sorted(self.runs, key=lambda run: found[run.name].minutes)
        waiting = [
            run
            for run in waiting
            if found[run.name].saved_step < run.config.steps and run.name not in self.status
        ]
        told = time.monotonic()
        with _signals_to(self.stop):
            try:
                while self.active or (waiting and self._may_start()):
                    self._collect()
                    free = [s for s in self.slots if s not in {p.slot for p in self.active}]
                    while free and waiting and self._may_start():
                        self.active.append(self._start(waiting.pop(0), free.pop(0)))
                    if self.deadline and time.monotonic() > self.deadline and not self.stopping:
                        self.stop()
                    if time.monotonic() - told > every:
                        told = time.monotonic()
                        self._tell()
                    time.sleep(_POLL)
            finally:
                for process in self.active:  # only after a mistake in here
                    process.popen.kill()
        self._tell()

    def stop(self) -> None:
        """Asks every run to save and stop; asked again, they stop without saving."""
        self.stopping = True
        for process in self.active:
            if process.killed_at is None:
                process.killed_at = time.monotonic() + _GRACE
            with suppress(ProcessLookupError):
                process.popen.terminate()

    def summary(self, run: Run) -> dict[str, Any]:
        """What is worth knowing of a run, as JSON."""
        now = progress(self.out / run.name)
        measured = {
            name: now.validation.get(name) for name in ("error", "kl", "ari_fg", "sc", "msc")
        }
        return {
            "run": run.name,
            "state": self._state(run, now),
            "exit_status": self.status.get(run.name),
            "step": now.saved_step,
            "steps": run.config.steps,
            "minutes": now.minutes,
            "steps_per_second": now.train.get("steps_per_second"),
            "skipped_steps": now.train.get("skipped_steps"),
            "beta": now.train.get("beta"),
            **measured,
            "folder": str(self.out / run.name),
        }

    def _start(self, run: Run, slot: str) -> Process:
        settings = self.out / "settings" / f"{run.name}.yaml"
        log = self.out / "logs" / f"{run.name}.log"
        for path in (settings, log):
            path.parent.mkdir(exist_ok=True)
        replace_file(settings, run.config.to_yaml().encode())
        gpu = slot.removeprefix("gpu ") if slot.startswith("gpu") else ""
        device = "cuda:0" if gpu else "cpu"
        command = [sys.executable, str(_RUN), f"--config={settings}", f"--device={device}"]
        command += ["--resume", f"--out={self.out / run.name}"]
        if self.deadline:
            left = self.deadline - time.monotonic()
            command.append(f"--max-minutes={(left - min(_RESERVE, 0.2 * left)) / 60:.3f}")
        cache = (self.out / "cache" / run.name).absolute()
        environment = os.environ | {
            "CUDA_VISIBLE_DEVICES": gpu,
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TORCHINDUCTOR_CACHE_DIR": str(cache),  # shared by runs at once, it slowed one down
            "TRITON_CACHE_DIR": str(cache / "triton"),
        }
        file = log.open("ab")
        popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is passed on once, not sent by the terminal as well
            preexec_fn=stop_with_parent,
        )
        return Process(run, slot, popen, file)

    def _collect(self) -> None:
        """Notes what became of the runs that have ended, and kills those that would not."""
        for process in list(self.active):
            status = process.popen.poll()
            if status is not None:
                self.status[process.run.name] = status
                process.log.close()
                self.active.remove(process)
            elif process.killed_at is not None and time.monotonic() > process.killed_at:
                process.popen.kill()

    def _may_start(self) -> bool:
        if self.stopping or self.deadline is None:
            return not self.stopping
        return self.deadline - time.monotonic() > self.worth_starting

    def _state(self, run: Run, now: Progress) -> str:
        slots = [process.slot for process in self.active if process.run is run]
        if slots:
            return slots[0]
        if self.status.get(run.name):
            return "failed"
        if now.saved_step >= run.config.steps:
            return "done"
        return "paused" if now.step else "waiting"

    def _tell(self) -> None:
        print(time.strftime("%H:%M:%S"), file=sys.stderr)
        width = max(len(run.name) for run in self.runs)
        for run in self.runs:
            now = progress(self.out / run.name)
            line = status_line(now, steps=run.config.steps)
            state = self._state(run, now)
            print(f"  {run.name:{width}}  {state:8} {line}", file=sys.stderr, flush=True)


def status_line(now: Progress, *, steps: int) -> str:
    """Returns a line of what people look at while a run trains."""

    def number(line: dict[str, Any], name: str, form: str) -> str:
        value = line.get(name)
        return format(value, form) if isinstance(value, int | float) else "-"

    return (
        f"step {now.step:,}/{steps:,}  {number(now.train, 'steps_per_second', '.1f')} it/s  "
        f"error {number(now.train, 'error', '.5f')}  KL {number(now.train, 'kl', '.0f')}  "
        f"beta {number(now.train, 'beta', '.1e')}  "
        f"ARI-FG {number(now.validation, 'ari_fg', '.3f')}"
    )


def _only(names: str | None, runs: list[Run]) -> list[Run]:
    """Picks runs by their names, in the order in which they were named."""
    if names is None:
        return runs
    known = {run.name: run for run in runs}
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"--only: no run {name!r}{suggest(name, list(known))}")
    return [known[name] for name in names.split(",")]


def _slots(gpus: int, jobs: int) -> list[str]:
    """Names what takes one run at a time: GPUs, of those that this process may see, or CPU jobs."""
    if not gpus:
        return [f"cpu {i}" for i in range(jobs)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(gpus)] if visible is None else visible.split(",")
    if visible is not None and gpus > len([name for name in names if name]):
        raise ValueError(f"--gpus {gpus}, but CUDA_VISIBLE_DEVICES is {visible!r}")
    return [f"gpu {name}" for name in names[:gpus]]


def _require_gpus(gpus: int) -> None:
    """Better refused here than by every run in its log."""
    if not gpus:
        return
    import torch  # takes seconds, which nobody else waits for

    if torch.cuda.device_count() < gpus:
        raise ValueError(
            f"--gpus {gpus}, but torch {torch.__version__} sees {torch.cuda.device_count()}; "
            "--gpus 0 trains on the CPU"
        )


def _diverged_before(summary: Path) -> dict[str, int]:
    """Runs that an earlier call saw diverge; they would do so again."""
    try:
        lines = [json.loads(line) for line in summary.read_text().splitlines()]
        return {line["run"]: _DIVERGED for line in lines if line["exit_status"] == _DIVERGED}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextmanager
def _signals_to(stop: Any) -> Iterator[None]:
    """Turns SIGTERM and SIGINT into calls of `stop`."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m pretrain.many",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("specs", nargs="+", metavar="SPEC", help="a study, or NAME=PRESET,KEY=VALUE,...")
    add("--out", type=output_folder, required=True, help="folder of the runs' folders")
    add("--only", metavar="NAME,...", help="of all these runs, only some")
    add("--gpus", type=int, default=1, help="GPUs to use; 0 trains on the CPU (default: 1)")
    add("--jobs", type=int, default=1, help="runs at a time on the CPU (default: 1)")
    add("--minutes", type=float, default=0.0, help="save and stop everything then; 0: when done")
    add("--threads", type=int, help="CPU threads a run (default: shared out)")
    add("--every", type=float, default=30.0, help="seconds between status lines (default: 30)")
    add(
        "--export",
        type=output_folder,
        help="at the end: compact checkpoints, metrics, newest pictures",
    )
    flags = parser.parse_args(arguments)
    for name, least in (("gpus", 0), ("jobs", 1), ("minutes", 0), ("threads", 1), ("every", 0)):
        value = getattr(flags, name)
        if value is not None and not value >= least:
            parser.error(f"--{name} must be at least {least}, but got {value}")
    return flags


if __name__ == "__main__":
    sys.exit(main())

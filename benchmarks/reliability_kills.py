"""Rows of the scoreboard in which processes die: killed, asked to stop, or one rank of two."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability_runs import (
    Outcome,
    Tick,
    arguments,
    last_step,
    metrics,
    same_run,
    start,
    states,
    survivors,
    torchrun,
    wait_for_step,
    wait_until,
    workers,
)

_EVERY = 2  # steps between two states


def killed(count: int, folder: Path, tick: Tick) -> Outcome:
    """`kill -9` at a random moment, and every other time as soon as a state is being written."""
    out, log, rng = folder / "killed", folder / "log", random.Random(0)
    flags = arguments(out, "--resume", steps=1_000_000, checkpoint_every=_EVERY)
    lost = redone = most = left = mid_save = 0
    slowest = 0.0
    for kill in range(count):
        began, known, halves = time.monotonic(), last_step(out), _half_saved(out)
        process = start(flags, log)
        wait_for_step(out, max(known, _EVERY) + 1, process.is_alive)
        slowest = max(slowest, time.monotonic() - began)
        if kill % 2:
            _wait_for_a_save(out)
            time.sleep(rng.uniform(0, 0.004))
        else:
            time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        left += survivors(process)
        mid_save += not _half_saved(out) <= halves  # an older half may still lie there
        newest, logged = _sound(out), last_step(out)
        again = logged - (newest or 0)
        lost += newest is None or again > _EVERY
        redone, most = redone + again, max(most, again)
        tick()
    final = last_step(out) + 3
    for path, more in ((out, "--resume"), (folder / "whole", "--resume")):
        process = start(arguments(path, more, steps=final, checkpoint_every=_EVERY), log)
        process.join()
    equal = same_run(out, folder / "whole")
    void = _void(redone, left)
    if not void and mid_save < count // 4:
        void = f"only {mid_save} kills fell into a save"
    facts = {
        "lost_checkpoints": lost,
        "steps_made_again": redone,
        "killed_while_saving": mid_save,
        "survivors": left,
        "steps_of_the_curve": final,
        "curve_and_weights_equal_in_hex": equal,
        "seconds_until_a_new_step_at_most": round(slowest, 2),
    }
    return Outcome(count, count - lost if equal else 0, f"{most} steps again", void, facts)


def stopped(count: int, folder: Path, tick: Tick) -> Outcome:
    """SIGTERM: how long until the step in hand is saved and the process is gone?"""
    out, log, rng = folder / "stopped", folder / "log", random.Random(1)
    flags = arguments(out, "--resume", steps=1_000_000, checkpoint_every=1000)
    held, slowest, steps = 0, 0.0, 0
    for _ in range(count):
        known = last_step(out)
        process = start(flags, log)
        wait_for_step(out, known + 1, process.is_alive)
        time.sleep(rng.uniform(0, 0.2))
        asked = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)
        seconds = time.monotonic() - asked
        gone = process.exitcode == 0 and not survivors(process)
        held += gone and seconds < 10 and states(out)[-1] == last_step(out)
        slowest, steps = max(slowest, seconds), last_step(out)
        tick()
    void = "" if steps > count else "no run was under way"
    facts = {"seconds_at_most": round(slowest, 2), "steps_of_the_run": steps}
    return Outcome(count, held, f"{slowest:.2f} s", void, facts)


def ranks(count: int, folder: Path, tick: Tick) -> Outcome:
    """`kill -9` of one rank of two under torchrun: how long until both train again?"""
    out, rng = folder / "ranks", random.Random(2)
    steps = 20 * (count + 1)
    run: dict[str, Any] = {"steps": steps, "checkpoint_every": 5}
    options = ("--standalone", "--nproc-per-node=2", f"--max-restarts={count}")
    process = torchrun(arguments(out, **run), *options)
    alive, held, slowest, redone, left = (lambda: process.poll() is None), 0, 0.0, 0, 0
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)  # its ranks do not outlive it
        for kill in range(count):
            wanted = last_step(out) + rng.randrange(7, 13)
            wait_for_step(out, wanted, alive)
            before, file = workers(process), (out / "metrics.jsonl").stat().st_ino
            died = time.monotonic()
            os.kill(before[kill % 2], signal.SIGKILL)
            # A process that goes on writes a new file of metrics, cut after its newest state.
            wait_until(partial(_other_file, out, file), alive, "a restart")
            reached, resumed = last_step(out), states(out)[-1]
            wait_for_step(out, reached + 1, alive)
            seconds = time.monotonic() - died
            slowest, held = max(slowest, seconds), held + (seconds < 15)
            redone += max(0, wanted - resumed)
            left += sum(Path(f"/proc/{pid}").exists() for pid in before.values())
            tick()
        process.communicate(timeout=120)
    whole = torchrun(arguments(folder / "whole", **run))
    whole.communicate(timeout=120)
    equal = same_run(out, folder / "whole")
    facts = {
        "seconds_until_both_train_again_at_most": round(slowest, 2),
        "steps_made_again": redone,
        "survivors": left,
        "curve_and_weights_equal_in_hex": equal,
    }
    return Outcome(count, held if equal else 0, f"{slowest:.1f} s", _void(redone, left), facts)


def _void(redone: int, left: int) -> str:
    """Why a row of kills shows nothing, if so."""
    if left:
        return f"{left} processes survived"
    return "" if redone else "no step was interrupted"


def _wait_for_a_save(out: Path) -> None:
    """Returns as soon as a state is being written, or after a second."""
    end = time.monotonic() + 1
    while time.monotonic() < end and not list((out / "checkpoints").glob(".*.tmp")):
        pass


def _half_saved(out: Path) -> set[str]:
    """What a killed run has left half-written, and states without a manifest."""
    manifests = {path.stem for path in (out / "checkpoints").glob("step_*.json")}
    named = {path.stem for path in (out / "checkpoints").glob("step_*.pt")}
    return {path.name for path in out.rglob(".*.tmp")} | (named ^ manifests)


def _sound(out: Path) -> int | None:
    """The step of the newest state that can be read, as the run itself looks for it."""
    from pretrain.state import load_state

    for path in sorted((out / "checkpoints").glob("step_*.json"), reverse=True):
        config = json.loads(path.read_bytes())["config"]
        found = load_state(out, config=config, say=lambda line: None)
        return found and found[0]
    return None


def _other_file(out: Path, inode: int) -> bool:
    path = out / "metrics.jsonl"
    return path.is_file() and path.stat().st_ino != inode and bool(metrics(out))

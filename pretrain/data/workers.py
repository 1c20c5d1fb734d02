"""Worker processes for units of work: started fresh, on one thread each, gone with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import torch


class Work(Protocol):
    """What workers do; travels to them pickled."""

    def __call__(self, unit: int) -> Any:
        """Does one unit and returns what the parent is to know of it."""


class _Failure(NamedTuple):
    """An exception in words: not every exception survives being sent to another process."""

    kind: str  # "mistake", "system" or "defect"
    errno: int | None
    text: str


def do_units(work: Work, units: list[int], workers: int) -> Generator[tuple[int, Any], None, None]:
    """Does units of work, and yields each with its result as soon as it is done.

    Args:
        work: What to do with a unit. Has to be picklable if there are several workers.
        units: Which ones, in the order in which they are begun.
        workers: Processes. One means this process, with torch on one thread meanwhile, so that
            sums are taken in the same order whatever this number is.

    Raises:
        ValueError: A unit failed of a mistake of the user's.
        OSError: Of the system's, or a worker was killed.
        RuntimeError: Of anything else. In every case the other workers are stopped.
    """
    if workers == 1 or len(units) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from ((unit, work(unit)) for unit in units)
        finally:
            torch.set_num_threads(threads)
        return
    pool = _Pool(work, min(workers, len(units)))
    try:
        yield from pool.results(units)
    finally:
        pool.stop()


class _Pool:
    def __init__(self, work: Work, workers: int):
        # Forking a process that has threads, or has used CUDA, ends in a deadlock sooner or later.
        context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, BaseProcess] = {}
        # Ctrl-C goes to all processes of a terminal, but the parent decides. Children inherit what
        # is blocked; the tracker, which multiprocessing starts with the first of them, unblocks it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(work, theirs), daemon=True)
                process.start()
                theirs.close()
                self._workers[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def results(self, units: list[int]) -> Iterator[tuple[int, Any]]:
        waiting, running = list(reversed(units)), 0
        for line in self._workers:
            running += _send(line, waiting.pop())
        while running:
            for ready in wait(list(self._workers)):
                assert isinstance(ready, Connection)
                unit, result = self._receive(ready)
                running -= 1
                if waiting:
                    running += _send(ready, waiting.pop())
                yield unit, result

    def stop(self) -> None:
        for line, process in self._workers.items():
            line.close()
            process.terminate()
        for process in self._workers.values():
            process.join()

    def _receive(self, line: Connection) -> tuple[int, Any]:
        try:
            unit, result = line.recv()
        except (EOFError, ConnectionError):
            process = self._workers[line]
            process.join()
            raise ChildProcessError(
                f"a worker process ended with status {process.exitcode}"
                + (" (was memory short?)" if process.exitcode == -signal.SIGKILL else "")
            ) from None
        if not isinstance(result, _Failure):
            return unit, result
        if result.kind == "mistake":
            raise ValueError(result.text)
        if result.kind == "system":
            raise OSError(result.errno, result.text)
        raise RuntimeError(f"unit {unit} failed in a worker:\n{result.text}")


def _send(line: Connection, unit: int) -> int:
    with contextlib.suppress(ConnectionError):  # a dead worker is met when its answer is awaited
        line.send(unit)
    return 1


def _serve(work: Work, line: Connection) -> None:
    """A worker's life: units come in, results go out, until the parent hangs up or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            unit = line.recv()
            line.send((unit, _result(work, unit)))


def _result(work: Work, unit: int) -> Any:
    try:
        return work(unit)
    except OSError as error:
        if error.errno is None:
            return _Failure("mistake", None, str(error))
        name = f": {error.filename}" if error.filename else ""
        return _Failure("system", error.errno, f"{error.strerror}{name}")
    except (ValueError, TypeError, ImportError) as error:
        return _Failure("mistake", None, str(error))
    except Exception:
        return _Failure("defect", None, traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Clocks, arithmetic and memory: what a speed has to be measured with.

Everything is warmed up first and repeated; medians are reported. On CUDA, work is timed by events
on the device or by a wall clock that waits for the device, never by how fast calls are queued.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from genesis_rl.inference.cuda import precision_of

# Above this size a square product reaches the matrix peak of the device.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


class Timing(NamedTuple):
    """Seconds per call."""

    latency: float  # median of single calls, each waited for
    interval: float  # median over rounds of back-to-back calls: the reciprocal of the throughput


class AgainstPeak(NamedTuple):
    """A timing, and the FLOP/s that a matrix product reached in the same seconds."""

    timing: Timing
    peak: float  # median over rounds
    forgone: float  # FLOP that the product would have done in one call; median over rounds
    memory_mb: float  # `peak_memory_mb` of the calls, before the product took its share


def time_calls(
    call: Callable[[], Any],
    device: torch.device,
    *,
    seconds: float = 1.0,
    rounds: int = 5,
) -> Timing:
    """Times a call after warming it up.

    Args:
        call: What to time.
        device: Where it runs.
        seconds: Roughly how long to measure for.
        rounds: How many medians are taken over.
    """
    calls = _warm_up(call, device, seconds / rounds)
    intervals = [_round(call, device, calls) for _ in range(rounds)]
    return Timing(_latency(call, device, calls * rounds), statistics.median(intervals))


def time_against_peak(
    call: Callable[[], Any],
    device: torch.device,
    precision: str,
    *,
    seconds: float = 1.0,
    rounds: int = 7,
    side: int | None = None,
) -> AgainstPeak:
    """Times a call in turns with a matrix product, so that both meet the same machine.

    Args:
        call: What to time.
        device: Where it runs.
        precision: Of the product: "fp32", "tf32" or "bf16".
        seconds: Roughly how long to measure the call for.
        rounds: How many turns are taken, and how many medians are over.
        side: Rows of the product's matrices; None takes those of MATRIX_SIDE.
    """
    calls = _warm_up(call, device, seconds / rounds)
    memory = peak_memory_mb(device)
    side = side or MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    with precision_of(precision):
        products = _warm_up(product, device, 0.1)
    peaks, intervals = [], []
    for _ in range(rounds):
        with precision_of(precision):
            peaks.append(2 * side**3 / _round(product, device, products))
        intervals.append(_round(call, device, calls))
    return AgainstPeak(
        timing=Timing(_latency(call, device, calls * rounds), statistics.median(intervals)),
        peak=statistics.median(peaks),
        forgone=statistics.median(p * i for p, i in zip(peaks, intervals, strict=True)),
        memory_mb=memory,
    )


def count_flops(call: Callable[[], Any]) -> int:
    """Counts multiplications and additions of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def synchronise(device: torch.device) -> None:
    """Waits until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Forgets the peak and frees what nobody holds, so that the next one belongs to what follows.

    A CUDA graph claims its memory while it is captured, so a reset after that would not see it.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux: the peak of resident memory starts from what there is now
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak since the reset: of CUDA memory, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kB on Linux


def _warm_up(call: Callable[[], Any], device: torch.device, seconds: float) -> int:
    """Calls a few times (compiles, captures graphs), and returns how many calls take so long."""
    for _ in range(3):
        call()
    synchronise(device)
    single = min(_wall(call, device) for _ in range(2))
    return max(1, int(seconds / max(single, 1e-7)))


def _latency(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    return statistics.median(_wall(call, device) for _ in range(min(calls, 50)))


def _wall(call: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def _round(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    """Returns the seconds per call of back-to-back calls, after one that fills the caches."""
    call()
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls

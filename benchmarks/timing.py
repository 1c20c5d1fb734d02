"""Clocks, arithmetic and memory: what a speed has to be measured with.

Everything is warmed up first and repeated; medians are reported. On CUDA, work is timed by events
on the device or by a wall clock that waits for the device, never by how fast calls are queued.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

# Above this size a square product reaches the matrix peak of the device.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


class Timing(NamedTuple):
    """Seconds per call."""

    latency: float  # median of single calls, each waited for
    interval: float  # median over rounds of back-to-back calls: the reciprocal of the throughput


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
    for _ in range(3):  # compiles, captures graphs, fills caches
        call()
    synchronise(device)
    single = min(_wall(call, device) for _ in range(2))
    per_round = max(1, int(seconds / rounds / max(single, 1e-7)))
    latencies = [_wall(call, device) for _ in range(min(per_round * rounds, 50))]
    intervals = [_round(call, device, per_round) for _ in range(rounds)]
    return Timing(statistics.median(latencies), statistics.median(intervals))


def matrix_peak(device: torch.device, precision: str, *, side: int | None = None) -> float:
    """Measures the FLOP/s of a square matrix product: what the device can reach right now.

    Args:
        device: Where to multiply.
        precision: "fp32", "tf32" or "bf16".
        side: Rows of the matrices; None takes 2048 on a CPU and 8192 on a GPU.
    """
    side = side or MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        timing = time_calls(lambda: torch.mm(a, b, out=out), device, seconds=0.5)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    return 2 * side**3 / timing.interval


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
    """Forgets the peak, so that the next one belongs to what follows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak of CUDA memory since the reset, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kB on Linux


def _wall(call: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def _round(call: Callable[[], Any], device: torch.device, calls: int) -> float:
    """Returns the seconds per call of back-to-back calls."""
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

"""Which kernels take the time: of a training step, of an encoder, of any call."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

PROFILED_CALLS = 10
# What a kernel belongs to, by its name; the first that fits counts.
FAMILIES = {
    "normalisation and gate": r"^(sum_moments|combine_|normalise_and_gate|s(um|pread)_gradients)",
    "compiled": r"^triton_",
    "layout": r"nchwToNhwc|nhwcToNchw|[Tt]ranspose(?!d)|genericTranspose",
    "convolution": r"conv|cudnn|fprop|dgrad|wgrad|implicit|xmma",
    "matrix product": r"gemm|gemv|nvjet|splitK|addmm|::mm|cublas",
    "optimiser": r"multi_tensor|[Aa]dam|foreach|^norms$",
    "copy": r"[Mm]emcpy|[Mm]emset|copy|CatArray|cat",
}


class Kernel(NamedTuple):
    """What the calls of a profile spent on one kernel (on a CPU: one operator)."""

    name: str
    ms: float  # a call
    launches: float  # a call


def profile_calls(
    call: Callable[[], object], device: torch.device, calls: int = PROFILED_CALLS
) -> list[Kernel]:
    """Returns the kernels of a call, the one that takes longest first."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.timing import synchronise

    cuda = device.type == "cuda"
    call()
    synchronise(device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        for _ in range(calls):
            call()
        synchronise(device)
    kernels = []
    for event in profiled.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total  # in us
        if spent:
            kernels.append(Kernel(event.key, spent / 1e3 / calls, event.count / calls))
    return sorted(kernels, key=lambda kernel: -kernel.ms)


def family_of(name: str) -> str:
    """Returns what a kernel belongs to."""
    found = (family for family, pattern in FAMILIES.items() if re.search(pattern, name))
    return next(found, "other")


def print_profile(
    call: Callable[[], object], device: torch.device, call_ms: float, *, top: int
) -> dict[str, float]:
    """Prints where a call's time goes; returns the milliseconds of each family of kernels.

    Args:
        call: What to profile; warmed up.
        device: Where it runs.
        call_ms: How long it takes unwatched.
        top: How many kernels to name.
    """
    kernels = profile_calls(call, device)
    families: Counter[str] = Counter()
    for kernel in kernels:
        families[family_of(kernel.name)] += kernel.ms  # type: ignore[assignment]
    for line in profile_lines(kernels[:top], families, call_ms):
        print(line)
    count = sum(kernel.launches for kernel in kernels)
    print(f"  {sum(families.values()):.3f} ms in {count:.0f} kernels of {call_ms:.3f} ms a call")
    return {family: round(ms, 4) for family, ms in families.most_common()}


def profile_lines(
    kernels: Sequence[Kernel], families: Mapping[str, float], call_ms: float
) -> Iterator[str]:
    """Yields a table of families, then of kernels."""
    for family, ms in sorted(families.items(), key=lambda item: -item[1]):
        yield f"  {ms:8.3f} ms {ms / call_ms:6.1%}  {family}"
    yield ""
    for kernel in kernels:
        name = " ".join(kernel.name.split())[:100]
        yield f"  {kernel.ms:8.3f} ms {kernel.ms / call_ms:6.1%} {kernel.launches:6.1f} x  {name}"

"""What benchmarks of speed share: whose speed it is, and the row that says it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from benchmarks.timing import AgainstPeak

Row = dict[str, Any]


@contextmanager
def checkpoint_or_untrained(
    checkpoint: str | None, slots: int, image_size: int = 64
) -> Iterator[str]:
    """Yields the checkpoint, or an untrained GENESIS of full width: speed ignores the weights."""
    if checkpoint is not None:
        yield checkpoint
        return
    from genesis_rl import Genesis, GenesisConfig, save_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        model = Genesis(GenesisConfig(num_slots=slots, image_size=image_size))
        yield str(save_checkpoint(Path(folder) / "untrained", model))


def resolve_precision(precision: str, device: torch.device) -> Literal["fp32", "tf32", "bf16"]:
    """Returns what `auto` means: float32 on a CPU, bfloat16 on a GPU."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return "fp32"
    return "tf32" if precision == "tf32" else "bf16"


def speed_row(
    what: str,
    batch: int,
    dtype: str,
    device: torch.device,
    interval: float,
) -> Row:
    """Builds a row; `per_second` counts steps for training and frames for everything else."""
    from benchmarks.timing import peak_memory_mb

    return {
        "what": what,
        "device": device.type,
        "batch": batch,
        "dtype": dtype,
        "per_second": round((1 if what == "train" else batch) / interval, 2),
        "ms": round(interval * 1e3, 4),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
    }


def floor_of(clock: AgainstPeak, flops: int, batch: int) -> Row:
    """Returns what a row says about its arithmetic, for FLOP per image, and about its memory."""
    return {
        "peak_memory_mb": round(clock.memory_mb, 1),
        "latency_ms": round(clock.timing.latency * 1e3, 4),
        "gflop": round(flops / 1e9, 4),  # per image
        "matrix_tflops": round(clock.peak / 1e12, 4),
        "of_floor": round(flops * batch / clock.forgone, 4),
    }

"""Which programs run on which tiles when images are normalised and gated.

Images are `[N, H, W, channels]`. Those that are normalised may lie in squares of two by two pixels,
so many pixels across (`genesis_rl.inference.kernels.squares`); 0: they do not.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from genesis_rl.inference.kernels import cut
from pretrain.kernels import norm_gate_triton as kernels

_ELEMENTS = 2048  # in a tile
_WARPS = 4
_STAGES = 3  # tiles of a program that are under way at a time
_ROUNDS = 8  # tiles of a program that only writes: what it knows of the channels is loaded once
_PROGRAMS = 396  # of a pass that sums: three to each of an H200's 132 multiprocessors, all at once
_COLUMNS = 8  # that a program of a combining kernel handles: 32 bytes, the least that memory moves


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of every channel of `[N, H, W, 2 C]`, each `[2 C]`."""
    channels = x.shape[-1]
    rows, tiles, sizes = _tiles(x, channels)
    programs = min(tiles, _PROGRAMS)
    partial = x.new_empty(2, programs, channels, dtype=torch.float32)
    mean, variance = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
    rounds = triton.cdiv(tiles, programs)
    kernels.sum_moments[(programs,)](x, partial, rows, tiles, ROUNDS=rounds, **sizes)
    kernels.combine_moments[(triton.cdiv(channels, _COLUMNS),)](
        partial,
        mean,
        variance,
        rows,
        tiles,
        programs,
        C=channels,
        BLOCK=sizes["BLOCK"],
        PROGRAMS=triton.next_power_of_2(programs),
        COLUMNS=_COLUMNS,
    )
    return mean, variance


def gate(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    across: int = 0,
) -> Tensor:
    """Normalises `[N, H, W, 2 C]` and gates its halves: `[N, H, W, C]`."""
    *shape, channels = x.shape
    rows, tiles, sizes = _tiles(x, channels // 2)
    out = x.new_empty(*shape, channels // 2)
    rounds = min(_ROUNDS, triton.cdiv(tiles, _PROGRAMS))
    kernels.normalise_and_gate[(triton.cdiv(tiles, rounds),)](
        x, mean, variance, scale, shift, out, rows, eps, ACROSS=across, ROUNDS=rounds, **sizes
    )
    return out


def gate_backward(
    upstream: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    across: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, scale and shift for that of the gated image."""
    channels = x.shape[-1]
    rows, tiles, sizes = _tiles(x, channels // 2)
    programs = min(tiles, _PROGRAMS)
    parameters = (mean, variance, scale, shift)
    partial = x.new_empty(programs, 2 * channels, dtype=torch.float32)
    d_scale, d_shift = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
    rounds = triton.cdiv(tiles, programs)
    sizes["ACROSS"] = across
    kernels.sum_gradients[(programs,)](
        upstream, x, *parameters, partial, rows, tiles, eps, ROUNDS=rounds, **sizes
    )
    kernels.combine_gradients[(triton.cdiv(2 * channels, _COLUMNS),)](
        partial,
        variance,
        d_scale,
        d_shift,
        programs,
        eps,
        C2=channels,
        PROGRAMS=triton.next_power_of_2(programs),
        COLUMNS=_COLUMNS,
    )
    out = torch.empty_like(x)
    rounds = min(_ROUNDS, rounds)
    kernels.spread_gradients[(triton.cdiv(tiles, rounds),)](
        upstream, x, *parameters, d_scale, d_shift, out, rows, eps, ROUNDS=rounds, **sizes
    )
    return out, d_scale, d_shift


def _tiles(x: Tensor, channels: int) -> tuple[int, int, dict[str, int]]:
    """Returns rows and tiles of x, and the sizes of a tile of so many channels."""
    rows, tiles, sizes = cut(x, channels, _ELEMENTS)
    return rows, tiles, sizes | {"STAGES": _STAGES, "num_warps": _WARPS}

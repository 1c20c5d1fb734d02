"""Which programs run on which tiles when gradients go back through ELU.

Images are `[N, H, W, channels]`.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from genesis_rl.inference.kernels import cut
from pretrain.kernels import elu_triton as kernels

_ELEMENTS = 2048  # in a tile
_WARPS = 4
_STAGES = 3  # tiles of a program that are under way at a time
_PROGRAMS = 396  # three to each of an H200's 132 multiprocessors, all at once
_COLUMNS = 8  # that a program of a combining kernel handles: 32 bytes, the least that memory moves


def elu_backward(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradient of `[N, H, W, C]` inputs for that of results y, and its sum, `[C]`."""
    rows, tiles, programs, sizes = _tiles(y)
    out = torch.empty_like(y)
    partial = y.new_empty(programs, y.shape[-1], dtype=torch.float32)
    kernels.slope_and_sum[(programs,)](upstream, y, out, partial, rows, tiles, **sizes)
    return out, _combined(partial)


def spread_backward(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients' sums over `[N, H, W, C]` images, `[1, H, W, C]`, and over pixels."""
    images, height, width, channels = y.shape
    pixels, tiles, sizes = cut(y[:1], channels, _ELEMENTS)
    shares = min(images, triton.cdiv(_PROGRAMS, tiles))
    of_grid = y.new_empty(shares, height, width, channels, dtype=torch.float32)
    of_images = y.new_empty(tiles, images, channels, dtype=torch.float32)
    sizes |= {"SHARE": triton.cdiv(images, shares), "STAGES": _STAGES, "num_warps": _WARPS}
    kernels.slope_and_sums[(tiles, shares)](
        upstream, y, of_grid, of_images, images, pixels, **sizes
    )
    return of_grid.sum(dim=0, keepdim=True), of_images.sum(dim=0)


def elu_readout_backward(
    upstream: Tensor, x: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the gradient of x for that of `[N, O, H, W]` sums, and those of the parameters.

    The latter in one, `[1 + O, C]`: of the bias, then of `[O, C]` weights.
    """
    outputs, channels = weight.shape
    rows, tiles, programs, sizes = _tiles(x)
    out = torch.empty_like(x)
    partial = x.new_empty(programs, (1 + outputs) * channels, dtype=torch.float32)
    height, width = upstream.shape[2:]
    if upstream.stride(2) != width * upstream.stride(3):  # rows must follow one another
        upstream = upstream.contiguous()
    kernels.read_back[(programs,)](
        upstream,
        x,
        bias,
        weight,
        out,
        partial,
        rows,
        tiles,
        height * width,
        *(upstream.stride(dim) for dim in (0, 1, 3)),
        SUMS=outputs,
        **sizes,
    )
    return out, _combined(partial).view(1 + outputs, channels)


def _combined(partial: Tensor) -> Tensor:
    """Sums `[programs, width]` over programs."""
    programs, width = partial.shape
    sums = partial.new_empty(width)
    kernels.combine[(triton.cdiv(width, _COLUMNS),)](
        partial,
        sums,
        programs,
        WIDTH=width,
        PROGRAMS=triton.next_power_of_2(programs),
        COLUMNS=_COLUMNS,
    )
    return sums


def _tiles(x: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Returns rows and tiles of x, the programs that share them, and the sizes of a tile."""
    rows, tiles, sizes = cut(x, x.shape[-1], _ELEMENTS)
    programs = min(tiles, _PROGRAMS)
    rounds = triton.cdiv(tiles, programs)
    sizes |= {"STAGES": _STAGES, "ROUNDS": rounds, "num_warps": _WARPS}
    return rows, tiles, programs, sizes

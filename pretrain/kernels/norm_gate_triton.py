"""Batch normalisation and gate as Triton kernels: the fewest passes over memory that there are.

Forward, one pass that reads and one that reads and writes; backward, the same. What a pass over all
pixels finds out about a channel is kept by every program for itself and combined by a small kernel,
always in the same order, so results repeat bit for bit.

Images are channels-last, that is rows of 2 C channels, one row a pixel. Where ACROSS is not 0 the
rows that are normalised lie in squares (`of_square`), those that are gated do not. Everything is
computed in float32, whatever the tensors' type.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from genesis_rl.inference.kernels import of_square


@triton.jit
def sum_moments(
    x_ptr,
    partial_ptr,
    rows,
    tiles,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """What a program sees of every channel: its mean and its squared distance from that."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, PADDED)
    used = channel < C
    # From the last tile to the first: the convolution wrote the last ones last, so they are still
    # in the cache; and this pass leaves the first ones there, where the next begins.
    first = (tiles - 1 - program).to(tl.int64) * BLOCK
    # Distances from a value of the same channel keep their digits where squares would lose them.
    origin = tl.load(x_ptr + first * C + channel, mask=used, other=0).to(tl.float32)
    sums = tl.zeros([BLOCK, PADDED], tl.float32)
    squares = tl.zeros([BLOCK, PADDED], tl.float32)
    count = 0
    for i in tl.range(ROUNDS, num_stages=STAGES):
        start = (tiles - 1 - program - i * programs).to(tl.int64) * BLOCK
        row = start + tl.arange(0, BLOCK)  # negative in the last round of some programs
        inside = ((row >= 0) & (row < rows))[:, None] & used[None, :]
        x = tl.load(x_ptr + row[:, None] * C + channel[None, :], mask=inside, other=0)
        distance = tl.where(inside, x.to(tl.float32) - origin[None, :], 0.0)
        sums += distance
        squares += distance * distance
        count += tl.where(start < 0, 0, tl.minimum(rows - start, BLOCK)).to(tl.int32)
    mean = tl.sum(sums, axis=0) / count
    spread = tl.sum(squares, axis=0) - count * mean * mean
    tl.store(partial_ptr + program * C + channel, origin + mean, mask=used)
    tl.store(partial_ptr + (programs + program) * C + channel, spread, mask=used)


@triton.jit
def combine_moments(
    partial_ptr,
    mean_ptr,
    variance_ptr,
    rows,
    tiles,
    programs,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean and variance of all from those of each (Chan, Golub and LeVeque, 1979)."""
    program = tl.arange(0, PROGRAMS)
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    # Tiles go round; only the last of them, which is the first program's, may be cut short.
    count = (tiles - 1 - program + programs) // programs * BLOCK
    count -= tl.where(program == 0, tiles * BLOCK - rows, 0)
    weight = tl.where(program < programs, count, 0).to(tl.float32)[:, None] / rows
    inside = (program < programs)[:, None] & (channel < C)[None, :]
    at = partial_ptr + program[:, None] * C + channel[None, :]
    means = tl.load(at, mask=inside, other=0.0)
    spreads = tl.load(at + programs * C, mask=inside, other=0.0)
    mean = tl.sum(means * weight, axis=0)
    apart = tl.where(inside, means - mean[None, :], 0.0)
    variance = tl.sum(spreads / rows + weight * apart * apart, axis=0)
    tl.store(mean_ptr + channel, mean, mask=channel < C)
    tl.store(variance_ptr + channel, variance, mask=channel < C)


@triton.jit
def _normalisation(mean_ptr, variance_ptr, scale_ptr, shift_ptr, channel, used, eps):
    """Mean, factor and offset of channels: normalised is `(x - mean) * factor + offset`."""
    mean = tl.load(mean_ptr + channel, mask=used, other=0.0)
    variance = tl.load(variance_ptr + channel, mask=used, other=1.0)
    scale = tl.load(scale_ptr + channel, mask=used, other=0.0)
    offset = tl.load(shift_ptr + channel, mask=used, other=0.0)
    deviation = 1 / tl.sqrt(variance + eps)
    return mean[None, :], deviation[None, :] * scale[None, :], offset[None, :]


@triton.jit
def normalise_and_gate(
    x_ptr,
    mean_ptr,
    variance_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    rows,
    eps,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Both halves normalised, the first gated by the second."""
    channel = tl.arange(0, PADDED)
    used = channel < C
    mean_h, factor_h, offset_h = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, channel, used, eps
    )
    mean_g, factor_g, offset_g = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, C + channel, used, eps
    )
    offset_h -= mean_h * factor_h
    offset_g -= mean_g * factor_g
    start = tl.program_id(0).to(tl.int64) * (ROUNDS * BLOCK)
    for i in tl.range(ROUNDS, num_stages=STAGES):
        row = start + i * BLOCK + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & used[None, :]
        at = x_ptr + of_square(row, ACROSS)[:, None] * (2 * C) + channel[None, :]
        h = tl.load(at, mask=inside, other=0).to(tl.float32) * factor_h + offset_h
        g = tl.load(at + C, mask=inside, other=0).to(tl.float32) * factor_g + offset_g
        at = out_ptr + row[:, None] * C + channel[None, :]
        tl.store(at, (h * tl.sigmoid(g)).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _load(x_ptr, upstream_ptr, row, channel, inside, C: tl.constexpr, ACROSS: tl.constexpr):
    """Both halves of x, and the gradient of the gated image: 0 outside."""
    at = x_ptr + of_square(row, ACROSS)[:, None] * (2 * C) + channel[None, :]
    h = tl.load(at, mask=inside, other=0).to(tl.float32)
    g = tl.load(at + C, mask=inside, other=0).to(tl.float32)
    at = upstream_ptr + row[:, None] * C + channel[None, :]
    return h, g, tl.load(at, mask=inside, other=0).to(tl.float32)


@triton.jit
def sum_gradients(
    upstream_ptr,
    x_ptr,
    mean_ptr,
    variance_ptr,
    scale_ptr,
    shift_ptr,
    partial_ptr,
    rows,
    tiles,
    eps,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums of both halves' gradients, and of those times the distances from the mean."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, PADDED)
    used = channel < C
    mean_h, factor_h, offset_h = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, channel, used, eps
    )
    mean_g, factor_g, offset_g = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, C + channel, used, eps
    )
    sum_h = tl.zeros([BLOCK, PADDED], tl.float32)
    sum_g = tl.zeros([BLOCK, PADDED], tl.float32)
    sum_hh = tl.zeros([BLOCK, PADDED], tl.float32)
    sum_gg = tl.zeros([BLOCK, PADDED], tl.float32)
    for i in tl.range(ROUNDS, num_stages=STAGES):  # from the end, as above
        row = (tiles - 1 - program - i * programs).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = ((row >= 0) & (row < rows))[:, None] & used[None, :]
        h, g, upstream = _load(x_ptr, upstream_ptr, row, channel, inside, C, ACROSS)
        h -= mean_h
        g -= mean_g
        opened = tl.sigmoid(g * factor_g + offset_g)
        d_h = upstream * opened
        d_g = d_h * (1 - opened) * (h * factor_h + offset_h)
        sum_h += d_h
        sum_g += d_g
        sum_hh += d_h * h
        sum_gg += d_g * g
    at = partial_ptr + program * (4 * C) + channel
    tl.store(at, tl.sum(sum_h, axis=0), mask=used)
    tl.store(at + C, tl.sum(sum_g, axis=0), mask=used)
    tl.store(at + 2 * C, tl.sum(sum_hh, axis=0), mask=used)
    tl.store(at + 3 * C, tl.sum(sum_gg, axis=0), mask=used)


@triton.jit
def combine_gradients(
    partial_ptr,
    variance_ptr,
    d_scale_ptr,
    d_shift_ptr,
    programs,
    eps,
    C2: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients of all shifts, then of all scales."""
    program = tl.arange(0, PROGRAMS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (program < programs)[:, None] & (column < 2 * C2)[None, :]
    at = partial_ptr + program[:, None] * (2 * C2) + column[None, :]
    sums = tl.sum(tl.load(at, mask=inside, other=0.0), axis=0)
    tl.store(d_shift_ptr + column, sums, mask=column < C2)
    of_scale = (column >= C2) & (column < 2 * C2)
    variance = tl.load(variance_ptr + column - C2, mask=of_scale, other=1.0)
    tl.store(d_scale_ptr + column - C2, sums / tl.sqrt(variance + eps), mask=of_scale)


@triton.jit
def _correction(
    mean, factor, variance_ptr, d_scale_ptr, d_shift_ptr, channel, used, eps, rows
):  # fmt: skip
    """What normalisation takes out of a gradient: `constant + slope * x`, by channel."""
    variance = tl.load(variance_ptr + channel, mask=used, other=1.0)
    level = tl.load(d_shift_ptr + channel, mask=used, other=0.0) / rows
    along = tl.load(d_scale_ptr + channel, mask=used, other=0.0) / rows
    slope = factor * (along / tl.sqrt(variance + eps))[None, :]
    return factor * level[None, :] - slope * mean, slope


@triton.jit
def spread_gradients(
    upstream_ptr,
    x_ptr,
    mean_ptr,
    variance_ptr,
    scale_ptr,
    shift_ptr,
    d_scale_ptr,
    d_shift_ptr,
    out_ptr,
    rows,
    eps,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The gradient of what was normalised."""
    channel = tl.arange(0, PADDED)
    used = channel < C
    mean_h, factor_h, offset_h = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, channel, used, eps
    )
    mean_g, factor_g, offset_g = _normalisation(
        mean_ptr, variance_ptr, scale_ptr, shift_ptr, C + channel, used, eps
    )
    sums = variance_ptr, d_scale_ptr, d_shift_ptr
    constant_h, slope_h = _correction(mean_h, factor_h, *sums, channel, used, eps, rows)
    constant_g, slope_g = _correction(mean_g, factor_g, *sums, C + channel, used, eps, rows)
    offset_h -= mean_h * factor_h
    offset_g -= mean_g * factor_g
    start = tl.program_id(0).to(tl.int64) * (ROUNDS * BLOCK)
    kind = out_ptr.dtype.element_ty
    for i in tl.range(ROUNDS, num_stages=STAGES):
        row = start + i * BLOCK + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & used[None, :]
        h, g, upstream = _load(x_ptr, upstream_ptr, row, channel, inside, C, ACROSS)
        opened = tl.sigmoid(g * factor_g + offset_g)
        d_h = upstream * opened
        d_g = d_h * (1 - opened) * (h * factor_h + offset_h)
        at = out_ptr + of_square(row, ACROSS)[:, None] * (2 * C) + channel[None, :]
        tl.store(at, (factor_h * d_h - slope_h * h - constant_h).to(kind), mask=inside)
        tl.store(at + C, (factor_g * d_g - slope_g * g - constant_g).to(kind), mask=inside)

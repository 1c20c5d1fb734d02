"""Gradients through ELU as Triton kernels that sum those of parameters on the way.

Every program keeps the sums of what it sees, and a small kernel adds those up, always in the same
order, so results repeat bit for bit. Images are channels-last, that is rows of C channels, one row
a pixel. Everything is computed in float32, whatever the tensors' type.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slope_and_sum(
    upstream_ptr,
    y_ptr,
    out_ptr,
    partial_ptr,
    rows,
    tiles,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The gradient of ELU's input, read off its result, and that of a bias added to it before."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, PADDED)
    used = channel < C
    sums = tl.zeros([BLOCK, PADDED], tl.float32)
    # From the last tile to the first: the convolution wrote the last ones last, so they are still
    # in the cache; and this pass leaves the first ones there, where the next begins.
    for i in tl.range(ROUNDS, num_stages=STAGES):
        row = (tiles - 1 - program - i * programs) * BLOCK + tl.arange(0, BLOCK)
        inside = ((row >= 0) & (row < rows))[:, None] & used[None, :]
        at = row.to(tl.int64)[:, None] * C + channel[None, :]
        upstream = tl.load(upstream_ptr + at, mask=inside, other=0).to(tl.float32)
        y = tl.load(y_ptr + at, mask=inside, other=0).to(tl.float32)
        gradient = tl.where(y > 0, upstream, upstream * (y + 1))
        tl.store(out_ptr + at, gradient.to(out_ptr.dtype.element_ty), mask=inside)
        sums += gradient
    tl.store(partial_ptr + program * C + channel, tl.sum(sums, axis=0), mask=used)


@triton.jit
def slope_and_sums(
    upstream_ptr,
    y_ptr,
    of_grid_ptr,
    of_images_ptr,
    images,
    pixels,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SHARE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """What the gradient of ELU's input adds up to: over images at a pixel, over pixels of an image.

    A program has a tile of pixels in its share of the images.
    """
    tile, share = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, PADDED)
    used = channel < C
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = (pixel < pixels)[:, None] & used[None, :]
    sums = tl.zeros([BLOCK, PADDED], tl.float32)
    for i in tl.range(SHARE, num_stages=STAGES):
        image = share * SHARE + i
        there = inside & (image < images)
        row = (image * pixels).to(tl.int64) + pixel
        at = row[:, None] * C + channel[None, :]
        upstream = tl.load(upstream_ptr + at, mask=there, other=0).to(tl.float32)
        y = tl.load(y_ptr + at, mask=there, other=0).to(tl.float32)
        gradient = tl.where(y > 0, upstream, upstream * (y + 1))
        sums += gradient
        at = of_images_ptr + (tile * images + image) * C + channel
        tl.store(at, tl.sum(gradient, axis=0), mask=used & (image < images))
    at = of_grid_ptr + (share * pixels + pixel)[:, None] * C + channel[None, :]
    tl.store(at, sums, mask=inside)


@triton.jit
def _of_sum(upstream_ptr, at, inside, o: tl.constexpr, SUMS: tl.constexpr, of_sum):
    """The gradient of pixels' o-th weighted sum, `[BLOCK, 1]`: 0 where there is none."""
    return tl.load(upstream_ptr + at + o * of_sum, mask=inside & (o < SUMS), other=0.0)[:, None]


@triton.jit
def _weights(weight_ptr, channel, used, o: tl.constexpr, SUMS: tl.constexpr, C: tl.constexpr):
    return tl.load(weight_ptr + o * C + channel, mask=used & (o < SUMS), other=0.0)[None, :]


@triton.jit
def read_back(
    upstream_ptr,
    x_ptr,
    bias_ptr,
    weight_ptr,
    out_ptr,
    partial_ptr,
    rows,
    tiles,
    pixels,
    of_image,
    of_sum,
    of_pixel,
    SUMS: tl.constexpr,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROUNDS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """From the gradients of up to four weighted sums of `elu(x + bias)` to those of all of these.

    Gradients of sums are so far apart from image to image, from sum to sum, from pixel to pixel.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, PADDED)
    used = channel < C
    bias = tl.load(bias_ptr + channel, mask=used, other=0.0)[None, :]
    w_0 = _weights(weight_ptr, channel, used, 0, SUMS, C)
    w_1 = _weights(weight_ptr, channel, used, 1, SUMS, C)
    w_2 = _weights(weight_ptr, channel, used, 2, SUMS, C)
    w_3 = _weights(weight_ptr, channel, used, 3, SUMS, C)
    sums = tl.zeros([BLOCK, PADDED], tl.float32)
    sums_0 = tl.zeros([BLOCK, PADDED], tl.float32)
    sums_1 = tl.zeros([BLOCK, PADDED], tl.float32)
    sums_2 = tl.zeros([BLOCK, PADDED], tl.float32)
    sums_3 = tl.zeros([BLOCK, PADDED], tl.float32)
    for i in tl.range(ROUNDS, num_stages=STAGES):  # from the end, as above
        row = (tiles - 1 - program - i * programs) * BLOCK + tl.arange(0, BLOCK)
        there = (row >= 0) & (row < rows)
        inside = there[:, None] & used[None, :]
        at = row.to(tl.int64)[:, None] * C + channel[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32) + bias
        image = row // pixels
        here = image.to(tl.int64) * of_image + (row - image * pixels) * of_pixel
        g_0 = _of_sum(upstream_ptr, here, there, 0, SUMS, of_sum)
        g_1 = _of_sum(upstream_ptr, here, there, 1, SUMS, of_sum)
        g_2 = _of_sum(upstream_ptr, here, there, 2, SUMS, of_sum)
        g_3 = _of_sum(upstream_ptr, here, there, 3, SUMS, of_sum)
        slope = tl.exp(tl.minimum(x, 0.0))
        y = tl.where(x > 0, x, slope - 1)
        gradient = (g_0 * w_0 + g_1 * w_1 + g_2 * w_2 + g_3 * w_3) * slope
        tl.store(out_ptr + at, gradient.to(out_ptr.dtype.element_ty), mask=inside)
        sums += gradient
        sums_0 += g_0 * y
        sums_1 += g_1 * y
        sums_2 += g_2 * y
        sums_3 += g_3 * y
    at = partial_ptr + program * ((1 + SUMS) * C) + channel
    tl.store(at, tl.sum(sums, axis=0), mask=used)
    tl.store(at + C, tl.sum(sums_0, axis=0), mask=used & (SUMS > 0))
    tl.store(at + 2 * C, tl.sum(sums_1, axis=0), mask=used & (SUMS > 1))
    tl.store(at + 3 * C, tl.sum(sums_2, axis=0), mask=used & (SUMS > 2))
    tl.store(at + 4 * C, tl.sum(sums_3, axis=0), mask=used & (SUMS > 3))


@triton.jit
def combine(
    partial_ptr,
    sums_ptr,
    programs,
    WIDTH: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Adds up `[programs, WIDTH]` over programs."""
    program = tl.arange(0, PROGRAMS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (program < programs)[:, None] & (column < WIDTH)[None, :]
    at = partial_ptr + program[:, None] * WIDTH + column[None, :]
    sums = tl.sum(tl.load(at, mask=inside, other=0.0), axis=0)
    tl.store(sums_ptr + column, sums, mask=column < WIDTH)

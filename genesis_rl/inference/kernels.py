"""The operations between convolutions as Triton kernels: one pass over memory each.

`PlainOperations(add_bias=True)` defines what they compute. They compute it in float32 whatever the
tensors' type, and expect images channels-last, that is as rows of channels, one row a pixel.

Imported on the first encode on a CUDA device, and only there: CUDA builds of torch bring Triton.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genesis_rl.inference.layers import PlainOperations, as_rows

_ELEMENTS = 2048  # per program: 128 threads, each with two loads of 16 bytes in bfloat16


class KernelOperations:
    """`PlainOperations`, fused."""

    add_bias = True

    def pixels(self, images: Tensor, white: Tensor, dtype: torch.dtype) -> Tensor:
        """Of uint8: division and rounding in one pass."""
        if images.dtype != torch.uint8:
            return PlainOperations().pixels(images, white, dtype)
        rows = as_rows(images)
        out = torch.empty_like(rows, dtype=dtype)
        _pixels[(triton.cdiv(rows.numel(), 1024),)](rows, white, out, rows.numel(), BLOCK=1024)
        return out.permute(0, 3, 1, 2)

    def gate(self, x: Tensor, bias: Tensor, *, phases: bool = False) -> Tensor:
        """Bias and gated linear unit; corners of squares are read from where they are."""
        rows, across = squares(as_rows(x)) if phases else (as_rows(x), 0)
        *shape, channels = rows.shape
        out = rows.new_empty(*shape, channels // 2)
        pixels, tiles, sizes = cut(rows, channels // 2, _ELEMENTS)
        _gate[(tiles,)](rows, bias, out, pixels, ACROSS=across, **sizes)
        return out.permute(0, 3, 1, 2)

    def gate_to_logit(self, x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """Bias, gated linear unit, 1x1 convolution: the gated image is never written."""
        rows = as_rows(x)
        *shape, channels = rows.shape
        out = rows.new_empty(shape, dtype=torch.float32)
        pixels, tiles, sizes = cut(rows, channels // 2, _ELEMENTS)
        _gate_to_logit[(tiles,)](rows, bias, weight, offset, out, pixels, **sizes)
        return out

    def elu(self, x: Tensor, bias: Tensor) -> Tensor:
        """Bias and ELU."""
        rows = as_rows(x)
        out = torch.empty_like(rows)
        pixels, tiles, sizes = cut(rows, rows.shape[-1], _ELEMENTS)
        _elu[(tiles,)](rows, bias, out, pixels, **sizes)
        return out.permute(0, 3, 1, 2)

    def slot_images(self, logits: Tensor, images: Tensor) -> Tensor:
        """Stick breaking and concatenation: no log mask is written twice."""
        count, breaks, height, width = logits.shape
        rows = as_rows(images)
        out = rows.new_empty(count * (breaks + 1), height, width, 4)
        pixels, block = height * width, 256
        grid = (triton.cdiv(count * pixels, block),)
        logits = logits.contiguous()
        _slot_images[grid](
            logits, rows, out, count * pixels, PIXELS=pixels, BREAKS=breaks, BLOCK=block
        )
        return out.permute(0, 3, 1, 2)


def squares(corners: Tensor) -> tuple[Tensor, int]:
    """Views `[N, H, W, 4 C]`, all corners of a square together, as the image that they will make.

    Returns:
        `[N, 2 H, 2 W, C]`, whose pixels are where `of_square` says, and 2 W.
    """
    count, height, width, channels = corners.shape
    return corners.view(count, 2 * height, 2 * width, channels // 4), 2 * width


def cut(rows: Tensor, channels: int, elements: int) -> tuple[int, int, dict[str, int]]:
    """Returns how many rows and tiles there are, and the sizes of a tile.

    Args:
        rows: `[..., channels of a row]`.
        channels: Of a tile.
        elements: About as many as a tile is to have.
    """
    padded = triton.next_power_of_2(channels)
    block = max(elements // padded, 1)
    count = rows.numel() // rows.shape[-1]
    return count, triton.cdiv(count, block), {"C": channels, "PADDED": padded, "BLOCK": block}


@triton.jit
def _pixels(x_ptr, white_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x_ptr + at, mask=at < count, other=0).to(tl.float32)
    value = tl.div_rn(value, tl.load(white_ptr))  # exact, as in `unit_scale`
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def of_square(pixel, ACROSS: tl.constexpr):
    """Where pixels are if squares of two by two lie one after the other, ACROSS to a row; or 0."""
    source = pixel
    if ACROSS > 0:
        down, column = pixel // ACROSS, pixel % ACROSS
        square = (down // 2) * (ACROSS // 2) + column // 2
        source = square * 4 + (down % 2) * 2 + column % 2
    return source


@triton.jit
def _gated(
    x_ptr,
    bias_ptr,
    count,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
):
    # 64-bit: a batch of large images has more than 2^31 activations.
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    inside = (row < count) & (channel < C)
    at = x_ptr + of_square(row, ACROSS) * (2 * C) + channel
    h = tl.load(at, mask=inside, other=0).to(tl.float32)
    g = tl.load(at + C, mask=inside, other=0).to(tl.float32)
    h += tl.load(bias_ptr + channel, mask=channel < C, other=0)
    g += tl.load(bias_ptr + C + channel, mask=channel < C, other=0)
    return h * tl.sigmoid(g), row, channel, inside


@triton.jit
def _gate(
    x_ptr,
    bias_ptr,
    out_ptr,
    count,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
):
    value, row, channel, inside = _gated(x_ptr, bias_ptr, count, C, PADDED, BLOCK, ACROSS)
    tl.store(out_ptr + row * C + channel, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gate_to_logit(
    x_ptr,
    bias_ptr,
    weight_ptr,
    offset_ptr,
    out_ptr,
    count,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    value, _, channel, inside = _gated(x_ptr, bias_ptr, count, C, PADDED, BLOCK, 0)
    weight = tl.load(weight_ptr + channel, mask=channel < C, other=0)
    logit = tl.sum(tl.where(inside, value * weight, 0.0), axis=1) + tl.load(offset_ptr)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, logit, mask=at < count)


@triton.jit
def _elu(
    x_ptr, bias_ptr, out_ptr, count, C: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    inside = (row < count) & (channel < C)
    at = row * C + channel
    value = tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32)
    value += tl.load(bias_ptr + channel, mask=channel < C, other=0)
    value = tl.where(value > 0, value, tl.exp(tl.minimum(value, 0.0)) - 1.0)
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _slot_images(
    logits_ptr,
    images_ptr,
    out_ptr,
    count,
    PIXELS: tl.constexpr,
    BREAKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    image, pixel = at // PIXELS, at % PIXELS
    inside = at < count
    channel = tl.arange(0, 4)[None, :]
    whole = inside[:, None] & (channel >= 0)
    colour = tl.load(
        images_ptr + at[:, None] * 3 + channel - 1, mask=whole & (channel > 0), other=0
    ).to(tl.float32)
    log_scope = tl.zeros([BLOCK], dtype=tl.float32)  # what the slots so far have left
    for k in tl.static_range(BREAKS + 1):
        log_mask = log_scope  # the last slot claims everything that is left
        if k < BREAKS:
            logit = tl.load(
                logits_ptr + (image * BREAKS + k) * PIXELS + pixel, mask=inside, other=0
            )
            softplus = tl.log(1.0 + tl.exp(-tl.abs(logit)))  # of -|logit|
            log_mask = log_scope + tl.minimum(logit, 0.0) - softplus
            log_scope = log_scope - tl.maximum(logit, 0.0) - softplus
        slot = tl.where(channel == 0, log_mask[:, None], colour)
        to = ((image * (BREAKS + 1) + k) * PIXELS + pixel)[:, None] * 4 + channel
        tl.store(out_ptr + to, slot.to(out_ptr.dtype.element_ty), mask=whole)

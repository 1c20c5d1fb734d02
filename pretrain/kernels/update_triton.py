"""Adam and the running average of weights as a Triton kernel: one pass over memory.

Tensors of float32 are cut into parts of up to BLOCK numbers, a program each. A table `[6, parts]`
says of each part how many numbers it has, and at which addresses its gradient, weights, Adam's two
moments and the average are: of as many tensors as there may be, in one launch.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

_GRADIENT = tl.constexpr(1)  # lines of the table; the counts are the first
_WEIGHT = tl.constexpr(2)
_MEAN = tl.constexpr(3)
_SQUARE = tl.constexpr(4)
_AVERAGE = tl.constexpr(5)


@triton.jit
def _count(table_ptr, LANES: tl.constexpr):
    """Of numbers in this program's part, a multiple of LANES."""
    return tl.multiple_of(tl.load(table_ptr + tl.program_id(0)), LANES)


@triton.jit
def _part(table_ptr, LINE: tl.constexpr, LANES: tl.constexpr):
    """Where this program's part of a tensor begins; LANES numbers are loaded at once."""
    address = tl.load(table_ptr + LINE * tl.num_programs(0) + tl.program_id(0))
    return tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 4 * LANES)


@triton.jit
def norms(table_ptr, norms_ptr, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """The norm of each part of the gradient."""
    at = tl.arange(0, BLOCK)
    inside = at < _count(table_ptr, LANES)
    gradient = tl.load(_part(table_ptr, _GRADIENT, LANES) + at, mask=inside, other=0.0)
    tl.store(norms_ptr + tl.program_id(0), tl.sqrt(tl.sum(gradient * gradient, axis=0)))


@triton.jit
def adam(
    table_ptr,
    skip_ptr,
    excess_ptr,
    learning_rate_ptr,
    steps_ptr,
    average_rate_ptr,
    BETA_1: tl.constexpr,
    BETA_2: tl.constexpr,
    LOG_BETA_1: tl.constexpr,
    LOG_BETA_2: tl.constexpr,
    EPS: tl.constexpr,
    AVERAGED: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """A step of Adam (Kingma and Ba, 2015, Algorithm 1), and the average after it, unless skipped.

    The step is already counted. Gradients are divided by their excess.
    """
    if tl.load(skip_ptr) == 0.0:
        steps = tl.load(steps_ptr).to(tl.float64)  # in float32, 1 - .999 has but four digits
        size = tl.load(learning_rate_ptr) / (1 - tl.exp(steps * LOG_BETA_1)).to(tl.float32)
        root = tl.sqrt(1 - tl.exp(steps * LOG_BETA_2)).to(tl.float32)
        at = tl.arange(0, BLOCK)
        inside = at < _count(table_ptr, LANES)
        gradient = tl.load(_part(table_ptr, _GRADIENT, LANES) + at, mask=inside, other=0.0)
        gradient /= tl.load(excess_ptr)
        weights = _part(table_ptr, _WEIGHT, LANES) + at
        means = _part(table_ptr, _MEAN, LANES) + at
        squares = _part(table_ptr, _SQUARE, LANES) + at
        mean = tl.load(means, mask=inside, other=0.0)
        square = tl.load(squares, mask=inside, other=0.0)
        weight = tl.load(weights, mask=inside, other=0.0)
        mean += (gradient - mean) * (1 - BETA_1)
        square = square * BETA_2 + gradient * gradient * (1 - BETA_2)
        weight -= size * mean / (tl.sqrt(square) / root + EPS)
        tl.store(means, mean, mask=inside)
        tl.store(squares, square, mask=inside)
        tl.store(weights, weight, mask=inside)
        if AVERAGED:
            averages = _part(table_ptr, _AVERAGE, LANES) + at
            average = tl.load(averages, mask=inside, other=0.0)
            average += (weight - average) * tl.load(average_rate_ptr)
            tl.store(averages, average, mask=inside)

"""Batch normalisation and gate of the training pass as one operation that compilers leave alone.

`genesis_rl.models.gates.batch_norm_gate` defines what it computes. It keeps the convolution's
output for the backward pass and nothing else but two numbers a channel: the gate is computed again.

Shapes: B images, 2 C channels of which the first C are gated by the others, H x W pixels. With
`phases` what is normalised comes as the corners of squares that the gate will interleave
(`genesis_rl.inference.paired.phase_weight`): `[B, 4 x 2 C, H / 2, W / 2]`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genesis_rl.inference.layers import as_rows


def batch_norm_gate(
    x: Tensor, norm: nn.BatchNorm2d, bias: Tensor, *, phases: bool = False
) -> Tensor:
    """Returns `glu(norm(x + bias))` in training mode: `[B, 2 C, H, W]` -> `[B, C, H, W]`.

    The result is channels-last, and of x's type whatever it is. As in its twin the bias is never
    added, and the running statistics are moved as the forward pass of `norm` would move them.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gated, mean, variance = norm_gate(x, norm.weight, norm.bias, norm.eps, phases)
    count = x.numel() // norm.num_features
    momentum = norm.momentum or 0.0
    with torch.no_grad():
        norm.running_mean.lerp_(mean + bias, momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), momentum)  # Bessel's correction
    return gated


@torch.library.custom_op("genesis_rl::norm_gate", mutates_args=())
def norm_gate(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float, phases: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gated image, and mean and (biased) variance of each of x's channels."""
    from pretrain.kernels import norm_gate_passes as passes  # needs Triton, so only where it runs

    pixels, across = _rows(x, phases)
    mean, variance = passes.moments(pixels)
    gated = passes.gate(pixels, mean, variance, scale, shift, eps, across)
    return gated.permute(0, 3, 1, 2), mean, variance


@torch.library.custom_op("genesis_rl::norm_gate_backward", mutates_args=())
def norm_gate_backward(
    upstream: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    phases: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, scale and shift for that of the gated image."""
    from pretrain.kernels import norm_gate_passes as passes

    pixels, across = _rows(x, phases)
    parameters = (mean, variance, scale, shift, eps, across)
    of_pixels, of_scale, of_shift = passes.gate_backward(as_rows(upstream), pixels, *parameters)
    count, channels, height, width = x.shape
    of_x = of_pixels.view(count, height, width, channels)
    return of_x.permute(0, 3, 1, 2), of_scale, of_shift


def _rows(x: Tensor, phases: bool) -> tuple[Tensor, int]:
    """An image as rows of 2 C channels, and how many pixels across if they lie in squares."""
    from genesis_rl.inference.kernels import squares

    return squares(as_rows(x)) if phases else (as_rows(x), 0)


@norm_gate.register_fake
def _(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float, phases: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = x.shape
    if phases:
        channels, height, width = channels // 4, 2 * height, 2 * width
    gated = x.new_empty(count, height, width, channels // 2).permute(0, 3, 1, 2)
    mean, variance = (x.new_empty(channels, dtype=torch.float32) for _ in range(2))
    return gated, mean, variance


@norm_gate_backward.register_fake
def _(upstream: Tensor, x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = x.shape
    of_x = x.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
    scale = parameters[2]
    of_scale, of_shift = (torch.empty_like(scale) for _ in range(2))
    return of_x, of_scale, of_shift


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, shift, ctx.eps, ctx.phases = inputs
    _, mean, variance = output
    ctx.save_for_backward(x, mean, variance, scale, shift)


def _backward(ctx: Any, upstream: Tensor, *of_statistics: Any) -> tuple[Tensor | None, ...]:
    return *norm_gate_backward(upstream, *ctx.saved_tensors, ctx.eps, ctx.phases), None, None


norm_gate.register_autograd(_backward, setup_context=_keep)

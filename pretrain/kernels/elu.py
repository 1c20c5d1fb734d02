"""ELU of bfloat16 images: by an exponential that costs a GPU next to nothing, backward in one pass.

Where a convolution's bias is added just before, its gradient is summed while that of the image is
written, instead of in a pass of its own over what was written. All of it is for bfloat16; in other
types everything is plain torch.

Shapes: B images, C channels, H x W pixels, O weighted sums.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.inference.layers import as_rows
from genesis_rl.models.layers import Conv
from pretrain.kernels.readout import sums_by, weighted_sums

MOST_SUMS = 4  # that `elu_readout` can go back from


def elu(x: Tensor) -> Tensor:
    """Returns `F.elu(x)`; of bfloat16 as `exp(x) - 1`, whose last digits it cannot hold anyway.

    `F.elu` takes a polynomial that is exact near 0, which makes a pass over an image wait for
    arithmetic and not for memory. The gradient is read off the result, which the next layer keeps.
    """
    return _Elu.apply(x) if x.dtype == torch.bfloat16 else F.elu(x)


def activated(x: Tensor, conv: Conv, activation: nn.Module) -> Tensor:
    """Returns `activation(conv(x))`, an ELU together with the bias before it."""
    if conv.bias is None or not isinstance(activation, nn.ELU):
        return activation(conv(x))
    return bias_elu(conv.convolve(x, conv, None), conv.bias)


def bias_elu(x: Tensor, bias: Tensor) -> Tensor:
    """Returns `F.elu(x + bias)` of a convolution's output `[B, C, H, W]`."""
    if x.dtype != torch.bfloat16:
        return F.elu(x + bias[:, None, None])
    return _BiasElu.apply(x, bias)


def spread(grid: Tensor, latents: Tensor, activation: nn.Module) -> Tensor:
    """Returns `activation(grid + latents[:, :, None, None])`: `[1, C, H, W]` and `[B, C]`."""
    if not isinstance(activation, nn.ELU) or grid.dtype != torch.bfloat16:
        return activation(grid + latents[:, :, None, None])
    return _SpreadElu.apply(grid, latents)


def elu_readout(x: Tensor, bias: Tensor, readout: nn.Conv2d) -> Tensor:
    """Maps a convolution's output `[B, C, H, W]` to `readout(F.elu(x + bias))`, `[B, O, H, W]`.

    Up to `MOST_SUMS` of them. The ELU itself is never written, and its gradient only once.
    """
    if x.dtype != torch.bfloat16:
        return weighted_sums(F.elu(x + bias[:, None, None]), readout, readout.bias)
    sums = _EluReadout.apply(x, bias, readout.weight)
    return sums if readout.bias is None else sums + readout.bias[:, None, None]


def _exponential(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, value.clamp(max=0).exp() - 1)


class _Elu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _exponential(x.float()).to(x.dtype)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope = torch.where(y > 0, 1.0, y.float() + 1)
        return (upstream.float() * slope).to(y.dtype)


class _BiasElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        y = _exponential(x.float() + bias[:, None, None]).to(x.dtype)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        return elu_backward(upstream, *ctx.saved_tensors)


class _SpreadElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, latents: Tensor) -> Tensor:
        y = _exponential(grid.float() + latents.float()[:, :, None, None]).to(grid.dtype)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        (y,) = ctx.saved_tensors
        of_grid, of_latents = spread_backward(upstream, y)
        return of_grid.to(y.dtype), of_latents.to(y.dtype)


class _EluReadout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias, weight)
        return sums_by(_exponential(x.float() + bias[:, None, None]), weight)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of_x, sums = elu_readout_backward(upstream, *ctx.saved_tensors)
        return of_x, sums[0], sums[1:, :, None, None]


@torch.library.custom_op("genesis_rl::elu_backward", mutates_args=())
def elu_backward(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of `[B, C, H, W]` and of a bias `[C]` for that of y, their sum's ELU.

    The image's is channels-last and of y's type, the bias's float32.
    """
    from pretrain.kernels import elu_passes as passes  # needs Triton, so only where it runs

    of_x, of_bias = passes.elu_backward(as_rows(upstream), as_rows(y))
    return of_x.permute(0, 3, 1, 2), of_bias


@torch.library.custom_op("genesis_rl::spread_backward", mutates_args=())
def spread_backward(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns sums over B and over pixels of the gradient before the ELU that gave `[B, C, H, W]`.

    That is `[1, C, H, W]` and `[B, C]`, both float32: the gradients of what `spread` has added.
    """
    from pretrain.kernels import elu_passes as passes

    of_grid, of_latents = passes.spread_backward(as_rows(upstream), as_rows(y))
    return of_grid.permute(0, 3, 1, 2), of_latents


# The few sums' gradients come as the compiler lays them out anyway: a tag spares it a copy.
@torch.library.custom_op(
    "genesis_rl::elu_readout_backward", mutates_args=(), tags=(torch.Tag.flexible_layout,)
)
def elu_readout_backward(
    upstream: Tensor, x: Tensor, bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns gradients of x `[B, C, H, W]` and of parameters for those of sums `[B, O, H, W]`.

    Parameters' are in one tensor, `[1 + O, C]`: of the bias, then of the sums' weights.
    """
    from pretrain.kernels import elu_passes as passes

    flat = weight.flatten(start_dim=1).contiguous()
    of_x, sums = passes.elu_readout_backward(upstream, as_rows(x), bias, flat)
    return of_x.permute(0, 3, 1, 2), sums


def _like_pixels(x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    return x.new_empty(count, height, width, channels).permute(0, 3, 1, 2)


@elu_backward.register_fake
def _(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return _like_pixels(y), y.new_empty(y.shape[1], dtype=torch.float32)


@spread_backward.register_fake
def _(upstream: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return _like_pixels(y[:1]).float(), y.new_empty(y.shape[:2], dtype=torch.float32)


@elu_readout_backward.register_fake
def _(upstream: Tensor, x: Tensor, bias: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    outputs, channels = weight.shape[:2]
    return _like_pixels(x), x.new_empty(1 + outputs, channels, dtype=torch.float32)

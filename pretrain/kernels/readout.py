"""Few weighted sums a pixel, in a form that the compiler fuses with the passes before and after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def weighted_sums(x: Tensor, conv: nn.Conv2d, bias: Tensor | None) -> Tensor:
    """Returns a 1x1 convolution of `[B, C, H, W]` channels-last: `[B, O, H, W]`, for a small O."""
    sums = sums_by(x, conv.weight)
    return sums if bias is None else sums + bias[:, None, None]


def sums_by(x: Tensor, weight: Tensor) -> Tensor:
    """Returns the same without a bias, given the weight `[O, C, 1, 1]`.

    A convolution of its own reads all of x for next to no arithmetic, and its gradient is written
    only to be read once. Compiled sums are part of the pass that makes x, or uses its gradient.
    """
    if not torch.compiler.is_compiling():
        return F.conv2d(x, weight)
    pixels = x.permute(0, 2, 3, 1)  # so that gradients are laid out like x
    return torch.stack([(pixels * row).sum(dim=-1) for row in weight[:, :, 0, 0]], dim=1)

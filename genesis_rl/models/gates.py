"""Batch normalisation and gate of the training pass: where its time goes, so in one place.

Plainly, a gated layer is `glu(norm(x + bias))` with x a convolution's output. Here the bias is
never added: batch normalisation takes it out again, so it only shifts the running mean.

Shapes: B images, 2 C channels of which the first C are gated by the others, H x W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def batch_norm_gate(x: Tensor, norm: nn.BatchNorm2d, bias: Tensor) -> Tensor:
    """Returns `glu(norm(x + bias))` in training mode: `[B, 2 C, H, W]` -> `[B, C, H, W]`.

    The two halves are normalised one by one, because then the compiler fuses the gradient of the
    gate into that of the normalisation instead of writing it to memory in between. The running
    statistics of `norm` are moved as its own forward pass would move them.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    bias = bias.detach()
    mean, variance = norm.running_mean - bias, norm.running_var.clone()
    momentum, eps = norm.momentum or 0.0, norm.eps

    def normalised(half: int) -> Tensor:
        pixels = x.chunk(2, dim=1)[half]
        m, v, scale, shift = (t.chunk(2)[half] for t in (mean, variance, norm.weight, norm.bias))
        return F.batch_norm(pixels, m, v, scale, shift, True, momentum, eps)

    gated = normalised(0) * normalised(1).sigmoid()
    norm.running_mean.copy_(mean + bias)
    norm.running_var.copy_(variance)
    return gated

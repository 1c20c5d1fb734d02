"""Convolutions of a training pass in pairs of pixels, which suit cuDNN where channels are few."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.inference.paired import (
    Taps,
    neighbours_for,
    ordinary,
    paired_conv2d,
    paired_weight,
    phase_weight,
)
from genesis_rl.models.layers import convolve


def paired(x: Tensor, conv: nn.Conv2d | nn.ConvTranspose2d, bias: Tensor | None) -> Tensor:
    """`convolve`, between groups of neighbours where that is faster.

    A transposed convolution of stride 1 is taken as the ordinary one that it equals; one of a
    larger stride stays what it is.
    """
    weight, taps = conv.weight, Taps.of(conv)
    if isinstance(conv, nn.ConvTranspose2d):
        if taps.stride > 1:
            return convolve(x, conv, bias)
        weight, taps = ordinary(weight, taps)
    neighbours = neighbours_for(x.shape[1], taps)
    if neighbours == 1 or x.shape[-1] % neighbours:
        return convolve(x, conv, bias)
    wide = paired_weight(weight, taps, neighbours).contiguous(memory_format=torch.channels_last)
    return paired_conv2d(x, wide, bias, taps, neighbours)


def corners(x: Tensor, conv: nn.ConvTranspose2d, bias: Tensor | None) -> Tensor:
    """A transposed convolution that enlarges by two, as corners: `[B, 4 O, H, W]`.

    `genesis_rl.inference.paired.interleaved` makes the image of them.
    """
    weight = phase_weight(conv.weight).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, None if bias is None else bias.repeat(4), padding=1)

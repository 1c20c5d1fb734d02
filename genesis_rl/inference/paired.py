"""Convolutions of few channels, as convolutions of more channels on fewer pixels.

cuDNN reaches 28 % of an H200's matrix peak where images have 32 channels, and 70 % where they have
64. Two neighbours in a row of a channels-last image are, in memory, one pixel of twice the
channels. So the same numbers come out of a convolution between such pairs, whose weights are those
of the original, shifted for the second neighbour; a sixth of them are zeros for 5 taps.

Shapes: N images, C channels in and O out, H x W pixels, P neighbours that count as one pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Taps(NamedTuple):
    """The geometry of a convolution, the same down as across, in pixels.

    Attributes:
        width: Of the filter.
        stride: Between outputs.
        padding: On either side.
    """

    width: int
    stride: int
    padding: int

    @classmethod
    def of(cls, conv: nn.Conv2d | nn.ConvTranspose2d) -> Taps:
        """Those of a layer."""
        return cls(conv.kernel_size[0], conv.stride[0], int(conv.padding[0]))

    def before(self, neighbours: int) -> int:
        """Groups to the left of an output's own that its filter can reach; that is the padding."""
        return -(-self.padding // neighbours)

    def groups(self, neighbours: int) -> int:
        """Groups that the filters of a group's outputs span, as many after as before."""
        last = self.stride * (neighbours // self.stride - 1) - self.padding + self.width - 1
        before = self.before(neighbours)
        return before + max(last // neighbours, before) + 1

    def suit(self, neighbours: int) -> bool:
        """Whether images whose width is a multiple of so many can be convolved in groups."""
        if neighbours % self.stride:
            return False
        columns = self.width * neighbours
        outputs = (columns + 2 * self.padding - self.width) // self.stride + 1
        grouped = self.width + 2 * self.before(neighbours) - self.groups(neighbours) + 1
        return outputs == neighbours // self.stride * grouped


def ordinary(weight: Tensor, taps: Taps) -> tuple[Tensor, Taps]:
    """Turns a transposed convolution of stride 1 into the ordinary one that it is in disguise.

    Maps weights `[C, O, k, k]` and geometry to those of the other, `[O, C, k, k]`.
    """
    flipped = weight.transpose(0, 1).flip(2, 3)
    return flipped, taps._replace(padding=taps.width - 1 - taps.padding)


def neighbours_for(channels: int, taps: Taps) -> int:
    """How many neighbours are best taken together, with so many channels in the image.

    On an H200 in bfloat16 pairs of 32 channels are 2.7 times as fast forward and 1.7 and 2.4 times
    backward, of 64 not faster; four neighbours of the three colours are twice as fast. Both are
    compared by `python -m benchmarks.step_parts --device cuda`.
    """
    best = 1 if channels > 32 else 2 if channels > 4 else 4
    # Zeros in half of a filter cost what pairs gain, unless cuDNN pads so few channels anyway.
    sparse = channels > 4 and taps.groups(best) * best >= 2 * taps.width
    return best if taps.width > 1 and taps.suit(best) and not sparse else 1


def paired_weight(weight: Tensor, taps: Taps, neighbours: int) -> Tensor:
    """Maps `[O, C, kh, kw]` to the weights between groups, `[O P / stride, C P, kh, groups]`.

    Channels of both are ordered by neighbour, then as they were.
    """
    groups, before = taps.groups(neighbours), taps.before(neighbours)
    columns = groups * neighbours
    shifted = []
    for output in range(neighbours // taps.stride):
        left = before * neighbours + taps.stride * output - taps.padding
        shifted.append(F.pad(weight, (left, columns - taps.width - left)))
    wide = torch.stack(shifted).unflatten(-1, (groups, neighbours))  # [P', O, C, kh, groups, P]
    return wide.permute(0, 1, 5, 2, 3, 4).flatten(0, 1).flatten(1, 2)


def suits_phases(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a convolution enlarges by two, and had better do it as `phase_weight` says.

    On an H200 in bfloat16 it had with 32 channels, which cuDNN makes better use of if outputs are
    many; the nine taps are only 25 / 4 of the transposed convolution's.
    """
    transposed = isinstance(conv, nn.ConvTranspose2d)
    return transposed and Taps.of(conv) == Taps(5, 2, 2) and conv.in_channels <= 32


def phase_weight(weight: Tensor) -> Tensor:
    """Turns a transposed convolution of stride 2 into an ordinary one whose output is interleaved.

    Where `[N, C, H, W]` become `[N, O, 2 H, 2 W]`, each pixel makes a square of two by two, and
    each corner of these squares is an ordinary convolution of 3 x 3 taps, some of them zeros. Maps
    `[C, O, 5, 5]`, for a padding of 2, to all four, `[4 O, C, 3, 3]`: by row, column, channel.
    """
    taps = F.pad(weight, (0, 1, 0, 1))  # the sixth tap is 0; that of row a, offset d is a + 2 - 2 d
    squares = taps.unflatten(3, (3, 2)).unflatten(2, (3, 2))  # [C, O, offset, row, offset, column]
    return squares.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(end_dim=2)


def interleaved(x: Tensor) -> Tensor:
    """Maps `[N, 4 O, H, W]`, of which `phase_weight` tells, to `[N, O, 2 H, 2 W]`."""
    corners = x.unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2)  # [N, O, H, 2, W, 2]
    return corners.flatten(4, 5).flatten(2, 3).contiguous(memory_format=torch.channels_last)


def grouped(x: Tensor, neighbours: int) -> Tensor:
    """Maps `[N, C, H, W]` to `[N, C P, H, W / P]`, without a copy if it is channels-last."""
    rows = x.permute(0, 2, 3, 1)
    return rows.unflatten(2, (-1, neighbours)).flatten(3).permute(0, 3, 1, 2)


def ungrouped(x: Tensor, neighbours: int) -> Tensor:
    """Maps `[N, C P, H, W]` to `[N, C, H, W P]`, without a copy if it is channels-last."""
    rows = x.permute(0, 2, 3, 1)
    return rows.unflatten(3, (neighbours, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def paired_conv2d(
    x: Tensor, wide: Tensor, bias: Tensor | None, taps: Taps, neighbours: int
) -> Tensor:
    """Maps `[N, C, H, W]`, channels-last, to `[N, O, H', W']` in groups of neighbours.

    Args:
        x: Images.
        wide: What `paired_weight` made of the weights.
        bias: `[O]`.
        taps: The convolution's geometry.
        neighbours: P.
    """
    outputs = neighbours // taps.stride
    y = F.conv2d(
        grouped(x, neighbours),
        wide,
        None if bias is None else bias.repeat(outputs),
        stride=(taps.stride, 1),
        padding=(taps.padding, taps.before(neighbours)),
    )
    return ungrouped(y, outputs)

"""5x5 convolutions on the CPU with 2.5 times fewer multiplications.

Winograd's minimal filtering, in one dimension: four neighbouring outputs of a five-tap filter are
eight products of linear combinations instead of twenty products. Applied to the rows of an image, a
5x5 convolution becomes a grouped 1x5 convolution: eight groups, one a product, each on a quarter of
the rows. In float32 the result is as exact as the direct one.

Shapes: N images, H x W pixels, C channels in and O out, T = H / 4 tiles of four rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUTS, _TAPS = 4, 5
_PRODUCTS = _OUTPUTS + _TAPS - 1
# Where the interpolating polynomials are evaluated; the eighth point is infinity.
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)


class WinogradConv(nn.Module):
    """A 5x5 convolution of stride 1 and padding 2, for float32 images whose H is a multiple of 4.

    Args:
        weight: `[O, C, 5, 5]`.
        bias: `[O]`.
    """

    filters: Tensor
    bias: Tensor
    combine_inputs: Tensor
    combine_outputs: Tensor

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        outputs, taps, inputs = _matrices()
        filters = torch.einsum("jh,oihw->joiw", taps, weight.detach().double()).float()
        biases = torch.zeros(_PRODUCTS, len(bias))
        # The product at the point 1 enters each of the four outputs once, and the bias with it.
        biases[_POINTS.index(1.0)] = bias.detach()
        self.register_buffer("filters", filters.flatten(end_dim=1).unsqueeze(2).contiguous())
        self.register_buffer("bias", biases.flatten())
        self.register_buffer("combine_inputs", inputs.float().view(_PRODUCTS, 1, _PRODUCTS, 1))
        self.register_buffer("combine_outputs", outputs.float())

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to `[N, 4, O, T, W]`, which `untile` puts in order.

        Whatever works pixel by pixel can be done before, so that fewer channels have to move.
        """
        count, channels, height, width = x.shape
        tiles = height // _OUTPUTS
        # Every four rows, combine eight; as a convolution of one channel that takes one pass.
        planes = x.contiguous().view(count * channels, 1, height, width)
        combined = F.conv2d(planes, self.combine_inputs, stride=(_OUTPUTS, 1), padding=(2, 0))
        combined = combined.view(count, channels, _PRODUCTS, tiles, width).transpose(1, 2)
        grouped = combined.reshape(count, _PRODUCTS * channels, tiles, width)
        products = F.conv2d(grouped, self.filters, self.bias, padding=(0, 2), groups=_PRODUCTS)
        result = torch.matmul(self.combine_outputs, products.view(count, _PRODUCTS, -1))
        return result.view(count, _OUTPUTS, -1, tiles, width)


def untile(tiled: Tensor) -> Tensor:
    """Maps `[N, 4, O, T, W]` to channels-last `[N, O, H, W]`."""
    return tiled.permute(0, 3, 1, 4, 2).flatten(1, 2).permute(0, 3, 1, 2)


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Returns A `[4, 8]`, G `[8, 5]` and B `[8, 8]`, in float64.

    `A @ ((G @ filter) * (B @ window))` are the four outputs for a window of eight inputs.
    """
    outputs = torch.zeros(_OUTPUTS, _PRODUCTS, dtype=torch.float64)
    taps = torch.zeros(_PRODUCTS, _TAPS, dtype=torch.float64)
    inputs = torch.zeros(_PRODUCTS, _PRODUCTS, dtype=torch.float64)
    for i, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        scale = 1.0
        for other in others:
            scale *= point - other
        outputs[:, i] = torch.tensor([point**r for r in range(_OUTPUTS)])
        taps[i] = torch.tensor([point**r / scale for r in range(_TAPS)], dtype=torch.float64)
        inputs[i, :-1] = _coefficients(others)
    outputs[-1, -1] = taps[-1, -1] = 1.0
    inputs[-1] = _coefficients(list(_POINTS))
    return outputs, taps, inputs


def _coefficients(roots: list[float]) -> Tensor:
    """Coefficients of the monic polynomial with these roots, constant term first."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients

"""5x5 convolutions on the CPU with 2.5 times fewer multiplications.

Winograd's minimal filtering, in one dimension: four neighbouring outputs of a five-tap filter are
eight products of linear combinations instead of twenty products. Applied to the rows of an image, a
5x5 convolution becomes eight 1x5 convolutions on a quarter of the rows, and the combinations become
two products with an 8x8 and a 4x8 matrix. In float32 the result is as exact as the direct one.

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
    """A 5x5 convolution of stride 1 and padding 2 for channels-last float32 images.

    Args:
        weight: `[O, C, 5, 5]`.
        bias: `[O]`.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        outputs, taps, inputs = _matrices()
        filters = torch.einsum("jh,oihw->joiw", taps, weight.detach().double()).float()
        for j, taps_of_one in enumerate(filters.unsqueeze(3)):  # [O, C, 1, 5]
            laid_out = taps_of_one.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"filter_{j}", laid_out)
        self.register_buffer("bias", bias.detach().float().clone())
        self.register_buffer("combine_inputs", inputs.float())  # [8, 8]
        self.register_buffer("combine_outputs", outputs.float())  # [4, 8]
        self.bias: Tensor
        self.combine_inputs: Tensor
        self.combine_outputs: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to `[4, N, T, W, O]`, which `untile` puts in order.

        Whatever works pixel by pixel can be done before, so that fewer channels have to move.
        """
        count, channels, height, width = x.shape
        tiles, row = height // _OUTPUTS, width * channels
        rows = F.pad(x.permute(0, 2, 3, 1).reshape(count, height, row), (0, 0, 2, 2))
        stride = (height + 4) * row
        windows = rows.as_strided(
            (_PRODUCTS, count, tiles, row), (row, stride, _OUTPUTS * row, 1)
        )  # row j of every tile's eight; tiles overlap by four
        combined = torch.mm(self.combine_inputs, windows.reshape(_PRODUCTS, -1))
        combined = combined.view(_PRODUCTS, count, tiles, width, channels).permute(0, 1, 4, 2, 3)
        products = combined.new_empty(_PRODUCTS, count, tiles, width, len(self.bias))
        for j in range(_PRODUCTS):
            # The product at the point 1 enters each of the four outputs once, and the bias with it.
            bias = self.bias if j == _POINTS.index(1.0) else None
            product = F.conv2d(combined[j], self.get_buffer(f"filter_{j}"), bias, padding=(0, 2))
            products[j] = product.permute(0, 2, 3, 1)
        result = torch.mm(self.combine_outputs, products.view(_PRODUCTS, -1))
        return result.view(_OUTPUTS, count, tiles, width, -1)


def untile(tiled: Tensor) -> Tensor:
    """Maps `[4, N, T, W, ...]` to `[N, H, W, ...]`."""
    return tiled.movedim(0, 2).flatten(1, 2)


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

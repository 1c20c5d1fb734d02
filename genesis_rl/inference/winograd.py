"""5x5 convolutions on the CPU with 3.3 times fewer multiplications, as plain matrix products.

Winograd's minimal filtering, in one dimension: eight neighbouring outputs of a five-tap filter are
twelve products of linear combinations instead of forty products. Applied to the rows of an image,
a 5x5 convolution becomes twelve 1x5 convolutions, one a product, each on an eighth of the rows.

Images stay channels-last throughout, so each step is a matrix product on views and nothing is ever
rearranged: rows are combined, five taps are five products that add up, rows are combined again.

Shapes: N images, H x W pixels, C channels in and O out, T = H / 8 tiles of eight rows, P = 12.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUTS, _TAPS = 8, 5
_PADDING = _TAPS // 2
_PRODUCTS = _OUTPUTS + _TAPS - 1
# Where the interpolating polynomials are evaluated; the last point is infinity. Rounding errors
# depend on the choice: these came out best of a random search, a third below 0, 1/2, 1, 2, ...
_POINTS = (0.0, 0.35, -0.35, 0.75, -0.75, 1.1, -1.1, 1.5, -1.5, 2.5, -2.5)


class WinogradConv(nn.Module):
    """A 5x5 convolution of stride 1 and padding 2, for float32 images.

    Args:
        weight: `[O, C, 5, 5]`.
    """

    filters: Tensor
    combine_inputs: Tensor
    combine_outputs: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        outputs, taps, inputs = _matrices()
        filters = torch.einsum("ph,oihw->wpio", taps, weight.detach().double())
        self.register_buffer("filters", filters.float().contiguous())  # [5, P, C, O]
        self.register_buffer("combine_inputs", inputs.float())
        self.register_buffer("combine_outputs", outputs.float())

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Maps `[N, C, H, W]` to `[N, O, H, W]`, both channels-last, and adds a bias `[O]`."""
        count, _, height, width = x.shape
        products = self._multiply(self._combine(x))  # [P, N * T * (W + 2), O]
        channels = products.shape[-1]
        tiles = products.view(_PRODUCTS, -1, (width + _PADDING) * channels)
        tiles = tiles[:, :, : width * channels].transpose(0, 1)  # [N * T, P, W * O]
        combine = self.combine_outputs.expand(len(tiles), -1, -1)
        if bias is None:
            rows = torch.bmm(combine, tiles)  # [N * T, 8, W * O]
        else:
            rows = torch.baddbmm(bias.repeat(width), combine, tiles)
        return rows.view(count, -1, width, channels)[:, :height].permute(0, 3, 1, 2)

    def _combine(self, x: Tensor) -> Tensor:
        """Returns combined rows one after the other, `[P, (N * T * (W + 2) + 4) * C]`.

        Two zero pixels are before each row; the next row's are those behind it.
        """
        count, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).contiguous().view(count, height, width * channels)
        tiles, margin = -(-height // _OUTPUTS), _PADDING * channels
        pitch = width * channels + margin
        combined = x.new_empty(_PRODUCTS, count * tiles * pitch + 2 * margin)
        combined[:, -2 * margin :] = 0
        by_row = combined[:, : -2 * margin].view(_PRODUCTS, count, tiles, pitch)
        by_row[..., :margin] = 0
        for tile in range(tiles):
            start = tile * _OUTPUTS - _PADDING
            first, last = max(start, 0), min(start + _PRODUCTS, height)
            matrix = self.combine_inputs[:, first - start : last - start].expand(count, -1, -1)
            out = by_row[:, :, tile, margin:].transpose(0, 1)  # [N, P, W * C]
            torch.bmm(matrix, rows[:, first:last], out=out)
        return combined

    def _multiply(self, combined: Tensor) -> Tensor:
        """Convolves each of `_combine`'s rows with its filter: `[P, N * T * (W + 2), O]`."""
        channels = self.filters.shape[2]
        length = combined.shape[1] - 2 * _PADDING * channels
        taps = [combined[:, tap * channels :][:, :length] for tap in range(_TAPS)]
        first, *others = (pixels.view(_PRODUCTS, -1, channels) for pixels in taps)
        products = torch.bmm(first, self.filters[0])
        for pixels, filters in zip(others, self.filters[1:], strict=True):
            products.baddbmm_(pixels, filters)
        return products


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Returns A `[8, P]`, G `[P, 5]` and B `[P, P]`, in float64.

    `A @ ((G @ filter) * (B @ window))` are the eight outputs for a window of twelve inputs.
    """
    outputs = torch.zeros(_OUTPUTS, _PRODUCTS, dtype=torch.float64)
    taps = torch.zeros(_PRODUCTS, _TAPS, dtype=torch.float64)
    inputs = torch.zeros(_PRODUCTS, _PRODUCTS, dtype=torch.float64)
    for i, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        scale = 1.0
        for other in others:
            scale *= point - other
        outputs[:, i] = torch.tensor([point**r for r in range(_OUTPUTS)], dtype=torch.float64)
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

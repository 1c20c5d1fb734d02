"""Surface textures at all sizes in one table, and the filter that reads them.

The filter is OpenGL's GL_LINEAR_MIPMAP_LINEAR with GL_REPEAT: isotropic, bilinear in the two
nearest mip levels, linear between them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.rays import pick


class Taps(NamedTuple):
    """Which texels of a texture M places show.

    Attributes:
        texel: `[M, 8]` int32, their numbers within any one texture.
        weight: `[M, 8]` float32, which sum to 1.
    """

    texel: Tensor
    weight: Tensor


class Atlas:
    """The mip levels of a stack of square textures.

    Texels are rounded to 8 bits at every level, as they are in a graphics card's memory. They are
    stored as four floats in [0, 1] (the fourth is 0), so that a texel is one 16-byte load.

    Args:
        textures: `[T, S, S, 3]` uint8, S a power of two; row 0 is v = 0.

    Attributes:
        texels: `[texels of all textures and levels, 4]` float32.
        side: S.
        stride: Texels from one texture to the next.
        levels: How many there are.
    """

    def __init__(self, textures: Tensor) -> None:
        self.side = textures.shape[1]
        if textures.shape[2] != self.side or self.side & (self.side - 1) or self.side < 2:
            raise ValueError(
                "textures must be square with a side that is a power of two, got "
                f"{textures.shape[2]} x {self.side}; resize them, say to 512 x 512"
            )
        levels = [textures]
        while levels[-1].shape[1] > 1:
            levels.append(_half(levels[-1]))
        texels = torch.cat([level.flatten(1, 2) for level in levels], dim=1)  # [T, stride, 3]
        self.stride = texels.shape[1]
        self.texels = F.pad(texels.flatten(0, 1).float() / 255, (0, 1))

        sides = torch.tensor([level.shape[1] for level in levels], device=textures.device)
        self.levels = len(levels)
        self._packed: Tensor | None = None
        self._sides = sides.float()
        self._last = (sides - 1).int()
        self._starts = (sides**2).cumsum(0).sub_(sides**2).int()

    def packed(self) -> Tensor:
        """`[texels of all textures and levels]` int32: red, green and blue in 8 bits each."""
        if self._packed is None:
            red, green, blue = (self.texels[:, :3] * 255).round().int().unbind(1)
            self._packed = red | green << 8 | blue << 16
        return self._packed

    def taps(self, u: Tensor, v: Tensor, footprint: Tensor) -> Taps:
        """The texels to filter, of M places.

        Args:
            u: `[M]` float32, to the right in the image; 0 to 1 is the texture, which repeats.
            v: `[M]` float32, from row to row.
            footprint: `[M]` float32, the distance of neighbouring rays on the surface in texels of
                the full-size texture.
        """
        level = footprint.log2().clamp_(0, self.levels - 1)
        lower = level.int().clamp_(max=self.levels - 2)
        between = level - lower
        texels, weights = self._corners(lower, u, v, 1 - between)
        more_texels, more_weights = self._corners(lower + 1, u, v, between)
        return Taps(
            torch.stack(texels + more_texels, dim=-1), torch.stack(weights + more_weights, dim=-1)
        )

    def sample(self, texture: Tensor, taps: Taps) -> Tensor:
        """`[M, 4]` float32: the filtered colours of these `[M]` textures."""
        texel = taps.texel + (texture * self.stride).int()[:, None]
        return F.embedding_bag(texel, self.texels, mode="sum", per_sample_weights=taps.weight)

    def _corners(
        self, mip: Tensor, u: Tensor, v: Tensor, by: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The four texels of this level around (u, v), and their weights, which sum to `by`."""
        side = pick(self._sides, mip)
        x, y = u * side - 0.5, v * side - 0.5
        left, top = x.floor(), y.floor()
        x, y = x.sub_(left), y.sub_(top)  # 0 at the left and upper texels, 1 at their neighbours
        # The side is a power of two: the bit mask wraps around, for negative numbers too.
        last = pick(self._last, mip)
        column, row = left.int() & last, top.int() & last
        next_column, next_row = (column + 1) & last, (row + 1) & last
        start, width = pick(self._starts, mip), last + 1
        upper, lower = row * width + start, next_row * width + start
        lower_weight = y * by
        upper_weight = by - lower_weight
        right_upper, right_lower = x * upper_weight, x * lower_weight
        return (
            [upper + column, upper + next_column, lower + column, lower + next_column],
            [upper_weight - right_upper, right_upper, lower_weight - right_lower, right_lower],
        )


def _half(textures: Tensor) -> Tensor:
    """`[T, S / 2, S / 2, 3]` uint8: the means of 2 x 2 texels."""
    sums = textures.unfold(1, 2, 2).unfold(2, 2, 2).int().sum((-1, -2))  # [T, S / 2, S / 2, 3]
    return ((sums + 2) // 4).to(torch.uint8)

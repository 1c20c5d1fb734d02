"""Surface textures at all sizes in one table, and the filter that reads them.

The filter is OpenGL's GL_LINEAR_MIPMAP_LINEAR with GL_REPEAT: isotropic, bilinear in the two
nearest mip levels, linear between them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.raycast.rays import pick


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
        self._sides = sides.float()
        self._last = (sides - 1).int()
        self._starts = (sides**2).cumsum(0).sub_(sides**2).int()

    def sample(self, first: Tensor, u: Tensor, v: Tensor, footprint: Tensor, by: Tensor) -> Tensor:
        """`[M, 4]` float32: the filtered colours, times a number each.

        Args:
            first: `[M]` int32, where in the table the texture begins: its number times `stride`.
            u: `[M]` float32, to the right in the image; 0 to 1 is the texture, which repeats.
            v: `[M]` float32, from row to row.
            footprint: `[M]` float32, the distance of neighbouring rays on the surface in texels of
                the full-size texture.
            by: `[M]` float32, what the colour is multiplied with.
        """
        levels = len(self._sides)
        level = footprint.log2().clamp_(0, levels - 1)
        lower = level.int().clamp_(max=levels - 2)
        between = level - lower
        texels, weights = [], []
        for mip, share in ((lower, by * (1 - between)), (lower + 1, by * between)):
            corners, areas = self._corners(mip, u, v)
            texels += [corner + first for corner in corners]
            weights += [area * share for area in areas]
        return F.embedding_bag(
            torch.stack(texels, dim=-1),
            self.texels,
            mode="sum",
            per_sample_weights=torch.stack(weights, dim=-1),
        )

    def _corners(self, mip: Tensor, u: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The four texels of this level around (u, v), within a texture, and their weights."""
        side, last = pick(self._sides, mip), pick(self._last, mip)
        x, y = u * side - 0.5, v * side - 0.5
        left, top = x.floor(), y.floor()
        right_share, bottom_share = x - left, y - top
        left_share, top_share = 1 - right_share, 1 - bottom_share
        # The side is a power of two: the bit mask wraps around, for negative numbers too.
        column, row = left.int() & last, top.int() & last
        next_column, next_row = (column + 1) & last, (row + 1) & last
        start = pick(self._starts, mip)
        upper, under = row * (last + 1) + start, next_row * (last + 1) + start
        return (
            [upper + column, upper + next_column, under + column, under + next_column],
            [
                top_share * left_share,
                top_share * right_share,
                bottom_share * left_share,
                bottom_share * right_share,
            ],
        )


def _half(textures: Tensor) -> Tensor:
    """`[T, S / 2, S / 2, 3]` uint8: the means of 2 x 2 texels."""
    sums = textures.unfold(1, 2, 2).unfold(2, 2, 2).int().sum((-1, -2))  # [T, S / 2, S / 2, 3]
    return ((sums + 2) // 4).to(torch.uint8)

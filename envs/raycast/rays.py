"""Vectors, and the rays a camera sends through the pixels of an image.

Shapes: N scenes, R rays of each. Vectors are tensors `[3, ...]`, components first: a number per ray
multiplies them by broadcasting, and every operation runs along contiguous memory.

Sums are written out instead of left to reductions and matrix products, whose order of summation
depends on the shape of the batch: a scene's picture must not.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from envs.solids import Camera


class Rays(NamedTuple):
    """Rays of a batch of cameras.

    Attributes:
        origin: `[3, N, 1]` float32, the cameras.
        direction: `[3, N, R]` float32. Not of unit length: one step goes one unit along the viewing
            axis, so that the parameter of a point is its depth.
        own: `[3, R]` float32, the directions as the cameras see them.
        length: `[R]` float32, of the directions.
        sight: `[3, R]` float32, `own` of length 1.
    """

    origin: Tensor
    direction: Tensor
    own: Tensor
    length: Tensor
    sight: Tensor


def camera_rays(camera: Camera, size: int, samples: int, pixels: slice) -> Rays:
    """The rays through these pixels (row by row), `samples` x `samples` in each.

    All first sub-samples come first, then all second ones: their mean is a sum of long rows.
    """
    device = str(camera.position.device)
    own = _directions(camera.fovy, size, samples, device)[..., pixels].flatten(1)  # [3, R]
    direction = rotate(camera.rotation.permute(1, 2, 0)[..., None], own[:, None])
    length = dot(own, own).sqrt()
    return Rays(camera.position.t()[..., None], direction, own, length, own / length)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """`[...]`, the scalar product of `[3, ...]` vectors."""
    x, y, z = (a * b).unbind()
    return (x + y).add_(z)


def rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    """`[3, ...]`: a matrix `[3, 3, ...]` times a vector."""
    return dot(matrix.transpose(0, 1), vector[:, None])


def pick(table: Tensor, rows: Tensor) -> Tensor:
    """The entries of a `[T]` table with these numbers, in their shape."""
    return table.index_select(0, rows.flatten()).view(rows.shape)


def unit(vector: Tensor) -> Tensor:
    """The vector, of length 1."""
    return vector / dot(vector, vector).sqrt()


@lru_cache(maxsize=32)
def _directions(fovy: float, size: int, samples: int, device: str) -> Tensor:
    """`[3, samples ** 2, size ** 2]`: right, up and backward of the rays of an image."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        side = math.tan(math.radians(fovy) / 2)
        ticks = (torch.arange(size * samples, dtype=torch.float64) + 0.5) / (size * samples)
        ticks = ((2 * ticks - 1) * side).view(size, samples).t()  # [samples, size]
        right = ticks[None, :, None, :].expand(samples, samples, size, size)
        up = -ticks[:, None, :, None].expand(samples, samples, size, size)
        table = torch.stack([right, up, -torch.ones_like(right)]).view(3, samples**2, size**2)
        return table.float().to(device)

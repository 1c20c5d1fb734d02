"""The error of a masked mixture: how badly K drawings and their masks explain an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture_error(images: Tensor, log_masks: Tensor, components: Tensor, std: Tensor) -> Tensor:
    """Returns the negative log-likelihood of each image, `[B]`, in nats summed over the image.

    Every pixel's every channel is a mixture of K Gaussians weighted by the masks (paper, equation
    3). The paper reads as one mixture a pixel; the authors' release takes one a pixel *and
    channel*, with the sum over channels outside the logarithm, and so does this. Unlike there the
    sum of exponentials is a log-sum-exp, which small `std` need to stay finite.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        log_masks: `[B, K, 1, H, W]`.
        components: `[B, K, 3, H, W]`.
        std: `[K]` standard deviation of each slot's pixels.
    """
    std = std[None, :, None, None, None]
    z = (images[:, None] - components) / std  # [B, K, 3, H, W]
    log_density = -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(log_masks + log_density, dim=1).sum(dim=(1, 2, 3))

"""The error of masked drawings: how badly K of them and their masks explain an image.

All three functions return nats summed over the image, `[B]`, and take

    images      `[B, 3, H, W]` in [0, 1]
    log_masks   `[B, K, 1, H, W]`
    components  `[B, K, 3, H, W]`
    std         `[K]` standard deviation of each slot's pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    log_density = _log_density(images[:, None], components, std)
    return -torch.logsumexp(log_masks + log_density, dim=1).sum(dim=(1, 2, 3))


def pixel_mixture_error(
    images: Tensor, log_masks: Tensor, components: Tensor, std: Tensor
) -> Tensor:
    """Returns the same with one mixture a pixel, as the paper's equation 3 reads.

    A pixel then belongs to one slot in all of its channels: the channels are multiplied before the
    slots are mixed. At the paper's deviation of 0.7 that hardly matters, at 0.1 it does.
    """
    log_density = _log_density(images[:, None], components, std).sum(dim=2, keepdim=True)
    return -torch.logsumexp(log_masks + log_density, dim=1).sum(dim=(1, 2, 3))


def composite_error(images: Tensor, log_masks: Tensor, components: Tensor, std: Tensor) -> Tensor:
    """Returns the error of a single Gaussian around the blend of all slots.

    Unlike a mixture it asks nothing of a slot but its share of the blend. The deviation is the
    last slot's: there is one blend.
    """
    blend = (log_masks.exp() * components).sum(dim=1, keepdim=True)  # [B, 1, 3, H, W]
    return -_log_density(images[:, None], blend, std[-1:]).sum(dim=(1, 2, 3, 4))


Likelihood = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LIKELIHOODS: dict[str, Likelihood] = {
    "mixture_per_channel": mixture_error,
    "mixture_per_pixel": pixel_mixture_error,
    "gaussian_composite": composite_error,
}


def goal_of(mse: float, std: float) -> float:
    """Returns the error, in nats per pixel and channel, of drawings with that mean squared error.

    GECO's goals are such errors, and mean nothing without their deviation.

    Example:
        >>> round(goal_of(0.00317, std=0.7), 4), round(goal_of(0.001, std=0.1), 4)
        (0.5655, -1.3336)
    """
    return math.log(std) + 0.5 * math.log(2 * math.pi) + mse / (2 * std**2)


def _log_density(values: Tensor, means: Tensor, std: Tensor) -> Tensor:
    """Log densities of values under Gaussians, `[B, K, 3, H, W]`."""
    std = std[None, :, None, None, None]
    z = (values - means) / std
    return -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)

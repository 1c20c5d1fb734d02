"""Frechet distance between two sets of feature vectors, each taken for a Gaussian, in float64.

    d = |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))

(Dowson and Landau, 1982; with Inception features it is the FID of Heusel et al., 2017). What the
features are is none of this file's business.

Shapes: N vectors, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """What the distance is between.

    Attributes:
        mean: `[D]` float64.
        covariance: `[D, D]` float64, divided by N - 1.
    """

    mean: Tensor
    covariance: Tensor


class Moments:
    """Mean and covariance of features that arrive in batches, kept where they are.

    Batches are merged by their deviations from their own means (Chan, Golub and LeVeque, 1983), so
    that nothing is lost where the mean is far larger than the deviations.

    Args:
        features: D.
        device: Where the batches will be.

    Attributes:
        count: How many vectors there were so far.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu"):
        self.count = 0
        self._mean = torch.zeros(features, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(features, features, dtype=torch.float64, device=device)

    def update(self, batch: Tensor) -> None:
        """Adds `[B, D]` features of any floating type."""
        if batch.ndim != 2 or batch.shape[1] != len(self._mean):
            raise ValueError(
                f"features must be [B, {len(self._mean)}], but are {list(batch.shape)}"
            )
        if not len(batch):
            return
        values = batch.detach().to(self._mean.device, torch.float64)
        mean = values.mean(dim=0)
        centred = values - mean
        step, total = mean - self._mean, self.count + len(values)
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(step, step) * (self.count * len(values) / total)
        self._mean += step * (len(values) / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Returns the Gaussian of everything so far.

        Raises:
            ValueError: There were fewer than two vectors, or one was not finite.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 vectors, but there were {self.count}")
        if not bool(self._scatter.isfinite().all()):
            raise ValueError("features hold NaN or infinite values, so they have no distance")
        return Gaussian(self._mean.clone(), self._scatter / (self.count - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Returns the squared Frechet (2-Wasserstein) distance of two Gaussians; 0 if they are equal.

    Covariances may be singular. The trace of the root is the sum of the singular values of
    `root_a^T root_b`, where `root root^T` is the covariance: unlike the eigenvalues of the product
    of the covariances, these are real and not negative, and none of them is the square root of
    a rounding error.

    Raises:
        ValueError: The two have different numbers of features, or values that are not finite.
    """
    for gaussian in (a, b):
        size = len(gaussian.mean)
        if gaussian.covariance.shape != (size, size) or size != len(a.mean):
            raise ValueError(
                "Gaussians must have as many features as each other, got means "
                f"{list(a.mean.shape)} and {list(b.mean.shape)}, covariances "
                f"{list(a.covariance.shape)} and {list(b.covariance.shape)}"
            )
        if not bool(gaussian.mean.isfinite().all() & gaussian.covariance.isfinite().all()):
            raise ValueError("means and covariances must be finite, got NaN or infinite values")
    apart = (a.mean.double() - b.mean.double()).square().sum()
    covariance_a, covariance_b = a.covariance.double(), b.covariance.double()
    shared = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    distance = apart + covariance_a.trace() + covariance_b.trace() - 2 * shared
    return max(float(distance), 0.0)  # for equal Gaussians rounding can end below zero


def _root(covariance: Tensor) -> Tensor:
    """`[D, D]` whose product with its own transpose is the covariance."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    # What rounding makes of a zero eigenvalue; its root would be a thousand times that of the rest.
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1:].abs()
    return vectors * torch.where(values > noise, values, 0.0).sqrt()

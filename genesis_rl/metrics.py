"""Segmentation metrics: foreground ARI and segmentation covering, batched on the device.

Axes: B images, H x W pixels, T ground-truth labels, P predicted labels. Ground-truth label 0 is the
background, and negative labels mark pixels that do not count. Everything follows from one
contingency table per image, so nothing here loops over images, objects or slots.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SegmentationScores(NamedTuple):
    """Scores of B images, float64. Averages must leave out the images that are not `scored`."""

    ari_fg: Tensor  # [B] adjusted Rand index on foreground pixels
    ari: Tensor  # [B] adjusted Rand index on all pixels
    sc: Tensor  # [B] segmentation covering, objects weighted by their area
    msc: Tensor  # [B] segmentation covering, all objects weighted alike
    scored: Tensor  # [B] bool: the image has foreground

    def part(self, images: slice) -> "SegmentationScores":
        """Returns the scores of some of the images."""
        return SegmentationScores(*(field[images] for field in self))

    def means(self) -> dict[str, float]:
        """Returns means over the scored images, their number, and how many were skipped."""
        images = int(self.scored.sum())
        totals = {name: getattr(self, name)[self.scored].sum() for name in self._fields[:4]}
        means = {name: float(total) / max(images, 1) for name, total in totals.items()}
        return {**means, "images": images, "skipped": len(self.scored) - images}


def segment(log_masks: Tensor) -> Tensor:
    """Assigns every pixel to its most likely slot: `[B, K, 1, H, W]` to labels `[B, H, W]`."""
    return log_masks.argmax(dim=1).squeeze(1)


def segmentation_scores(true: Tensor, predicted: Tensor) -> SegmentationScores:
    """Scores label maps `[B, H, W]` with the paper's protocol (Engelcke et al. 2020, section 4.2).

    An image without any foreground says nothing about objects: it is marked as not `scored`.
    """
    sc, msc = segmentation_covering(true, predicted)
    return SegmentationScores(
        ari_fg=adjusted_rand_index(true, predicted),
        ari=adjusted_rand_index(true, predicted, foreground_only=False),
        sc=sc,
        msc=msc,
        scored=(true > 0).flatten(1).any(dim=1),
    )


def adjusted_rand_index(true: Tensor, predicted: Tensor, foreground_only: bool = True) -> Tensor:
    """Adjusted Rand index of each image, equal to scikit-learn's on the pixels that count.

    1 for equal partitions (also when both are one cluster, or when no pixel counts), about 0 for
    unrelated ones. With a single true object the index is 0 as soon as one pixel is split off.

    Args:
        true: Ground-truth labels `[B, H, W]`; 0 is the background, negative is ignored.
        predicted: Predicted labels `[B, H, W]`, not negative.
        foreground_only: Count only pixels whose true label is above 0.

    Returns:
        float64 `[B]`.
    """
    counts = _contingency(true, predicted)
    if foreground_only:
        counts = counts[:, 1:]

    # Ordered pairs of distinct pixels, by whether each partition keeps the pair together.
    pixels = counts.sum(dim=(1, 2))
    together_in_both = counts.square().sum(dim=(1, 2)) - pixels
    together_in_true = counts.sum(dim=2).square().sum(dim=1) - pixels
    together_in_predicted = counts.sum(dim=1).square().sum(dim=1) - pixels

    only_true = together_in_true - together_in_both
    only_predicted = together_in_predicted - together_in_both
    neither = pixels * (pixels - 1) - together_in_true - only_predicted
    above_chance = together_in_both * neither - only_true * only_predicted
    best = together_in_true * (only_true + neither) + together_in_predicted * (
        only_predicted + neither
    )
    equal = (only_true == 0) & (only_predicted == 0)
    return torch.where(equal, 1.0, 2 * above_chance / best.masked_fill(equal, 1.0))


def segmentation_covering(
    true: Tensor, predicted: Tensor, foreground_only: bool = True
) -> tuple[Tensor, Tensor]:
    """How well each true segment is covered by its best predicted one (paper, Eq. 11 and 12).

    Predicted segments span the whole image, so one that leaks into the background is punished.
    An image without true segments scores 0.

    Args:
        true: Ground-truth labels `[B, H, W]`; 0 is the background, negative is ignored.
        predicted: Predicted labels `[B, H, W]`, not negative.
        foreground_only: Leave the background out of the true segments.

    Returns:
        SC, where a segment counts by its area, and mSC, where all count alike: float64 `[B]` each.
    """
    overlap = _contingency(true, predicted)  # [B, T, P]
    true_area = overlap.sum(dim=2)  # [B, T]
    union = true_area[:, :, None] + overlap.sum(dim=1)[:, None] - overlap
    covered = (overlap / union.clamp(min=1)).amax(dim=2)
    if foreground_only:
        covered, true_area = covered[:, 1:], true_area[:, 1:]

    sc = (true_area * covered).sum(dim=1) / true_area.sum(dim=1).clamp(min=1)
    msc = covered.sum(dim=1) / (true_area > 0).sum(dim=1).clamp(min=1)  # empty segments cover 0
    return sc, msc


def _contingency(true: Tensor, predicted: Tensor) -> Tensor:
    """Counts the pixels of every label pair: float64 `[B, T, P]`. Ignored pixels are left out."""
    if true.shape != predicted.shape or true.ndim != 3:
        raise ValueError(
            "label maps must both be [B, H, W], got true "
            f"{list(true.shape)} and predicted {list(predicted.shape)}"
        )
    if true.is_floating_point() or predicted.is_floating_point():
        raise TypeError(
            f"labels must be integers, got true {true.dtype} and predicted {predicted.dtype}; "
            "turn log masks into labels with segment()"
        )
    batch, device = len(true), true.device
    true = true.flatten(1).long()
    predicted = predicted.flatten(1).long()
    if true.numel() == 0:
        return torch.zeros(batch, 2, 1, dtype=torch.float64, device=device)
    lowest, true_labels, predicted_labels = torch.stack(
        [predicted.min(), true.max() + 1, predicted.max() + 1]
    ).tolist()
    if lowest < 0:
        raise ValueError(f"predicted labels must not be negative, got {lowest}")
    true_labels = max(true_labels, 1)

    pair = true.clamp(min=0) * predicted_labels + predicted  # [B, H*W]
    counts = torch.zeros(
        batch, true_labels * predicted_labels, dtype=torch.long, device=pair.device
    )
    counts.scatter_add_(1, pair, (true >= 0).long())  # integers: the same on every device
    return counts.view(batch, true_labels, predicted_labels).double()

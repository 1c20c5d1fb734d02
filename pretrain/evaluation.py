"""How good a model is on images that it was not trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genesis_rl.metrics import SegmentationScores, segment, segmentation_scores

_BATCH = 64


@torch.no_grad()
def validate(
    model: Any, images: Tensor, masks: Tensor | None, *, autocast: Any, seed: int
) -> dict[str, float]:
    """Measures error and KL on samples, segmentation on posterior means. The model stays as it is.

    Args:
        model: Any of the models, in whatever mode.
        images: `[N, H, W, 3]` uint8, on the model's device.
        masks: `[N, H, W]` integers, 0 for the background; None for data without ground truth.
        autocast: Called for a context: the precision of the convolutions.
        seed: Of the noise, which is drawn apart from the global generator.

    Returns:
        Means over the images: `error` in nats per pixel and channel, `kl`, `mask_kl` and
        `component_kl` in nats per image, and, with ground truth, `ari_fg`, `sc` and `msc`.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = torch.zeros(3, dtype=torch.float64)
    scores: list[SegmentationScores] = []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(images), _BATCH):
            batch = to_float(images[start : start + _BATCH])
            noise = torch.randn(
                len(batch), model.num_slots, model.slot_dim, generator=generator
            ).to(batch.device)
            with autocast():
                output = model(batch, noise)
            parts = torch.stack([output.error, output.mask_kl.sum(1), output.component_kl.sum(1)])
            sums += parts.double().sum(dim=1).cpu()
            if masks is not None:
                with autocast():
                    labels = segment(model.decompose(batch).log_masks)
                scores.append(segmentation_scores(masks[start : start + _BATCH].long(), labels))
    finally:
        model.train(was_training)
    error, mask_kl, component_kl = (sums / len(images)).tolist()
    result = {
        "error": error / images[0].numel(),
        "kl": mask_kl + component_kl,
        "mask_kl": mask_kl,
        "component_kl": component_kl,
    }
    if scores:
        joined = SegmentationScores(*(torch.cat(parts) for parts in zip(*scores, strict=True)))
        means = joined.means()
        result |= {name: means[name] for name in ("ari_fg", "sc", "msc")}
    return result


def to_float(images: Tensor) -> Tensor:
    """Turns `[B, H, W, 3]` uint8 into `[B, 3, H, W]` in [0, 1], laid out channels-last."""
    return images.permute(0, 3, 1, 2).float() / 255

"""Pictures of a training run: decompositions of validation images, and samples.

Shapes: B images, K slots, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy import uint8
from numpy.typing import NDArray
from torch import Tensor

from genesis_rl.durable import replace_file
from genesis_rl.models.genesis import Decomposition
from genesis_rl.pictures import decomposition_picture, slot_colours, tile
from pretrain.evaluation import to_float

Picture = NDArray[uint8]  # [height, width, 3] RGB


@torch.no_grad()
def draw(model: Any, images: Tensor, *, autocast: Any, seed: int) -> dict[str, Picture]:
    """Decomposes images and dreams up as many, by noise of that seed. The model stays as it is.

    Args:
        model: Any of the models, in whatever mode.
        images: `[B, H, W, 3]` uint8, on the model's device.
        autocast: Called for a context: the precision of the convolutions.
        seed: Of the noise, which is drawn apart from the global generator.
    """
    shape = (len(images), model.num_slots, model.slot_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    was_training = model.training
    model.eval()
    try:
        with autocast():
            floats = to_float(images)
            decomposed = model.decompose(floats)
            dreamt = model.sample(len(images), noise.to(images.device))
    finally:
        model.train(was_training)
    return {
        "decomposition": decomposition_grid(floats, decomposed),
        "samples": sample_grid(dreamt),
    }


def decomposition_grid(images: Tensor, output: Decomposition) -> Picture:
    """Shows one image a row: itself, reconstruction, overlay, K masks, K components."""
    return decomposition_picture(images, output)


def sample_grid(sample: Decomposition) -> Picture:
    """Shows one dream a row: image, slots in their tints, what each of K slots adds, on grey."""
    masks = sample.masks.float()  # [B, K, 1, H, W]
    tints = torch.tensor(slot_colours(masks.shape[1]), device=masks.device) / 255
    # Grey, because on black or white a part of that colour could not be told from no part.
    parts = masks * sample.components.float() + (1 - masks) * 0.5
    segmentation = (masks * tints[:, :, None, None]).sum(dim=1)
    views = torch.cat([sample.reconstruction[:, None], segmentation[:, None], parts], dim=1)
    levels = (views.clamp(0, 1) * 255).round().to(torch.uint8)  # [B, 2 + K, 3, H, W]
    return tile(levels.permute(0, 1, 3, 4, 2).cpu().numpy())


def write_png(path: Path, picture: Picture) -> None:
    """Writes a picture, whole or not at all; its folder is made if missing."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", picture[:, :, ::-1])
    replace_file(path, data.tobytes())

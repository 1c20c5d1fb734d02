"""Pictures of what a model sees: decompositions and samples as one uint8 image each.

Shapes: B images, K slots, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genesis_rl.models.genesis import Decomposition

# Okabe and Ito's colours, which stay apart for colour-blind eyes; slots beyond eight start over.
PALETTE = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_GAP = 2  # pixels between pictures


def decomposition_grid(images: Tensor, output: Decomposition) -> Tensor:
    """Shows one image a row: input, reconstruction, segmentation, K masks, K masked components.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        output: What the model made of them.

    Returns:
        `[rows, columns, 3]` uint8.
    """
    masks = output.masks.expand_as(output.components)
    row = [
        images[:, None],
        output.reconstruction[:, None],
        segmentation(output)[:, None],
        masks,
        _on_grey(output),
    ]
    return tile(torch.cat([part.float().cpu() for part in row], dim=1))


def sample_grid(sample: Decomposition) -> Tensor:
    """Shows one dream a row, in the same way, without the columns that need an input."""
    row = [sample.reconstruction[:, None], segmentation(sample)[:, None], _on_grey(sample)]
    return tile(torch.cat([part.float().cpu() for part in row], dim=1))


def segmentation(output: Decomposition) -> Tensor:
    """Paints every pixel in the colour of the slot that owns most of it: `[B, 3, H, W]`."""
    owner = output.log_masks.argmax(dim=1).squeeze(1).cpu()  # [B, H, W]
    colours = torch.tensor(PALETTE) / 255
    return colours[owner % len(PALETTE)].permute(0, 3, 1, 2)


def tile(pictures: Tensor) -> Tensor:
    """Lays `[rows, columns, 3, H, W]` in [0, 1] out as one `[height, width, 3]` uint8 image."""
    rows, columns, _, height, width = pictures.shape
    sheet = torch.ones(3, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    for r in range(rows):
        for c in range(columns):
            top, left = r * (height + _GAP), c * (width + _GAP)
            sheet[:, top : top + height, left : left + width] = pictures[r, c]
    return (sheet.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)


def write_png(path: Path, image: Tensor) -> None:
    """Writes a `[height, width, 3]` uint8 RGB image."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", image.numpy()[:, :, ::-1])
    path.write_bytes(data.tobytes())


def _on_grey(output: Decomposition) -> Tensor:
    """What each slot adds, on middle grey, which no mask can be mistaken for: `[B, K, 3, H, W]`."""
    return output.masks * output.components + (1 - output.masks) * 0.5

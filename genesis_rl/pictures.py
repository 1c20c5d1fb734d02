"""Pictures of what the encoder sees: frame, reconstruction, overlay, masks, components.

Shapes: B images, K slots, H x W pixels.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_rl.checkpoint import load_checkpoint, resolve_checkpoint
from genesis_rl.checkpoint_files import MANIFEST
from genesis_rl.encoder import GenesisEncoder
from genesis_rl.models.slots import Decomposition, SlotModel
from genesis_rl.wrappers.frames import FrameFormat

# Okabe and Ito's colours, which colour-blind people tell apart too; one a slot, in this order.
PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (120, 120, 120),
    (0, 0, 0),
)
_BORDER = 255


def render_slots(
    frame: Any, checkpoint: str | os.PathLike[str] | GenesisEncoder | SlotModel, *, scale: int = 2
) -> NDArray[np.uint8]:
    """Returns a picture of a frame and of what a model makes of it, ready for a video.

    From left to right: the frame as the encoder sees it, its reconstruction, the frame tinted by
    slot, K masks in their slots' tints, K components. All pictures of a model have the same size.

    Args:
        frame: `[H, W, 3]` or any other format that the wrappers accept.
        checkpoint: A shipped id, a path, an encoder, or the model itself. The full model is loaded
            at the first picture and kept.
        scale: Side of the square that shows a pixel.
    """
    if isinstance(checkpoint, SlotModel):
        model = checkpoint
    elif isinstance(checkpoint, GenesisEncoder):
        model = full_model(checkpoint.checkpoint)
    else:
        model = full_model(checkpoint)
    if not isinstance(frame, Tensor):
        frame = np.asarray(frame)
    dtype = np.dtype(str(frame.dtype).removeprefix("torch."))
    form = FrameFormat.of(tuple(frame.shape), dtype, low=0.0, high=1.0)
    return picture_of(form.to_images(frame[None], model.image_size), model, scale=scale)


def picture_of(images: Tensor, model: SlotModel, *, scale: int = 2) -> NDArray[np.uint8]:
    """Returns the decomposition of uint8 `[B, 3, S, S]` images by a model, as one picture."""
    if model.training:
        raise ValueError("pictures need the model in eval mode: call model.eval() first")
    pixels = images.to(next(model.parameters()).device).float() / 255
    return decomposition_picture(pixels, model.decompose(pixels), scale=scale)


def decomposition_picture(
    images: Tensor, output: Decomposition, *, scale: int = 1, gap: int = 2
) -> NDArray[np.uint8]:
    """Draws a decomposition, one row an image.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        output: What a model returned for them.
        scale: Side of the square that shows a pixel.
        gap: Pixels between two views.

    Returns:
        uint8 RGB: per row frame, reconstruction, overlay, K masks and K components.
    """
    masks = output.masks.float()  # [B, K, 1, H, W]
    tints = torch.tensor(slot_colours(masks.shape[1]), device=masks.device) / 255  # [K, 3]
    overlay = 0.4 * images + 0.6 * (masks * tints[:, :, None, None]).sum(dim=1)
    # A tint on black would make a black slot invisible; on white, all of them show.
    tinted = 1 - masks * (1 - tints[:, :, None, None])  # [B, K, 3, H, W]
    views = torch.cat(
        [
            torch.stack([images.float(), output.reconstruction.float(), overlay], dim=1),
            tinted,
            output.components.float(),
        ],
        dim=1,
    )  # [B, 3 + 2 K, 3, H, W]
    levels = (views.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return tile(levels.transpose(0, 1, 3, 4, 2).repeat(scale, axis=2).repeat(scale, axis=3), gap)


def tile(views: NDArray[np.uint8], gap: int = 2) -> NDArray[np.uint8]:
    """Puts `[rows, columns, H, W, 3]` views side by side, with gaps between and around them."""
    around = [(0, 0), (0, 0), (gap, 0), (gap, 0), (0, 0)]
    padded = np.pad(views, around, constant_values=_BORDER)
    rows, columns, height, width, _ = padded.shape
    grid = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return np.pad(grid, [(0, gap), (0, gap), (0, 0)], constant_values=_BORDER)


def slot_colours(count: int) -> list[tuple[int, int, int]]:
    """Returns one colour a slot; beyond the palette they repeat, lighter each time."""
    colours = []
    for k in range(count):
        share = 0.6 ** (k // len(PALETTE))
        colour = [round(255 - (255 - level) * share) for level in PALETTE[k % len(PALETTE)]]
        colours.append((colour[0], colour[1], colour[2]))
    return colours


def full_model(id_or_path: str | os.PathLike[str]) -> SlotModel:
    """Returns a checkpoint's whole model, on the CPU; loaded once per content."""
    folder = resolve_checkpoint(id_or_path).resolve()
    manifest = folder / MANIFEST
    content = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""
    return _load(str(folder), content)


@lru_cache(maxsize=2)
def _load(folder: str, content: str) -> SlotModel:
    model: SlotModel = load_checkpoint(folder)
    return model

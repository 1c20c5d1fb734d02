"""Figures of how a model works: images taken apart, and composed, step by step.

The functions return `Panel`s, grids of titled views that are plain arrays; whoever puts them on
paper decides how (`python -m benchmarks.figures` does).

Shapes: B images, K slots, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_rl.models.slots import Decomposition
from genesis_rl.pictures import slot_colours

_CHECKS = (0.98, 0.88)  # greys of the chequered ground that shows through where nothing is painted

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """A grid of views with a title over each column and beside each row.

    Attributes:
        views: `[rows, columns, S, S, 3]` uint8 RGB.
        rows: A title for each row.
        columns: A title for each column.
        colours: A slot's colour for each column; None where columns are not slots.
        heads: Views `[S, S, 3]` that belong beside the grid, larger, each under its title.
    """

    views: NDArray[np.uint8]
    rows: Sequence[str]
    columns: Sequence[str]
    colours: Sequence[Colour] | None = None
    heads: Sequence[tuple[str, NDArray[np.uint8]]] = ()


def decomposition_panels(images: Tensor, output: Decomposition) -> list[Panel]:
    """Shows how a model takes images apart, one panel an image, one column a step.

    Rows: the scope that earlier steps left (white: everything), the mask that this step takes of
    it, the component that it draws, and that component in its mask.

    Args:
        images: `[B, 3, S, S]` in [0, 1].
        output: What the model returned for them.
    """
    rows = "scope", "mask", "component", "masked"
    views = torch.stack([*_steps(output), over_checks(output.masks, output.components)], dim=1)
    heads = {"input": images, "reconstruction": output.reconstruction}
    return _panels_of_steps(views, rows, heads)


def generation_panels(sample: Decomposition) -> list[Panel]:
    """Shows how a model composes images of its own, one panel an image, one column a step.

    Rows: the scope that earlier steps left, the mask, the component, and the canvas with all that
    has been painted so far.
    """
    rows = "scope", "mask", "component", "canvas"
    views = torch.stack([*_steps(sample), canvases_over_checks(sample)], dim=1)
    heads = {"sample": sample.reconstruction, "slots": segments(sample)}
    return _panels_of_steps(views, rows, heads)


def building_frames(output: Decomposition, images: Tensor | None = None) -> list[Panel]:
    """Shows B canvases side by side while they are being painted: K + 1 frames of an animation.

    Args:
        output: A decomposition or a sample.
        images: `[B, 3, S, S]` what is being decomposed; None if it is a sample.
    """
    masked = over_checks(output.masks, output.components)
    empty = over_checks(torch.zeros_like(masked[:, :1]), torch.zeros_like(masked[:, :1]))
    canvases = torch.cat([empty, canvases_over_checks(output)], dim=1)  # [B, K + 1, 3, S, S]
    parts = torch.cat([empty, masked], dim=1)
    colours = [(255, 255, 255), *slot_colours(masked.shape[1])]
    frames = []
    for k, colour in enumerate(colours):
        shown = {} if images is None else {"input": images}
        shown |= {"canvas": canvases[:, k], "component": parts[:, k]}
        titles = [f"k = {k}" if k else ""] * len(masked)
        views = to_levels(torch.stack(list(shown.values())))
        frames.append(Panel(views, list(shown), titles, [colour] * len(masked)))
    return frames


def over_checks(opacity: Tensor, pixels: Tensor) -> Tensor:
    """Lays `[..., 3, S, S]` pixels of some `[..., 1, S, S]` opacity on a chequered ground."""
    return opacity * pixels + (1 - opacity) * _checks(pixels)


def canvases_over_checks(output: Decomposition) -> Tensor:
    """`[B, K, 3, S, S]` the image after 1, 2, ... K slots were painted on a chequered ground."""
    left = output.scopes - output.masks  # [B, K, 1, S, S]
    return output.canvases + left.clamp(min=0) * _checks(output.components)


def segments(output: Decomposition) -> Tensor:
    """`[B, 3, S, S]` every pixel in the colours of the slots that own it."""
    return (output.masks * tints(output.masks)).sum(dim=1)


def tinted(masks: Tensor) -> Tensor:
    """`[B, K, 3, S, S]` masks in their slots' colours, on white."""
    return 1 - masks * (1 - tints(masks))


def tints(masks: Tensor) -> Tensor:
    """`[K, 3, 1, 1]` colours for `[B, K, 1, S, S]` masks."""
    return torch.tensor(slot_colours(masks.shape[1]), device=masks.device)[..., None, None] / 255


def to_levels(views: Tensor) -> NDArray[np.uint8]:
    """Turns `[..., 3, S, S]` floats in [0, 1] into `[..., S, S, 3]` uint8."""
    levels = (views.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    array: NDArray[np.uint8] = levels.movedim(-3, -1).cpu().numpy()
    return array


def _steps(output: Decomposition) -> tuple[Tensor, Tensor, Tensor]:
    """Scopes in grey, masks in their slots' colours, components: all `[B, K, 3, S, S]`."""
    scopes = output.scopes.expand_as(output.components)
    return scopes, tinted(output.masks), output.components


def _panels_of_steps(views: Tensor, rows: Sequence[str], heads: dict[str, Tensor]) -> list[Panel]:
    """Makes one panel an image of `[B, rows, K, 3, S, S]` views."""
    slots = views.shape[2]
    columns, colours = [f"k = {k + 1}" for k in range(slots)], slot_colours(slots)
    beside = {title: to_levels(images) for title, images in heads.items()}
    return [
        Panel(grid, rows, columns, colours, [(title, view[i]) for title, view in beside.items()])
        for i, grid in enumerate(to_levels(views))
    ]


def _checks(like: Tensor) -> Tensor:
    """`[1, S, S]` grey fields, eight a side."""
    height, width = like.shape[-2:]
    side = max(1, height // 8)
    down = torch.arange(height, device=like.device)[:, None] // side
    across = torch.arange(width, device=like.device) // side
    light, dark = _CHECKS
    return (light - (light - dark) * ((down + across) % 2))[None].to(like.dtype)

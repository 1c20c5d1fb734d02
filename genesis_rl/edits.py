"""Figures of what latents mean: single numbers of a slot moved, slots swapped between scenes.

Shapes: B images, K slots, S x S pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genesis_rl.figures import Panel, over_checks, segments, tinted, to_levels
from genesis_rl.models.slots import Decomposition, SlotModel

_ON_BORDER = 0.1  # a slot that owns more than this share of the border pixels is background
_BATCH = 8  # images at a time: mask decoders hold K stacks of full-size maps for each


@torch.no_grad()
def traversal_panels(
    model: SlotModel,
    images: Tensor,
    *,
    slots: Sequence[int] | None = None,
    dimensions: int = 4,
    deviations: Sequence[float] = (-2, -1, 0, 1, 2),
) -> list[Panel]:
    """Shows what single numbers of a slot mean, on the first of the images.

    Those of a slot's numbers are shown whose posterior means vary most over the images: an unused
    one stays where its prior is. Each is moved away from its posterior mean, by multiples of its
    standard deviation over the images, and the whole image is decoded again. Every other number of
    every slot stays at its posterior mean, so the column titled 0 is the reconstruction.

    In GENESIS a slot claims part of what the slots before it left. Mask latents of the first slot
    therefore shape all others, whose own claims stay as they are; those of a later slot only act
    inside its scope, and those of the last slot not at all.

    Args:
        model: In eval mode.
        images: `[B, 3, S, S]` in [0, 1], B >= 2.
        slots: From 0; None takes the first and the largest foreground slot.
        dimensions: How many to show of either kind of latents.
        deviations: How far to move them, in standard deviations.

    Returns:
        A panel a slot of its component latents ("what"), then a panel a slot of its mask latents
        ("where"); of models that have one kind of latents, a panel a slot.
    """
    if len(images) < 2:
        raise ValueError(
            f"a traversal needs at least 2 images to see how much latents vary, got {len(images)}"
        )
    latents = torch.cat([model.encode(part) for part in images.split(_BATCH)])  # [B, K, D]
    drawn = model.decode(latents[:1])
    if slots is None:
        slots = sorted({0, foreground_slots(model, drawn)[0]})
    for slot in slots:
        check_slot(model, slot)
    panels = []
    for name, numbers in _kinds(model).items():
        for slot in slots:
            spread = latents[:, slot].std(dim=0)  # [D]
            chosen = sorted(numbers, key=lambda d: -float(spread[d]))[:dimensions]
            moved = traverse(latents[0], slot, chosen, deviations, spread)
            panels.append(
                Panel(
                    views=to_levels(_decode(model, moved).unflatten(0, (len(chosen), -1))),
                    rows=[f"{name} {d - numbers[0] + 1}" for d in chosen],
                    columns=[f"{shift:+g} sd" if shift else "0" for shift in deviations],
                    heads=_heads_of_slot(name, slot, images[0], drawn),
                )
            )
    return panels


def traversal_frames(panels: Sequence[Panel]) -> list[Panel]:
    """Turns the columns of traversals into frames, there and back: a row a panel, all moving."""
    steps = [*range(len(panels[0].columns)), *range(len(panels[0].columns) - 2, 0, -1)]
    shown = min(len(panel.rows) for panel in panels)
    rows = [panel.heads[1][0] for panel in panels]
    return [
        Panel(
            views=np.stack([panel.views[:shown, step] for panel in panels]),
            rows=rows,
            columns=[panels[0].columns[step]] * shown,
        )
        for step in steps
    ]


def traverse(
    latents: Tensor,
    slot: int,
    dimensions: Sequence[int],
    deviations: Sequence[float],
    spread: Tensor,
) -> Tensor:
    """Moves one number at a time of one slot.

    Args:
        latents: `[K, D]` of one image.
        slot: Whose.
        dimensions: N of its D.
        deviations: P distances, in units of `spread`.
        spread: `[D]` standard deviations.

    Returns:
        `[N * P, K, D]`, dimension by dimension.
    """
    moved = latents.repeat(len(dimensions), len(deviations), 1, 1)  # [N, P, K, D]
    steps = torch.tensor(deviations, dtype=latents.dtype, device=latents.device)
    for n, dimension in enumerate(dimensions):
        moved[n, :, slot, dimension] += steps * spread[dimension]
    return moved.flatten(end_dim=1)


@torch.no_grad()
def swap_panels(
    model: SlotModel, images: Tensor, slots: tuple[int, int] | None = None
) -> list[Panel]:
    """Exchanges one slot between the two scenes of each pair, one panel a pair.

    A slot is its mask latent and its component latent, both at their posterior means. They replace
    those of the other scene's slot, and both scenes are decoded again; all other slots keep their
    posterior means. Nothing is inferred anew: later slots that conditioned on a stranger would
    explain an image that nobody has seen, and more than one slot would have changed.

    In GENESIS a mask latent says what to claim of what earlier slots left. A slot that arrives
    therefore fills the gap of the one that went, with its own looks and as much of its own outline
    as the gap allows; later slots get what remains under their own, unchanged claims. The last slot
    has no claim, so only its looks could be exchanged: it is never chosen automatically.

    Args:
        model: In eval mode, with at least two slots.
        images: `[2 N, 3, S, S]` in [0, 1]: scene A and scene B of each pair.
        slots: A's and B's, from 0; None takes the largest foreground slot of each.
    """
    if model.num_slots < 2:
        raise ValueError(
            f"a swap needs a model with at least 2 slots, but {type(model).__name__} has "
            f"{model.num_slots}, which owns every pixel"
        )
    latents = model.encode(images)
    before = model.decode(latents)
    if slots is None:
        chosen = torch.tensor(foreground_slots(model, before))
    else:
        chosen = torch.tensor([check_slot(model, slot) for slot in slots]).repeat(len(images) // 2)
    after = model.decode(swap(latents, chosen))
    parts = over_checks(before.masks, before.components)
    shown = {
        "input": images,
        "reconstruction": before.reconstruction,
        "slots": segments(before),
        "moved slot": parts[torch.arange(len(images)), chosen],
        "after": after.reconstruction,
        "slots after": segments(after),
    }
    views = to_levels(torch.stack(list(shown.values()), dim=1))  # [2 N, columns, S, S, 3]
    rows = [f"{'AB'[i % 2]}, slot {slot + 1}" for i, slot in enumerate(chosen.tolist())]
    pairs = [slice(i, i + 2) for i in range(0, len(views), 2)]
    return [Panel(views[pair], rows[pair], list(shown)) for pair in pairs]


def swap(latents: Tensor, slots: Tensor) -> Tensor:
    """Exchanges a slot between scenes 0 and 1, 2 and 3, and so on.

    Args:
        latents: `[2 N, K, D]`.
        slots: `[2 N]` which slot of each scene.

    Returns:
        `[2 N, K, D]`.
    """
    scenes = torch.arange(len(latents))
    other = scenes ^ 1
    swapped = latents.clone()
    swapped[scenes, slots] = latents[other, slots[other]]
    return swapped


def foreground_slots(model: SlotModel, output: Decomposition) -> list[int]:
    """Returns each image's largest slot that is neither background nor, in GENESIS, the remainder.

    Background is what owns a good part of the image's border. Where all slots do, or those that do
    not are empty, the largest of all is returned.
    """
    owner = output.log_masks.argmax(dim=1)[:, 0]  # [B, S, S]
    owned = F.one_hot(owner, model.num_slots).float()  # [B, S, S, K]
    if model.latent_sizes[0] and model.num_slots > 1:
        owned = owned[..., :-1]  # the last slot takes what is left, its mask latent is unused
    sides = owned[:, 0], owned[:, -1], owned[:, :, 0], owned[:, :, -1]
    border, area = torch.cat(sides, dim=1).mean(dim=1), owned.mean(dim=(1, 2))  # [B, K]
    inside = (border < _ON_BORDER) & (area > 0)
    chosen: list[int] = torch.where(inside, area, area - 1).argmax(dim=1).tolist()
    return chosen


def check_slot(model: SlotModel, slot: int) -> int:
    """Returns the slot if the model has it.

    Raises:
        ValueError: It has not; slots are counted from 1 in the message, as in the figures.
    """
    if not 0 <= slot < model.num_slots:
        raise ValueError(f"slots go from 1 to {model.num_slots}, but got {slot + 1}")
    return slot


def _kinds(model: SlotModel) -> dict[str, range]:
    """The kinds of numbers that the model's slots have, and which of the D they are."""
    where, what = model.latent_sizes
    if not (where and what):
        return {"latent": range(where + what)}
    return {"what": range(where, where + what), "where": range(where)}


def _heads_of_slot(
    name: str, slot: int, image: Tensor, drawn: Decomposition
) -> list[tuple[str, NDArray[np.uint8]]]:
    """What stands beside a slot's traversals: the scene, and the slot's part or its mask."""
    if name == "where":
        mask = tinted(drawn.masks)[0, slot]
        heads = {"reconstruction": drawn.reconstruction[0], f"mask {slot + 1}": mask}
    else:
        part = over_checks(drawn.masks, drawn.components)[0, slot]
        heads = {"input": image, f"slot {slot + 1}": part}
    return [(title, to_levels(view)) for title, view in heads.items()]


def _decode(model: SlotModel, latents: Tensor) -> Tensor:
    """`[N, 3, S, S]` images of `[N, K, D]` latents, a few at a time."""
    return torch.cat([model.decode(part).reconstruction for part in latents.split(_BATCH)])

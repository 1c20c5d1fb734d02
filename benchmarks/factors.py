"""What a dataset knows about its images beside their pixels, as one class number per factor.

Factors are a function of the image: what cannot be seen (an object behind another one, the order in
which objects were listed) is not among them. `benchmarks/factor_features.py` learns features from
them.

Shapes: N images, H x W pixels, F factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.rooms import RING_RADIUS, ROOM_SHAPES, Rooms
from envs.scene import SHAPES, SpriteScene
from envs.textures import ROOM_FLOORS, ROOM_WALLS

ABSENT = -100  # the label of a factor that an image does not have
# How finely factors are told apart: levels of a colour's channel, places along a side, areas, and
# angles within a quarter turn.
LEVELS, PLACES, AREAS, ANGLES = 5, 8, 6, 8

_Found = dict[str, tuple[Tensor, int]]  # labels [N] by name, and the number of classes


class LabelledImages(NamedTuple):
    """Images, and what is true of them.

    Attributes:
        images: `[N, H, W, 3]` uint8, on the CPU.
        labels: `[N, F]` int64; `ABSENT` where an image does not have the factor.
        names: Of the F factors.
        sizes: How many classes each has.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, ...]


def read_labelled(dataset: Any, rows: Tensor) -> LabelledImages:
    """Reads images, and whatever the dataset knows about them.

    Instance masks tell about any dataset. Beyond that Multi-dSprites knows its sprites (`scenes`),
    ShapeStacks its towers (`labels`), and GQN its `cameras`, `[N, 5]`, and, if it was generated,
    its `rooms`.

    Raises:
        ValueError: There is nothing.
    """
    batch = dataset.batch(rows)
    found: _Found = {}
    largest = None
    if batch.masks is not None:
        largest = largest_object(batch.masks, dataset.num_slots)
        found |= _mask_factors(batch.images, batch.masks, largest, dataset.num_slots)
    scenes = _known(dataset, "scenes", rows)
    if scenes is not None and largest is not None:
        found |= _sprite_factors(scenes, batch.masks, largest)
    if hasattr(dataset, "labels"):
        towers = dataset.labels(rows)
        found |= {"stability": (towers.stability, 2), "height": (towers.height, 5)}
        found |= {"view": (towers.view, 16)}
    if hasattr(dataset, "cameras"):
        cameras = dataset.cameras(rows)
        found["camera angle"] = _angles(cameras), ANGLES
        rooms = _known(dataset, "rooms", rows)
        found |= _room_factors(rooms, cameras) if rooms is not None else {}
    if not found:
        raise ValueError(
            f"dataset {dataset.name!r} has no masks, labels or cameras to learn factor features "
            "from; give --inception-weights for the FID, or take multi_dsprites or shapestacks"
        )
    labels = torch.stack([label.cpu().long() for label, _ in found.values()], dim=1)
    sizes = tuple(size for _, size in found.values())
    return LabelledImages(batch.images.cpu(), labels, tuple(found), sizes)


def only(labelled: LabelledImages, names: Sequence[str]) -> LabelledImages:
    """The same with these factors alone, in this order.

    Raises:
        ValueError: It does not have all of them.
    """
    missing = [name for name in names if name not in labelled.names]
    if missing:
        raise ValueError(f"factors {', '.join(missing)} of the train split are not known here")
    at = [labelled.names.index(name) for name in names]
    sizes = tuple(labelled.sizes[k] for k in at)
    return LabelledImages(labelled.images, labelled.labels[:, at], tuple(names), sizes)


def largest_object(masks: Tensor, num_slots: int) -> Tensor:
    """Returns `[N]` the label of the object with the most pixels; 0 if there is none."""
    areas = _areas(masks, num_slots)
    areas[:, 0] = 0
    return areas.argmax(dim=1)


def _mask_factors(images: Tensor, masks: Tensor, largest: Tensor, num_slots: int) -> _Found:
    """How many objects are seen; the background's colour; place, area, colour of the largest."""
    seen = _areas(masks, num_slots)[:, 1:] > 0
    found: _Found = {"objects": (seen.sum(dim=1), num_slots)}
    region = (masks == largest[:, None, None]) & (masks > 0)
    found |= _colour("background", images, masks == 0)
    found |= _colour("object", images, region)

    size = masks.shape[-1]
    middles = (torch.arange(size, device=masks.device) + 0.5) / size
    columns, rows = region.float().sum(dim=1), region.float().sum(dim=2)  # [N, W], [N, H]
    area = columns.sum(dim=1)
    for name, profile in (("object x", columns), ("object y", rows)):
        place = (profile * middles).sum(dim=1) / area.clamp(min=1)
        found[name] = _or_absent((place * PLACES).long(), area), PLACES
    # Doubling from 1/256 of the image on: 16, 32, .. pixels of 64 x 64.
    doublings = (area.clamp(min=1) * 256 / size**2).log2().floor().long().clamp(0, AREAS - 1)
    found["object area"] = _or_absent(doublings, area), AREAS
    return found


def _sprite_factors(scenes: SpriteScene, masks: Tensor, largest: Tensor) -> _Found:
    """Shape and scale of the largest sprite, and how many of each shape are seen."""
    sprites = scenes.shape.shape[1]
    row = (largest - 1).clamp(min=0)[:, None]
    area = (largest > 0).long()
    scale = ((scenes.scale.gather(1, row)[:, 0] - 0.5) * 10).round().long().clamp(0, 5)
    found = {
        "object shape": (_or_absent(scenes.shape.gather(1, row)[:, 0], area), len(SHAPES)),
        "object scale": (_or_absent(scale, area), 6),
    }
    seen = _areas(masks, sprites + 1)[:, 1:] > 0
    for number, name in enumerate(SHAPES):
        found[f"{name}s"] = ((scenes.shape == number) & seen).sum(dim=1), sprites + 1
    return found


def _room_factors(rooms: Rooms, cameras: Tensor) -> _Found:
    """Floor, walls, how many objects there are, and the shape and colour of the nearest."""
    eye = RING_RADIUS * cameras[:, None, :2]  # positions are stored on the unit circle
    distance = (rooms.place - eye).norm(dim=2).masked_fill(~rooms.present, math.inf)
    first = distance.argmin(dim=1)[:, None]
    colour = rooms.colour.gather(1, first[..., None].expand(-1, -1, 3))[:, 0]
    levels = (colour * (LEVELS - 1)).round().long()
    found = {
        "floor": (rooms.floor, len(ROOM_FLOORS)),
        "wall": (rooms.wall, len(ROOM_WALLS)),
        "present": (rooms.present.sum(dim=1), rooms.present.shape[1] + 1),
        "nearest shape": (rooms.shape.gather(1, first)[:, 0], len(ROOM_SHAPES)),
    }
    channels = zip(("red", "green", "blue"), levels.unbind(1), strict=True)
    return found | {f"nearest {hue}": (level, LEVELS) for hue, level in channels}


def _known(dataset: Any, what: str, rows: Tensor) -> Any:
    """What a dataset knows of its images under this name; None if it does not."""
    try:
        return getattr(dataset, what)(rows) if hasattr(dataset, what) else None
    except ValueError:  # files hold images and masks only
        return None


def _colour(name: str, images: Tensor, region: Tensor) -> _Found:
    """The mean colour of a region, in five levels a channel."""
    weights = region.flatten(1)[:, None].float()  # [N, 1, H * W]
    area = weights.sum(dim=(1, 2))
    total = (weights @ images.flatten(1, 2).float())[:, 0]  # [N, 3]
    levels = (total / area.clamp(min=1)[:, None] * ((LEVELS - 1) / 255)).round().long()
    channels = zip(("red", "green", "blue"), levels.unbind(1), strict=True)
    return {f"{name} {hue}": (_or_absent(level, area), LEVELS) for hue, level in channels}


def _angles(cameras: Tensor) -> Tensor:
    """The angle of a camera on its ring; the walls of a room look alike after a quarter turn."""
    turn = torch.atan2(cameras[:, 1], cameras[:, 0]) / (math.pi / 2)
    return ((turn - turn.floor()) * ANGLES).long().clamp(max=ANGLES - 1)


def _areas(masks: Tensor, labels: int) -> Tensor:
    """`[N, labels]` pixels of each."""
    first = torch.arange(len(masks), device=masks.device)[:, None] * labels
    counts = (masks.flatten(1).long() + first).flatten().bincount(minlength=len(masks) * labels)
    return counts.view(len(masks), labels)


def _or_absent(labels: Tensor, area: Tensor) -> Tensor:
    return labels.masked_fill(area == 0, ABSENT)

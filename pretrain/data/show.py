"""Draws a contact sheet of a dataset: images, their masks in colour, and what is known of them.

    python -m pretrain.data show shapestacks --data-dir DIR --split test --out sheet.png
    python -m pretrain.data show DIR

GQN datasets show all views of a scene in a row, others an image in each cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_rl.pictures import slot_colours, tile
from pretrain.data import DATASETS, can_generate, load, parse_name
from pretrain.data.found import datasets_in
from pretrain.data.gqn import Gqn
from pretrain.data.images import ImageDataset
from pretrain.data.lookalike import provide
from pretrain.data.pixels import decode_rgb
from pretrain.data.shapestacks import ShapeStacks
from pretrain.report import write_png

COLUMNS = 8
CELL = 128  # pixels of an image's side in the sheet
SHOWN = 64  # images that a look-alike is made of for the sheet alone
_LINE = 14  # pixels of a line of text
_VIOLATIONS = ("stable", "unstable: mass", "unstable: curve")

Picture = NDArray[np.uint8]


def run(
    what: str, data_dir: str | None, split: str, count: int, out: str | None, device: str
) -> int:
    """Writes the sheet of a dataset, or of each dataset in a folder, and says where."""
    if count < 1:
        raise ValueError(f"--count needs to be at least 1, but is {count}.")
    datasets = _datasets(what, data_dir, count, device)
    if out and len(datasets) > 1:
        names = ", ".join(name for name, _ in datasets)
        raise ValueError(f"{what} holds {names}; leave out --out, or name one, with --data-dir.")
    for name, folder in datasets:
        options: dict[str, Any] = {"size": count} if name.startswith("env:") else {}
        dataset = load(name, split, data_dir=folder, **options)
        target = Path(out or f"{name.replace(':', '-').replace('/', '-')}-{split}.png")
        write_png(target, contact_sheet(dataset, count))
        print(f"{target}: {min(count, len(dataset))} of {len(dataset):,} ({dataset.source})")
    return 0


def _datasets(
    what: str, data_dir: str | None, count: int, device: str
) -> list[tuple[str, Path | None]]:
    """Names and folders of what is to be shown: one dataset, or all that lie in a folder."""
    if what.partition(":")[0] not in DATASETS and Path(what).expanduser().is_dir():
        found = [each for each in datasets_in(Path(what)) if each.name != "compact"]
        if not found:
            raise ValueError(f"{what} holds a compact form; show the dataset that it was made of.")
        # Another list of the same towers shows nothing new.
        first: dict[Any, tuple[str, Path | None]] = {}
        for name, folder in found:
            first.setdefault(folder if name.startswith("shapestacks") else name, (name, folder))
        return list(first.values())
    parse_name(what)
    if data_dir is not None:
        return [(what, Path(data_dir))]
    if can_generate(what):
        return [(what, provide(what, train=SHOWN, validation=count, device=device))]
    return [(what, None)]


def contact_sheet(dataset: ImageDataset, count: int = 32) -> Picture:
    """`[height, width, 3]` RGB: the first images of a dataset, or the first scenes of GQN's."""
    if isinstance(dataset, Gqn):
        return _scenes(dataset, min(max(1, count // 4), len(dataset)))
    rows = list(range(min(count, len(dataset))))
    images, masks = (None if part is None else part.cpu().numpy() for part in dataset.batch(rows))
    assert images is not None
    lines = describe(dataset, rows, masks)
    cells = [
        _cell(images[k], None if masks is None else masks[k], line) for k, line in enumerate(lines)
    ]
    return _grid(cells, COLUMNS)


def describe(dataset: ImageDataset, rows: list[int], masks: NDArray[Any] | None) -> list[list[str]]:
    """Two lines of text for each image: its labels where it has some, or what its mask shows."""
    if isinstance(dataset, ShapeStacks):
        table = [column.tolist() for column in dataset.labels(rows)]
        return [
            [
                f"{row}: {height + 2} blocks, cam {view + 1}",
                _VIOLATIONS[violation] + (f" at {level}" if violation else ""),
            ]
            for row, (_, height, view, violation, level) in zip(
                rows, zip(*table, strict=True), strict=True
            )
        ]
    if masks is None:
        return [[f"{row}", "no mask"] for row in rows]
    counts = [len(np.unique(mask[mask > 0])) for mask in masks]
    return [
        [f"{row}", f"{count} object{'s' * (count != 1)} in sight"]
        for row, count in zip(rows, counts, strict=True)
    ]


def _scenes(dataset: Gqn, count: int) -> Picture:
    cells: list[Picture] = []
    views = 0
    for index in range(count):
        scene, masks = dataset.scene(index), dataset.scene_masks(index)
        views = len(scene.frames)
        for view, (frame, camera) in enumerate(zip(scene.frames, scene.cameras, strict=True)):
            x, y, z, yaw, pitch = camera.tolist()
            lines = [f"{index}: {x:.2f}, {y:.2f}, {z:.2f}", f"yaw {yaw:.2f}, pitch {pitch:.2f}"]
            cells.append(_cell(decode_rgb(frame), None if masks is None else masks[view], lines))
    return _grid(cells, min(views, 16))


def _cell(image: Picture, mask: NDArray[Any] | None, lines: list[str]) -> Picture:
    """An image, its mask beneath if there is one, and lines of text."""
    parts = [_enlarged(image)]
    if mask is not None:
        colours = np.array([(255, 255, 255), *slot_colours(int(mask.max(initial=0)))], np.uint8)
        parts.append(_enlarged(colours[mask]))
    return np.concatenate([*parts, _text(lines)])


def _enlarged(image: Picture) -> Picture:
    pick = np.arange(CELL) * len(image) // CELL
    return image[np.ix_(pick, pick)]


def _text(lines: list[str]) -> Picture:
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (CELL, _LINE * len(lines) + 2), "white")
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((2, _LINE * number), line, fill="black")
    return np.asarray(strip)


def _grid(cells: list[Picture], columns: int) -> Picture:
    columns = min(columns, len(cells))
    blank = np.full_like(cells[0], 255)
    cells = cells + [blank] * (-len(cells) % columns)
    return np.asarray(tile(np.stack(cells).reshape(-1, columns, *blank.shape), gap=4))

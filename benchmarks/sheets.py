"""Puts panels of views on paper: titles, hairlines, alignment; PNG and GIF files.

Pixels are enlarged by whole factors and never smoothed, so what is seen is what the model made.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genesis_rl.durable import replace_file
from genesis_rl.figures import Panel

PAPER, INK, HAIRLINE = (255, 255, 255), (50, 50, 50), (200, 200, 200)
TEXT = 15  # font size in pixels
LABEL = 24  # height of a title, width of one turned by 90 degrees
GAP = 6  # between views
BAR = 4  # height of the colour under a slot's title
CELL = 96  # about how large a view gets, in pixels
WIDEST = 1700  # a sheet

Picture = NDArray[np.uint8]  # [height, width, 3] RGB


def sheet(panels: Sequence[Panel], scale: int | None = None) -> Picture:
    """Arranges panels of one kind on one sheet, near the proportions of a page turned on its side.

    Args:
        panels: All of one shape.
        scale: Side of the square that shows a pixel; None makes views about 100 pixels large.
    """
    size = panels[0].views.shape[2]
    scale = scale or max(1, round(CELL / size))
    pictures = [draw(panel, scale) for panel in panels]
    height = max(picture.height for picture in pictures) + 3 * GAP
    width = max(picture.width for picture in pictures) + 3 * GAP
    across = _across(len(pictures), width / height, WIDEST // width)
    down = math.ceil(len(pictures) / across)
    page = Image.new("RGB", (across * width + GAP, down * height + GAP), PAPER)
    for i, picture in enumerate(pictures):
        page.paste(picture, (2 * GAP + i % across * width, 2 * GAP + i // across * height))
    return np.asarray(page)


def draw(panel: Panel, scale: int) -> Image.Image:
    """Draws one panel: large views on the left, then the grid under its titles."""
    rows, columns, size = panel.views.shape[:3]
    cell = size * scale
    beside = LABEL + 2 * cell + 2 * GAP if panel.heads else 0
    # Two heads and the space between them are as high as four rows.
    heads = len(panel.heads) * (2 * cell + 3 * GAP) - 3 * GAP
    height = LABEL + BAR + max(heads, rows * (cell + GAP) - GAP) + 2
    page = Image.new("RGB", (beside + LABEL + columns * (cell + GAP), height), PAPER)
    for i, (title, view) in enumerate(panel.heads):
        top = LABEL + BAR + i * (2 * cell + 3 * GAP)
        _write(page, title, (0, top, LABEL, top + 2 * cell), turned=True)
        _place(page, view, (LABEL, top), 2 * scale)
    lefts = [beside + LABEL + column * (cell + GAP) for column in range(columns)]
    for column, left in enumerate(lefts):
        _write(page, panel.columns[column], (left, 0, left + cell, LABEL))
        if panel.colours is not None:
            box = (left, LABEL - 2, left + cell - 1, LABEL - 2 + BAR - 1)
            ImageDraw.Draw(page).rectangle(box, fill=panel.colours[column])
    for row in range(rows):
        top = LABEL + BAR + row * (cell + GAP)
        _write(page, panel.rows[row], (beside, top, beside + LABEL, top + cell), turned=True)
        for column, left in enumerate(lefts):
            _place(page, panel.views[row, column], (left, top), scale)
    return page


def write_png(path: Path, picture: Picture) -> None:
    """Writes a picture, whole or not at all; its folder is made if missing."""
    _write_file(path, lambda file: Image.fromarray(picture).save(file, "PNG", optimize=True))


def write_gif(path: Path, frames: Sequence[Picture], milliseconds: Sequence[int]) -> None:
    """Writes an animation that repeats for ever, all of its frames in one palette.

    Args:
        path: Where; its folder is made if missing.
        frames: Pictures of one size.
        milliseconds: How long each of them stays.
    """
    # One palette of all frames: colours that stay do not flicker, and only changes are stored.
    together = Image.fromarray(np.concatenate(frames))
    found = together.quantize(255, method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*PAPER, *found[: 3 * 255]])
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    for image, frame in zip(images, frames, strict=True):
        # Pillow looks for near colours only: without this, other light greys would stain the paper.
        image.paste(0, mask=Image.fromarray((frame == PAPER).all(axis=2)))

    def save(file: io.BytesIO) -> None:
        images[0].save(
            file,
            "GIF",
            save_all=True,
            append_images=images[1:],
            duration=list(milliseconds),
            loop=0,
            optimize=True,
        )

    _write_file(path, save)


def _write_file(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    file = io.BytesIO()
    save(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())


def _across(count: int, aspect: float, most: int) -> int:
    """Returns how many panels go side by side, for a sheet nearest to 3 : 2."""
    return min(
        range(1, max(1, min(count, most)) + 1),
        key=lambda n: abs(math.log(n * aspect / math.ceil(count / n) / 1.5)),
    )


def _place(page: Image.Image, view: Picture, corner: tuple[int, int], scale: int) -> None:
    """Pastes a view, enlarged, inside a hairline: white views would have no edge on white paper."""
    large = Image.fromarray(view.repeat(scale, axis=0).repeat(scale, axis=1))
    left, top = corner
    box = (left - 1, top - 1, left + large.width, top + large.height)
    ImageDraw.Draw(page).rectangle(box, outline=HAIRLINE)
    page.paste(large, corner)


def _write(
    page: Image.Image, text: str, box: tuple[int, int, int, int], turned: bool = False
) -> None:
    """Writes text into the middle of a box, upwards if turned."""
    left, top, right, bottom = box
    size = (bottom - top, right - left) if turned else (right - left, bottom - top)
    label = Image.new("RGB", size, PAPER)
    middle = (size[0] / 2, size[1] / 2 - 1)
    ImageDraw.Draw(label).text(middle, text, INK, _font(), anchor="mm")
    page.paste(label.transpose(Image.Transpose.ROTATE_90) if turned else label, (left, top))


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)

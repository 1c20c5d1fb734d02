"""Textures: procedural ones that repeat without a seam, and genuine ones read from the user's."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from envs import patterns
from envs.textures import STACK_FILES, room_textures, stack_textures

needs_labmaze = pytest.mark.skipif(
    importlib.util.find_spec("labmaze") is None, reason="labmaze is not installed"
)

# Mean and standard deviation of the genuine textures, measured over their 1024 x 1024 pixels.
WALLS = {
    "red": ((213, 124, 104), (32, 16, 11)),
    "green": ((166, 197, 156), (20, 25, 17)),
    "cerise": ((169, 65, 103), (36, 15, 23)),
    "orange": ((233, 119, 14), (36, 27, 17)),
    "yellow": ((227, 172, 23), (24, 24, 42)),
}
FLOORS = {"yellow": (247, 219, 105), "blue": (111, 148, 170)}


@pytest.fixture(scope="module")
def procedural():
    return stack_textures(size=64), room_textures("procedural", size=64)


@pytest.fixture
def folder(tmp_path):
    """Plain textures: red is the number of the file, blue is 1 on floors and 2 on walls."""
    for blue, surface in enumerate(("floor", "wall"), start=1):
        (tmp_path / surface).mkdir()
        for number in STACK_FILES:
            picture = Image.new("RGB", (64, 64), (int(number), 0, blue))
            picture.save(tmp_path / surface / f"{number}.png")
    return tmp_path


def means(textures):
    return textures.double().mean(dim=(1, 2)).numpy()


def test_towers_have_six_floors_and_six_walls_and_rooms_three_and_five(procedural):
    stack, room = procedural
    assert stack.floors.shape == stack.walls.shape == (6, 64, 64, 3)
    assert room.floors.shape == (3, 64, 64, 3)
    assert room.walls.shape == (5, 64, 64, 3)
    assert {t.dtype for t in (*stack[:2], *room[:2])} == {torch.uint8}
    assert stack.source == room.source == "procedural"


def test_procedural_textures_differ_from_each_other(procedural):
    for textures in (group for surfaces in procedural for group in surfaces[:2]):
        assert len({texture.numpy().tobytes() for texture in textures}) == len(textures)


def test_procedural_textures_repeat_without_a_seam(procedural):
    """The step from the last row to the first is like the steps elsewhere; same for columns."""
    floors = torch.cat([procedural[0].floors, procedural[1].floors]).double()
    for axis in (1, 2):
        steps = (floors - floors.roll(1, axis)).abs().mean(dim=(3 - axis, 3))  # [9, 64]
        assert (steps[:, 0] <= steps.amax(dim=1) + 1e-9).all()
        inner = steps[:, 1:].sort(dim=1).values
        assert (steps[:, 0] <= 1.5 * inner[:, -6]).all(), f"axis {axis}"


def test_procedural_rooms_have_the_colours_of_the_genuine_ones(procedural):
    walls = procedural[1].walls.double()
    for wall, (mean, spread) in zip(walls, WALLS.values(), strict=True):
        np.testing.assert_allclose(wall.mean(dim=(0, 1)), mean, atol=1.5)
        np.testing.assert_allclose(wall.std(dim=(0, 1)), spread, atol=2.5)
    yellow, white, blue = means(procedural[1].floors)
    np.testing.assert_allclose([yellow, blue], list(FLOORS.values()), atol=1.5)
    assert np.ptp(white) == 0
    assert white.min() > 200


@needs_labmaze
def test_genuine_room_textures_come_from_labmaze_in_rgb():
    textures = room_textures("labmaze", size=128)
    np.testing.assert_allclose(means(textures.walls), [m for m, _ in WALLS.values()], atol=1.5)
    np.testing.assert_allclose(means(textures.floors)[[0, 2]], list(FLOORS.values()), atol=1.5)
    assert textures.source.startswith("labmaze 1.")
    assert torch.equal(room_textures(size=128).walls, textures.walls), "auto takes them"


def test_another_process_draws_the_same_and_labmaze_is_never_imported():
    code = (
        "import sys; from envs.textures import *; room_textures(size=16)\n"
        "print(int(stack_textures(size=16).floors.long().sum()), 'labmaze' in sys.modules)"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert told == f"{int(stack_textures(size=16).floors.long().sum())} False\n"


def test_without_labmaze_auto_is_procedural_and_labmaze_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert room_textures(size=32).source == "procedural"
    with pytest.raises(FileNotFoundError, match="pip install labmaze"):
        room_textures("labmaze", size=32)


def test_files_come_in_the_order_of_shapestacks_names(folder):
    textures = stack_textures(folder, size=32)
    assert textures.floors[:, 0, 0].tolist() == [[n, 0, 1] for n in (3, 1, 5, 2, 6, 4)]
    assert textures.walls[:, 0, 0].tolist() == [[n, 0, 2] for n in (3, 1, 5, 2, 6, 4)]
    assert textures.source == f"files in {folder}"


def test_palette_and_opaque_files_are_read_as_rgb(folder):
    colours = Image.new("RGB", (64, 64), (200, 30, 7))
    colours.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "floor/003.png")
    colours.convert("RGBA").save(folder / "floor/001.png")
    assert stack_textures(folder, size=16).floors[:2, 5, 5].tolist() == [[200, 30, 7]] * 2


def test_the_top_row_of_a_file_is_row_0(folder):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255
    Image.fromarray(picture).save(folder / "wall/003.png")
    assert stack_textures(folder, size=16).walls[0, :, 0, 0].tolist() == [255] * 8 + [0] * 8


def test_a_missing_folder_is_named_with_what_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"floor/001\.png to wall/006\.png in .*nowhere"):
        stack_textures(tmp_path / "nowhere")


def test_files_of_a_wrong_size_are_refused(folder):
    Image.new("RGB", (64, 32)).save(folder / "wall/006.png")
    with pytest.raises(ValueError, match=r"006\.png needs to be square and at least 32.*64x32"):
        stack_textures(folder, size=32)
    Image.new("RGB", (16, 16)).save(folder / "wall/006.png")
    with pytest.raises(ValueError, match=r"at least 32 wide, is 16x16"):
        stack_textures(folder, size=32)
    (folder / "wall/006.png").write_bytes(b"nothing to see")
    with pytest.raises(ValueError, match="not a readable picture"):
        stack_textures(folder, size=32)


def test_sizes_and_sources_that_cannot_be_are_refused():
    for size in (0, 8, 100):
        with pytest.raises(ValueError, match=f"power of two.*{size}"):
            stack_textures(size=size)
    with pytest.raises(ValueError, match="auto, labmaze or procedural, but got 'lab'"):
        room_textures("lab")  # type: ignore[arg-type]


def test_a_mosaic_has_all_its_pieces_and_a_honeycomb_wraps():
    piece, depth = patterns.cells(64, 4, seed=1)
    assert sorted(np.unique(piece)) == list(range(16))
    assert depth.min() >= 0
    cell, _ = patterns.hexagons(128, 4, 4)
    assert sorted(np.unique(cell)) == list(range(16))
    assert np.bincount(cell.ravel()).std() < 30, "cells are of one size"

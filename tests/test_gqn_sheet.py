"""The published rooms, drawn from numbers: how near they come to the published frames."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import gqn_sheet
from benchmarks.gqn_published import PUBLISHED
from benchmarks.gqn_sheet import REGIONS, compare, object_areas, read_frames, region_rows
from envs.raycast import Renderer
from envs.rooms import PLACE_LIMIT
from envs.textures import room_textures

FRAMES = Path(os.environ.get("GENESIS_RL_SAMPLES") or "nowhere") / "gqn_rooms_ring_camera_frames"
needs_frames = pytest.mark.skipif(not FRAMES.is_dir(), reason="GENESIS_RL_SAMPLES is not set")


@pytest.fixture(scope="module")
def renderer():
    return Renderer(room_textures("procedural"))


@pytest.fixture
def folder(tmp_path):
    """Frames of one colour each: red is the room's number, green the view's."""
    for room in range(5):
        for view, name in enumerate(gqn_sheet.VIEWS):
            frame = np.full((64, 64, 3), (9, view, room), np.uint8)  # BGR
            cv2.imwrite(str(tmp_path / f"scene{room + 1}_{name}.png"), frame)
    return tmp_path


@needs_frames
def test_published_frames_can_be_drawn_again_from_numbers(renderer):
    """Mean distance in grey levels of 255; two frames of different rooms are 30 to 60 apart."""
    compared = compare(read_frames(FRAMES), renderer)
    apart = np.abs(compared.published.astype(float) - compared.drawn).mean(axis=(2, 3, 4))
    assert apart.mean() < 7, "5 with the genuine textures"
    assert apart.max() < 10
    for row in region_rows(compared):
        np.testing.assert_allclose(row["drawn"], row["published"], atol=8, err_msg=row["region"])


def test_a_frame_has_sky_above_walls_above_floor_and_objects(renderer):
    compared = compare(np.zeros((5, 5, 64, 64, 3), np.uint8), renderer)
    sky, walls, floor, objects = (compared.region == k for k in range(len(REGIONS)))
    assert sky[:, :, :10].mean() > 0.9
    assert floor[:, :, 45:].mean() > 0.7
    assert not floor[:, :, :32].any()
    assert not walls[:, :, 45:].any()
    np.testing.assert_array_equal(objects, compared.owner > 0)


def test_measured_rooms_are_such_as_the_recipe_draws():
    places = torch.tensor([thing.place for room in PUBLISHED for thing in room.objects])
    assert places.abs().max() <= PLACE_LIMIT
    for room in PUBLISHED:
        assert len(room.angles) == 5
        assert 1 <= len(room.objects) <= 3
        assert all(1.4 < abs(x) < 3.5 for x in room.lamp[:2])


def test_frames_are_read_from_files_or_from_the_strips_that_they_were_cut_from(folder, tmp_path):
    frames = read_frames(folder)
    assert frames.shape == (5, 5, 64, 64, 3)
    assert frames[3, 2, 0, 0].tolist() == [3, 2, 9]
    strip = np.zeros((64, 404, 3), np.uint8)
    for view, left in enumerate((0, 64, 128, 192, 340)):
        strip[:, left : left + 64] = (2, view, 9)  # the strips' colours are swapped
    cv2.imwrite(str(folder / "validation_3.png"), strip)
    np.testing.assert_array_equal(read_frames(folder)[2], frames[2])


def test_a_missing_frame_is_named(folder):
    (folder / "scene4_ctx1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"--genuine needs .*scene4_ctx1\.png"):
        read_frames(folder)


def test_areas_are_percentiles_over_objects_that_are_seen():
    owner = np.zeros((2, 8, 8), np.uint8)
    owner[0, 0, :5], owner[1, :3, :5] = 1, 2
    assert object_areas(owner) == [6.0, 10.0, 14.0]


def test_the_command_prints_tables_and_writes_sheet_and_result(folder, tmp_path, capsys):
    picture = tmp_path / "sheet.png"
    places = [f"--genuine={folder}", f"--picture={picture}", f"--results-dir={tmp_path}"]
    gqn_sheet.main([*places, "--textures=procedural", "--scenes=4", "--device=cpu"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*REGIONS, "published", "drawn", "generated"))
    assert cv2.imread(str(picture)).shape[1] > 8 * 128
    assert (tmp_path / "gqn_sheet.jsonl").read_text().count("\n") == 1

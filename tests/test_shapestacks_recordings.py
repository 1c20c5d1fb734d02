"""ShapeStacks' example recording, drawn again from the numbers that were measured on it."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import shapestacks_recordings
from benchmarks.shapestacks_recordings import (
    compare,
    error_rows,
    geometry_rows,
    plain_renderer,
    read_recording,
)
from benchmarks.shapestacks_room import GREY, plain_textures, recorded_textures
from benchmarks.shapestacks_tower import (
    PARTS,
    RECORDED,
    as_towers,
    depth_scale,
    depth_terms,
    pack,
    residuals,
    scenes,
    unpack,
)
from envs.raycast import Renderer
from envs.textures import SurfaceTextures
from envs.tower_blocks import support_margins

SAMPLES = Path(os.environ.get("GENESIS_RL_SAMPLES") or "nowhere")
RECORDING, TEXTURES = SAMPLES / "shapestacks_example", SAMPLES / "shapestacks_textures"
needs_recording = pytest.mark.skipif(not RECORDING.is_dir(), reason="GENESIS_RL_SAMPLES is not set")
needs_textures = pytest.mark.skipif(
    not (RECORDING.is_dir() and TEXTURES.is_dir()), reason="the release's textures are not there"
)
BAR = 3.0  # grey levels of 255, at 64 pixels


@pytest.fixture(scope="module")
def seen():
    return read_recording(RECORDING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recording of our own: smooth surfaces, and a tower with the recorded one's numbers."""
    folder = tmp_path_factory.mktemp("recording")
    ramp = torch.linspace(40, 120, 64).round().to(torch.uint8)
    floor = torch.stack(
        [ramp[:, None].expand(64, 64), ramp.expand(64, 64), ramp.flip(0) + 0 * ramp[:, None]], -1
    )
    textures = SurfaceTextures(floor[None], floor.flip(2)[None], "ramps")
    images, masks, depth = Renderer(textures).render(scenes([RECORDED]), 224, 1, depth=True)
    parts = (76 * np.array(((0, 0, 0), *PARTS)))[masks.numpy()]
    levels = (400 - 3000 / depth.numpy()).round().clip(0, 255)
    pictures = {"rgb": images.numpy(), "vseg": parts, "depth": levels[..., None].repeat(3, axis=-1)}
    for kind, views in pictures.items():
        for camera, view in enumerate(views, 1):
            name = f"{kind}-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.png"
            cv2.imwrite(str(folder / name), view[..., ::-1].astype(np.uint8))
    return folder


@needs_recording
def test_the_recorded_views_are_drawn_again_within_the_bar(seen):
    """The room's surfaces come from the other view, wherever that shows them.

    No test of the light on them: it is the same in both views, and cancels.
    """
    compared = compare(seen, "other view", "cpu", RECORDED)
    rows = {row["region"]: row for row in error_rows("other view", compared)}
    assert rows["all that is known"]["share"] > 0.7
    for row in rows.values():
        assert max(row["errors"]) < BAR, row
    # What tells a wrong camera: without the eyes' distance these are 1.8, 5.5 and 1.7.
    assert max(rows["tower, whole pixels"]["errors"]) < 1
    assert max(rows["tower and its edges"]["errors"]) < 2.5
    assert max(rows["room"]["errors"]) < 1.55


@needs_textures
def test_with_the_releases_textures_whole_frames_are_drawn_again_within_the_bar(seen):
    rows = error_rows("release", compare(seen, TEXTURES, "cpu", RECORDED))
    for row in rows:
        assert max(row["errors"]) < BAR, row


@needs_recording
def test_measured_blocks_have_the_recorded_masks_and_the_depth_that_was_not_used(seen):
    for row in geometry_rows(seen, "cpu", RECORDED):
        assert min(row["IoU"]) > 0.95, row
        assert min(row["IoU at 64"]) > 0.9, row
        assert row["depth error"] < 0.02, row
        assert row["colour error"] < 2.5, row


@needs_recording
def test_no_measured_number_can_be_moved_without_a_worse_match(seen):
    values = pack(RECORDED)
    moves = np.diag(np.where(values > 10, 6.0, 0.04))  # degrees; a pixel
    towers = [unpack(row) for row in (values, *(values + moves), *(values - moves))]
    best, *moved = (residuals(seen, towers, plain_renderer("cpu"), rays=1) ** 2).sum(axis=1)
    assert best < min(moved)


def test_the_measured_tower_fails_to_carry_at_the_block_that_the_masks_call_violating():
    margins = support_margins(as_towers([RECORDED]))[0]
    assert (margins[:4] > 0).tolist() == [True, False, True, True]


def test_numbers_of_a_tower_survive_packing():
    assert unpack(pack(RECORDED)) == RECORDED
    assert len(pack(RECORDED)) == 4 + 6 + 4 + 4 + 3


def test_a_tower_leaves_nothing_of_its_own_recording(folder):
    seen = read_recording(folder)
    moved = [block._replace(place=(0.0, 1.0)) for block in RECORDED]
    own, other = residuals(seen, [RECORDED, moved], plain_renderer("cpu"), rays=1)
    assert np.abs(own).max() < 0.01
    assert np.abs(other).max() == 1


def test_levels_tell_depth_and_where_in_a_pixel_it_was_taken():
    gone = [block._replace(place=(60.0, 60.0)) for block in RECORDED]
    room = plain_renderer("cpu").render(scenes([gone]), 224, 1, depth=True).depth.numpy()
    near, one, right, down = np.moveaxis(depth_terms(room.astype(float)), -1, 0)
    levels = 400 * one - 3000 * (near + 0.25 * right - 0.125 * down)
    scale = depth_scale(levels.clip(0, 255), room.astype(float))
    np.testing.assert_allclose(scale, [[-3000, 400, -750, 375]] * 2, rtol=0.01)


def test_a_rooms_surfaces_are_found_in_one_view_and_right_in_the_other(folder):
    seen = read_recording(folder)
    light = Renderer(plain_textures(GREY)).render(scenes([RECORDED]), 224, 1)
    grey = light.images[..., 0].numpy()
    found = recorded_textures(seen, grey[0] / GREY, view=0)
    drawn, known = (
        Renderer(textures).render(scenes([RECORDED]), 224, 1).images.numpy()[1]
        for textures in found
    )
    known = (known[..., 0] == grey[1]) & (seen.parts[1].max(-1) == 0)
    assert known.mean() > 0.5
    apart = np.abs(drawn.astype(int) - seen.rgb[1])[known]
    assert apart.mean() < 1


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--recording needs .*cam_1-mono-0\.png"):
        read_recording(tmp_path)


def test_the_command_prints_tables_and_writes_sheet_and_result(folder, tmp_path, capsys):
    picture = tmp_path / "sheet.png"
    places = [f"--recording={folder}", f"--picture={picture}", f"--results-dir={tmp_path}"]
    shapestacks_recordings.main([*places, "--device=cpu"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("camera 2", "other view", "same view", "whole pixels"))
    assert cv2.imread(str(picture)).shape[1] > 3 * 256
    assert (tmp_path / "shapestacks_recordings.jsonl").read_text().count("\n") == 1

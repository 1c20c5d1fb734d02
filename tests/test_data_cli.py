"""The commands on datasets: contact sheets, checks that name what is broken, and look-alikes."""

import os
import shutil
import signal
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from pretrain.data import lookalike
from pretrain.data.__main__ import main
from pretrain.data.generate import generate
from pretrain.data.multi_dsprites import MultiDsprites
from pretrain.data.record_file import RecordFile
from pretrain.data.show import CELL, contact_sheet
from recipes import Noise
from test_gqn import write_set
from test_shapestacks import ROLLS, STABLE, TESTED, TOPPLES, add_masks, picture, save

ROOT = Path(__file__).parent.parent
FILE = "rooms_ring_camera/train/2-of-4.tfrecord"

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def rooms(tmp_path):
    """A generated set, marker and all."""
    root = tmp_path / "rooms"
    return generate(Noise(tmp_path / "log"), root, device="cpu", workers=1, progress=False)


@pytest.fixture(scope="session")
def sound_towers(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound") / "towers"
    for name, scenario in (("train", STABLE), ("eval", TOPPLES), ("test", TESTED)):
        path = root / "splits" / "default" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{scenario}\n")
        for camera in range(1, 17):
            file = f"rgb-w=5-f=0-l=4-c=unique-cam_{camera}-mono-0.png"
            save(root / "recordings" / scenario / file, picture(scenario, camera))
    add_masks(root, scenarios=(STABLE, TOPPLES, TESTED))
    return root


@pytest.fixture
def towers(tmp_path, sound_towers):
    """A genuine-looking tree of three scenarios with masks; no marker."""
    return shutil.copytree(sound_towers, tmp_path / "towers")


def fails(capsys, status, *arguments):
    """Runs a command that fails, and returns the one line that says why."""
    assert main(list(map(str, arguments))) == status
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    line = printed.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def broken(capsys, folder):
    """Checks a folder; returns what is said of each broken file, and the summary."""
    status = main(["verify", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    named = [line.removeprefix("broken: ") for line in lines if line.startswith("broken: ")]
    assert status == (1 if named else 0)
    return named, next(line for line in lines if "checked" in line)


# --- show ---------------------------------------------------------------------------------------


def test_a_sheet_shows_images_masks_and_labels():
    data = MultiDsprites("val", size=3)
    sheet = contact_sheet(data, count=3)
    batch = data.batch([0, 1, 2])
    assert sheet.shape[1] == 3 * (CELL + 4) + 4
    image = sheet[4 : 4 + CELL, 4 : 4 + CELL]
    assert (image[::2, ::2] == batch.images[0].numpy()).all()
    mask = sheet[4 + CELL : 4 + 2 * CELL, 4 : 4 + CELL]
    colours = {tuple(colour) for colour in mask.reshape(-1, 3).tolist()}
    assert len(colours) == len(batch.masks[0].unique())
    words = sheet[4 + 2 * CELL : -4, 4 : 4 + CELL]
    assert words.min() < 100 < words.max()


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("multi_dsprites", "multi_dsprites-val.png"),
        ("env:envs:GenesisRL/SpriteGoal-v0", "env-envs-GenesisRL-SpriteGoal-v0-val.png"),
        ("{rooms}", "gqn-rooms_ring_camera-val.png"),
        ("{towers}", "shapestacks-default-val.png"),
    ],
)
def test_every_kind_of_data_can_be_shown(tmp_path, monkeypatch, capsys, rooms, towers, what, name):
    monkeypatch.chdir(tmp_path)
    assert main(["show", what.format(rooms=rooms, towers=towers), "--images", "8"]) == 0
    assert cv2.imread(str(tmp_path / name)).shape[1] > 4 * CELL
    said = capsys.readouterr().out
    assert said.startswith(name)
    assert ("generated (genesis-rl " in said) == (what == "{rooms}")


def test_lists_of_the_same_towers_are_shown_once(tmp_path, monkeypatch, capsys, towers):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(towers / "splits/default", towers / "splits/ccs_all")
    assert main(["show", str(towers), "--images", "1", "--out", "sheets/a.png"]) == 0
    assert capsys.readouterr().out.startswith("sheets/a.png: 1 of 16 (files in ")
    write_set(towers)
    assert "leave out --out, or name one" in fails(capsys, 2, "show", towers, "--out", "b.png")


def test_showing_what_is_not_there_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds no dataset" in fails(capsys, 2, "show", tmp_path / "empty")
    assert "unknown dataset" in fails(capsys, 2, "show", "shapestack")
    assert "needs --data-dir" in fails(capsys, 2, "show", "gqn", "--data-dir", tmp_path)
    assert "needs --data-dir" in fails(capsys, 2, "show", "gqn:jaco")


# --- verify -------------------------------------------------------------------------------------


def test_sound_folders_pass(capsys, rooms, towers):
    named, summary = broken(capsys, rooms)
    assert named == []
    assert "nothing broken; checked 150 frames, 6 hashes, 15 scenes" in summary
    named, summary = broken(capsys, towers)
    assert named == []
    assert "nothing broken; checked 48 images, 3 list entries, 48 masks" in summary


def test_damaged_and_foreign_files_of_a_generated_set_are_named(capsys, rooms):
    data = bytearray((rooms / FILE).read_bytes())
    second = int(RecordFile(rooms / FILE).offsets[1])
    data[second + 40] ^= 4
    (rooms / FILE).write_bytes(data)
    (rooms / "list.txt").unlink()
    cut = rooms / "rooms_ring_camera/train/3-of-4.tfrecord"
    os.truncate(cut, int(RecordFile(cut).offsets[2]))  # sound to all appearances
    foreign = rooms / "rooms_ring_camera/train/5-of-4.tfrecord"
    shutil.copy(rooms / "rooms_ring_camera/test/1-of-1.tfrecord", foreign)
    named, summary = broken(capsys, rooms)
    assert len(named) == 5
    assert f"{rooms / 'list.txt'}: it is missing, but genesis_rl.json names it" in named
    assert f"{rooms / FILE}: its SHA-256 differs from genesis_rl.json's" in named
    assert f"{cut}: its SHA-256 differs from genesis_rl.json's" in named
    assert any(line.startswith(f"{foreign}: genesis_rl.json does not know it") for line in named)
    record = f"{rooms / FILE}: record 1 at byte {second}: its payload does not match its checksum"
    assert any(line.startswith(record) for line in named)
    assert "5 broken" in summary


def test_an_unfinished_set_is_named(tmp_path, capsys):
    with pytest.raises(ValueError, match="cannot be made"):
        generate(Noise(tmp_path / "log", broken=2), tmp_path / "a", device="cpu", workers=1)
    capsys.readouterr()
    assert "generating was interrupted" in broken(capsys, tmp_path / "a")[0][0]


def grey(towers):
    save(next((towers / "recordings" / STABLE).iterdir()), np.zeros((224, 224), np.uint8))


def huge(towers):
    path = next((towers / "recordings" / STABLE).iterdir())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 9000, 9000)
    path.write_bytes(data)


def flipped(towers):
    path = next((towers / "recordings" / STABLE).iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def small_mask(towers):
    save(next((towers / "iseg" / STABLE).iterdir()), np.zeros((64, 64, 4), np.uint8))


def odd_level(towers):
    save(next((towers / "iseg" / STABLE).iterdir()), np.full((224, 224, 4), 40, np.uint8))


def no_list(towers):
    (towers / "splits/default/eval.txt").unlink()


def odd_name(towers):
    (towers / "splits/default/train.txt").write_text(f"{STABLE}\nenv_tower\n")


def missing_scenario(towers):
    (towers / "splits/default/train.txt").write_text(f"{STABLE}\n{ROLLS}\n")


def missing_view(towers):
    next((towers / "recordings" / STABLE).iterdir()).unlink()


def missing_mask(towers):
    next((towers / "iseg" / STABLE).iterdir()).unlink()


def twice(towers):
    (towers / "splits/default/test.txt").write_text(f"{TESTED}\n{STABLE}\n")


@pytest.mark.parametrize(
    ("damage", "file", "words"),
    [
        (grey, "rgb-", "needs to be RGB, but has 1 channels"),
        (huge, "rgb-", "needs to be 224 x 224 pixels, but is 9000 x 9000"),
        (flipped, "rgb-", "cannot be decoded"),
        (small_mask, "iseg-", "needs to be 224 x 224 pixels, but is 64 x 64"),
        (odd_level, "iseg-", "grey levels need to be 0, 32 .. 192, but one is 40"),
        (no_list, "eval.txt", "is missing"),
        (odd_name, "train.txt", "entry 2 is no scenario's name: 'env_tower'"),
        (
            missing_scenario,
            "train.txt",
            f"1 of 2 entries do not have all 16 images, the first is {ROLLS}",
        ),
        (missing_view, "train.txt", "1 of 1 entries do not have all 16 images"),
        (
            missing_mask,
            "train.txt",
            f"1 of 1 entries do not have all 16 masks, the first is {STABLE}",
        ),
        (twice, "default", f"{STABLE} is listed more than once"),
    ],
)
def test_what_is_wrong_with_a_genuine_tree_is_named(capsys, towers, damage, file, words):
    damage(towers)
    named, _ = broken(capsys, towers)
    path, _, what = named[0].partition(": ")
    assert len(named) == 1
    assert path.startswith(str(towers))
    assert file in Path(path).name
    assert words in what


def test_genuine_records_are_checked_one_by_one(tmp_path, capsys):
    root = write_set(tmp_path / "data")
    path = root / "rooms_ring_camera/test/1-of-1.tfrecord"
    assert broken(capsys, root)[0] == []
    os.truncate(path, path.stat().st_size - 10)
    named, _ = broken(capsys, root)
    assert len(named) == 1
    assert named[0].startswith(f"{path}: record 1 at byte ")
    assert "the file ends" in named[0]


# --- generate -----------------------------------------------------------------------------------


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    line = fails(capsys, 2, "generate", "gqn", tmp_path / "mine", "--train-images", 4)
    assert "needs to be a folder, but is a file" in line
    line = fails(capsys, 2, "generate", "gqn", tmp_path / "mine" / "x", "--train-images", 4)
    assert "Not a directory" in line
    assert "holds no dataset" in fails(capsys, 2, "verify", ROOT / "docs")
    for command in (["generate", "gqn", "x"], ["generate", "dsprites", "x"], ["unpick"], []):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1


def test_sigterm_ends_it_with_what_is_done_kept(tmp_path, capsys, monkeypatch):
    log, root = tmp_path / "log", tmp_path / "data"
    recipes = [Noise(log, broken=3, fatal=signal.SIGTERM), Noise(log)]
    monkeypatch.setattr(lookalike, "recipe_for", lambda *_, **__: recipes.pop(0))
    command = ["generate", "gqn", str(root), "--train-images", "4", "--workers", "1"]
    assert main(command) == 130
    error = capsys.readouterr().err
    assert "3 of 5 parts are made and kept; the same command goes on from there" in error
    assert error.splitlines()[-1] == "interrupted"
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{root}: 150 images; use it by --data-dir {root}")
    assert log.read_text().split() == ["0", "1", "2", "3", "4"]

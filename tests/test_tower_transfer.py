"""The transfer benchmark: how its towers are chosen, what it reads, and that the command runs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import tower_transfer
from benchmarks.tower_transfer import balanced_towers, by_label, compress, load_genuine, vary
from envs.textures import SurfaceTextures


def write_genuine(path, images, heights):
    """An archive like that of the course subset."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95, subsampling=0)
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(path, jpeg=np.concatenate(files), offsets=offsets, total_height=np.array(heights))


def test_every_height_and_level_is_equally_frequent():
    towers = balanced_towers(400, seed=0)
    cells = {}
    for cell in zip(towers.height.tolist(), towers.level.tolist(), strict=True):
        cells[cell] = cells.get(cell, 0) + 1
    assert len(cells) == 20
    assert set(cells.values()) == {20}
    assert len(set(towers.number.tolist())) == 400
    assert balanced_towers(90, seed=3).height.shape == (90,)


def test_compressed_images_are_much_the_same():
    image = (
        torch.arange(64, dtype=torch.uint8)
        .mul(3)
        .expand(2, 64, 64)[..., None]
        .expand(-1, -1, -1, 3)
    )
    assert (compress(image, seed=0).int() - image.int()).abs().float().mean() < 3


def test_varied_textures_begin_with_the_plain_ones():
    floors = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    varied = vary(SurfaceTextures(floors, floors[:2], "mine"), 3, seed=0)
    assert varied.floors.shape == (18, 32, 32, 3)
    assert varied.walls.shape == (6, 32, 32, 3)
    assert torch.equal(varied.floors[:6], floors)
    assert not torch.equal(varied.floors[6:12], floors)
    assert torch.equal(vary(SurfaceTextures(floors, floors, ""), 3, seed=0).floors, varied.floors)


def test_genuine_images_are_read_with_their_labels(tmp_path):
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, :, :, 0] = 200  # red
    write_genuine(tmp_path / "genuine.npz", images, [2, 6])
    read, labels = load_genuine(tmp_path / "genuine.npz")
    assert (read.int() - torch.from_numpy(images).int()).abs().max() < 4
    assert labels["total_height"].tolist() == [2, 6]
    right = torch.tensor([True, False])
    assert by_label(right, labels) == {"total_height": {"2": 1.0, "6": 0.0}}


def test_missing_or_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--genuine FILE, but none was found"):
        load_genuine(None)
    np.savez(tmp_path / "other.npz", jpeg=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="it lacks offsets, total_height"):
        load_genuine(tmp_path / "other.npz")


def test_the_command_learns_tests_and_stores_a_line(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    write_genuine(tmp_path / "genuine.npz", noise, [2, 3, 4, 5, 6] * 4)
    sizes = ["--train", "40", "--test", "20", "--epochs", "1", "--rays", "64", "--variants", "2"]
    line = tower_transfer.main(
        [
            *("--genuine", str(tmp_path / "genuine.npz")),
            *sizes,
            *("--device", "cpu"),
            *("--results-dir", str(tmp_path)),
            *("--picture", str(tmp_path / "sheet.png")),
        ]
    )
    assert line["generated"]["images"] == line["genuine"]["images"] == 20
    assert 0 <= line["genuine"]["accuracy"] <= 1
    assert (tmp_path / "tower_transfer.jsonl").is_file()
    assert Image.open(tmp_path / "sheet.png").size == (1300, 568)
    assert "accuracy of the height" in capsys.readouterr().out

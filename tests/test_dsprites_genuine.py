"""The renderer against genuine dSprites frames, and the readers of a user's genuine files."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from envs.scene import SpriteFactors, dsprites_index, dsprites_scene
from envs.sprites_render import render_sprites
from pretrain.data import dsprites_files, multi_dsprites
from pretrain.data.dsprites_files import DspritesArray
from pretrain.data.multi_dsprites import MultiDsprites

SAMPLES = os.environ.get("GENESIS_RL_SAMPLES")
GIF = Path(SAMPLES or "") / "dsprites_frames" / "dsprites.gif"


def animation():
    """The factors of the published animation's 320 frames: shape, scale, orientation, x, y."""
    up, down = range(6), range(5, -1, -1)
    frames = []
    for shape in (2, 1, 0):
        frames += [(shape, scale, 0, 0, 0) for scale in (*up, *down, *up)]
        frames += [(shape, 5, orientation, 0, 0) for orientation in range(40)]
        if shape == 2:  # once round the square
            there, back = range(32), range(31, -1, -1)
            frames += [(shape, 5, 0, 0, y) for y in there] + [(shape, 5, 0, x, 31) for x in there]
            frames += [(shape, 5, 0, 31, y) for y in back] + [(shape, 5, 0, x, 0) for x in back]
        frames += [(shape, scale, 0, 0, 0) for scale in down]
    return torch.tensor(frames)


def white_on_black(index):
    count = len(index)
    colour = torch.full((count, 1, 3), 255, dtype=torch.uint8)
    background = torch.zeros(count, 3, dtype=torch.uint8)
    return render_sprites(dsprites_scene(index[:, None], colour, background)).masks.numpy() > 0


@pytest.mark.skipif(not GIF.is_file(), reason="GENESIS_RL_SAMPLES has no genuine dSprites frames")
def test_reproduces_the_genuine_frames():
    with Image.open(GIF) as gif:
        frames = [np.asarray(frame.convert("L")) > 127 for frame in ImageSequence.Iterator(gif)]
    genuine = np.stack(frames)
    ours = white_on_black(dsprites_index(SpriteFactors(*animation().unbind(1))))
    assert genuine.shape == ours.shape == (320, 64, 64)

    wrong = (genuine != ours).sum((1, 2))
    iou = (genuine & ours).sum((1, 2)) / (genuine | ours).sum((1, 2))
    assert (wrong == 0).sum() >= 280
    assert wrong.sum() <= 60
    assert iou.mean() >= 0.999


COUNT = 2048  # squares of scale .5, at two orientations


def write_array(path, sprites):
    np.savez_compressed(path, imgs=sprites, metadata=np.array({"never": "unpickled"}, dtype=object))


@pytest.fixture
def short(monkeypatch):
    """As if dSprites ended after its first sprites, which keeps the test's file small."""
    monkeypatch.setattr(dsprites_files, "NUM_DSPRITES", COUNT)
    monkeypatch.setattr(multi_dsprites, "NUM_DSPRITES", COUNT)


@pytest.fixture
def folder(tmp_path, short):
    write_array(tmp_path / DspritesArray.FILE, white_on_black(torch.arange(COUNT)).astype(np.uint8))
    return tmp_path


def test_sprites_of_the_genuine_array_make_the_same_images(folder):
    genuine = MultiDsprites("val", size=40, data_dir=folder)
    assert genuine.source == "genuine sprites"
    ours = MultiDsprites("val", size=40)
    assert ours.source == "re-rendered"
    for theirs, mine in zip(genuine.batch(range(40)), ours.batch(range(40)), strict=True):
        assert torch.equal(theirs, mine)


def test_the_genuine_array_stays_packed_in_memory(folder):
    array = DspritesArray(folder / DspritesArray.FILE)
    assert array._packed.numel() == COUNT * 64 * 64 // 8
    index = torch.tensor([[3, 2000], [7, 3]])
    expected = white_on_black(index.flatten()).reshape(2, 2, 64, 64)
    np.testing.assert_array_equal(array.shapes(index), expected)


def test_genuine_sprites_come_in_one_size(folder):
    with pytest.raises(ValueError, match="hold 64 x 64 images, but image_size is 32"):
        MultiDsprites(data_dir=folder, image_size=32)


def test_a_damaged_array_is_named(folder):
    path = folder / DspritesArray.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable dSprites file"):
        MultiDsprites(data_dir=folder)

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="dSprites"):
        MultiDsprites(data_dir=folder)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents.npy", b"")
    with pytest.raises(ValueError, match="no array 'imgs'"):
        MultiDsprites(data_dir=folder)


def test_an_array_of_other_numbers_is_refused(tmp_path, short):
    path = tmp_path / DspritesArray.FILE
    write_array(path, np.full((COUNT, 64, 64), 255, dtype=np.uint8))
    with pytest.raises(ValueError, match="0 or 1, but sprites 0 to 2047 hold 255"):
        MultiDsprites(data_dir=tmp_path)
    write_array(path, np.zeros((10, 64, 64), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"`imgs` needs to be uint8 of shape \(2048, 64, 64\)"):
        MultiDsprites(data_dir=tmp_path)


def write_processed(folder, split="training", kind="rand4", count=12):
    """Files as the release has them: float images in [0, 1], float64 masks."""
    folder.mkdir(parents=True, exist_ok=True)
    images, masks = MultiDsprites("test").batch(range(count))
    np.save(folder / f"{split}_images_{kind}.npy", images.numpy().astype(np.float32) / 255)
    np.save(folder / f"{split}_masks_{kind}.npy", masks.numpy()[..., None].astype(np.float64))
    return images, masks


@pytest.mark.parametrize("place", [".", "processed", "multi_dsprites/processed"])
def test_processed_files_are_read_as_they_are(tmp_path, place):
    images, masks = write_processed(tmp_path / place)
    dataset = MultiDsprites("train", data_dir=tmp_path, seed=5)
    assert dataset.source == "processed files"
    assert len(dataset) == 12
    batch = dataset.batch([3, 11, 3])
    assert torch.equal(batch.images, images[[3, 11, 3]])
    assert torch.equal(batch.masks, masks[[3, 11, 3]])
    assert torch.equal(dataset.all(progress=False).images, images)


def test_unique_colours_have_processed_files_of_their_own(tmp_path):
    write_processed(tmp_path, "validation", "rand4_unique")
    assert len(MultiDsprites("val", data_dir=tmp_path, unique_colours=True)) == 12
    with pytest.raises(FileNotFoundError, match=r"validation_images_rand4\.npy in .* neither"):
        MultiDsprites("val", data_dir=tmp_path)


def test_processed_files_that_do_not_fit_are_named(tmp_path):
    write_processed(tmp_path)
    images, masks = (tmp_path / f"training_{what}_rand4.npy" for what in ("images", "masks"))
    with pytest.raises(ValueError, match="holds 12 images, but size is 13"):
        MultiDsprites(data_dir=tmp_path, size=13)

    np.save(masks, np.zeros((11, 64, 64, 1)))
    with pytest.raises(ValueError, match=r"12 images, but training_masks_rand4\.npy holds 11"):
        MultiDsprites(data_dir=tmp_path)
    masks.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs training_masks_rand4\.npy beside it"):
        MultiDsprites(data_dir=tmp_path)

    np.save(masks, np.zeros((12, 64, 64, 1)))
    np.save(images, np.full((12, 64, 64, 3), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="values need to be within 0 and 1"):
        MultiDsprites(data_dir=tmp_path).batch([0])
    np.save(images, np.zeros((12, 64, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="needs to hold float32 of shape"):
        MultiDsprites(data_dir=tmp_path)
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a readable array"):
        MultiDsprites(data_dir=tmp_path)


def test_a_folder_without_files_says_what_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match="leave data_dir out to re-render"):
        MultiDsprites(data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="needs to be a folder"):
        MultiDsprites(data_dir=tmp_path / "nowhere")

"""DeepMind's Multi-dSprites files: one byte per value, read once, split as in the release."""

import gzip
import os

import numpy as np
import pytest

from pretrain.data import cache, load, tfrecord
from pretrain.data.dm_multi_dsprites import VARIANTS, DmMultiDsprites, split_rows
from pretrain.data.example import build_example
from pretrain.data.tfrecord import frame_record


def example(number, variant="colored_on_colored", **changes):
    """A background of one colour, and in row k of the image entity k, as far as there are any."""
    channels, entities = VARIANTS[variant]
    image = np.full((64, 64, channels), number, np.uint8)
    mask = np.zeros((64, 64, entities), np.uint8)
    mask[..., 0] = 255
    for entity in range(1, entities):
        image[entity], mask[entity, :, 0], mask[entity, :, entity] = 100 + entity, 0, 255
    values = {"mask": mask, "image": image, "x": np.zeros(entities, np.float32)} | changes
    as_bytes = {
        name: [bytes([octet]) for octet in value.ravel()]
        for name, value in values.items()
        if value.dtype == np.uint8
    }
    return build_example(values | as_bytes)


def write(folder, examples, variant="colored_on_colored"):
    path = folder / "multi_dsprites" / f"multi_dsprites_{variant}.tfrecords"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"".join(map(frame_record, examples)), 1))
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def test_splits_are_those_of_the_release():
    assert split_rows(60_000, "test") == range(10_000)
    assert split_rows(60_000, "val") == range(10_000, 20_000)
    assert split_rows(60_000, "train") == range(20_000, 60_000)
    assert [len(split_rows(12, s)) for s in ("test", "val", "train")] == [2, 2, 8]


def test_images_and_masks_come_back(root):
    write(root, map(example, range(13)))
    sizes, seen = {}, []
    for split in ("test", "val", "train"):
        data = load("dm_multi_dsprites", split, image_size=64, data_dir=root, device="cpu")
        batch, sizes[split] = data.all(progress=False), len(data)
        seen += batch.images[:, 0, 0, 0].tolist()
        assert (batch.images[:, 3] == 103).all()
        assert (batch.masks[:, :5] == np.arange(5)[:, None]).all()
        assert not batch.masks[:, 5:].any()
        assert (data.batch([1]).images[0] == batch.images[1]).all()
    assert sizes == {"test": 2, "val": 2, "train": 9}
    assert seen == list(range(13))
    assert len(os.listdir(root.parent / "cache")) == 1  # one conversion for all splits


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant(root, variant):
    write(root, [example(k, variant) for k in range(6)], variant)
    data = load(f"dm_multi_dsprites:{variant}", "val", data_dir=root)
    assert data.num_slots == VARIANTS[variant].entities
    batch = data.batch([0])
    assert batch.images.shape == (1, 64, 64, 3)
    assert batch.masks.max() == data.num_slots - 1


def test_an_interrupted_conversion_goes_on_in_the_stream(root, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 4)
    path = write(root, map(example, range(12)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(ValueError, match=r"tfrecords: record \d+ at byte \d+:"):
        DmMultiDsprites("train", data_dir=root)
    path.write_bytes(whole)
    data = DmMultiDsprites("train", data_dir=root)
    assert data.batch(range(8)).images[:, 0, 0, 0].tolist() == list(range(4, 12))


def test_a_damaged_record_stops_or_is_left_out(root, monkeypatch):
    monkeypatch.setattr(tfrecord, "MAX_LOSS", 0.1)
    records = [frame_record(example(k)) for k in range(12)]
    records[3] = records[3][:500] + bytes([records[3][500] ^ 1]) + records[3][501:]
    path = write(root, [])
    path.write_bytes(gzip.compress(b"".join(records), 1))
    with pytest.raises(ValueError, match=r"record 3 at byte \d+: its payload does not match"):
        DmMultiDsprites("train", data_dir=root)
    with pytest.warns(UserWarning, match="1 of 12 records are damaged and left out"):
        data = DmMultiDsprites("train", data_dir=root, on_corrupt="skip")
    assert data.batch(range(9)).images[:, 0, 0, 0].tolist() == [2, *range(4, 12)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((64, 64, 1), np.uint8)}, "image needs 12288 values, but has 4096"),
        ({"mask": np.full((64, 64, 5), 7, np.uint8)}, "masks need to be 0 or 255"),
        ({"mask": np.zeros(5, np.float32)}, "an example needs mask"),
    ],
)
def test_examples_of_another_kind_are_named(root, changes, message):
    write(root, [example(0), example(1, **changes)])
    with pytest.raises(ValueError, match=rf"colored\.tfrecords: record 1 at byte \d+: {message}"):
        DmMultiDsprites("train", data_dir=root)


def test_mistakes_are_answered_in_one_line(root):
    with pytest.raises(FileNotFoundError, match=r"gs://multi-object-datasets/multi_dsprites/"):
        DmMultiDsprites("train", data_dir=root)
    with pytest.raises(FileNotFoundError, match="no --data-dir was given"):
        DmMultiDsprites("train")
    with pytest.raises(ValueError, match="variant needs to be one of"):
        DmMultiDsprites("train", variant="colourful", data_dir=root)
    with pytest.raises(ValueError, match="64 x 64 images, but image_size is 32"):
        DmMultiDsprites("train", image_size=32, data_dir=root)
    write(root, map(example, range(7)))
    with pytest.warns(UserWarning, match="2 were asked for, 1 are there and used"):
        assert len(DmMultiDsprites("val", size=2, data_dir=root)) == 1

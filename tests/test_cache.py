"""The compact form: interrupted, made longer, damaged, and asked for by two at once."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data import cache
from pretrain.data.cache import CachedImages, cache_folder, fill, read_manifest

KEY = {"dataset": "numbers", "image_size": 4}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 8)


class Numbers:
    """Image k is k everywhere, in pieces of three; remembers what it was asked for."""

    def __init__(self, end=1000, masks=True, fail_at=None):
        self.end, self.masks, self.fail_at, self.asked = end, masks, fail_at, []

    def __call__(self, first, last):
        self.asked.append((first, last))
        for start in range(first, min(last, self.end), 3):
            if self.fail_at is not None and start >= self.fail_at:
                raise KeyboardInterrupt
            rows = np.arange(start, min(start + 3, last, self.end), dtype=np.uint8)
            images = np.broadcast_to(rows[:, None, None, None], (len(rows), 4, 4, 3))
            yield images, images[..., 0] if self.masks else None


def make(folder, count, numbers=None, key=KEY):
    return fill(folder, key, count, numbers or Numbers(), label="numbers", progress=False)


def values(kept):
    images, masks = kept.take(np.arange(len(kept)))
    assert (images == images[:, :1, :1, :1]).all()
    if masks is not None:
        assert (masks == images[..., 0]).all()
    return images[:, 0, 0, 0].tolist()


def test_images_are_kept_and_not_made_again(tmp_path):
    assert values(make(tmp_path / "a", 20)) == list(range(20))
    again = Numbers()
    assert values(make(tmp_path / "a", 20, again)) == list(range(20))
    assert values(make(tmp_path / "a", 5, again)) == list(range(20))
    assert again.asked == []


def test_the_manifest_counts_and_hashes_every_shard(tmp_path):
    make(tmp_path, 20)
    manifest = read_manifest(tmp_path)
    assert [shard["count"] for shard in manifest["shards"]] == [8, 8, 4]
    assert all(len(shard["images"]) == len(shard["masks"]) == 64 for shard in manifest["shards"])
    assert (tmp_path / "images.u8").stat().st_size == 20 * 4 * 4 * 3


def test_a_conversion_that_was_interrupted_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, 20, Numbers(fail_at=12))
    assert len(CachedImages(tmp_path)) == 8
    rest = Numbers()
    assert values(make(tmp_path, 20, rest)) == list(range(20))
    assert rest.asked == [(8, 16), (16, 20)]


def test_a_form_that_is_too_short_is_made_longer(tmp_path):
    early = make(tmp_path, 11)
    more = Numbers()
    assert values(make(tmp_path, 30, more)) == list(range(30))
    assert more.asked == [(8, 16), (16, 24), (24, 30)]
    assert values(early) == list(range(11))  # whoever had it open still reads the same


def test_a_source_that_ends_early_is_not_asked_again(tmp_path):
    for end, count in ((11, 30), (16, 30)):
        folder = tmp_path / str(end)
        assert len(make(folder, count, Numbers(end=end))) == end
        again = Numbers()
        assert len(make(folder, count, again)) == end
        assert again.asked == []


def test_a_killed_process_leaves_what_the_manifest_names(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_cache
from pretrain.data import cache
cache.SHARD = 8
class Killed(test_cache.Numbers):
    def __call__(self, first, last):
        for part in super().__call__(first, last):
            if first == 16: os.kill(os.getpid(), 9)
            yield part
test_cache.make(test_cache.Path({str(tmp_path)!r}) / "a", 24, Killed())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    assert done.returncode == -9
    with (tmp_path / "a" / "images.u8").open("ab") as file:
        file.write(b"half a shard")
    rest = Numbers()
    assert values(make(tmp_path / "a", 24, rest)) == list(range(24))
    assert rest.asked == [(16, 24)]


def test_training_maps_the_files_or_copies_a_part(tmp_path):
    kept = make(tmp_path, 20)
    everything = kept.all(range(20), torch.device("cpu"))
    assert everything.images.shape == (20, 4, 4, 3)
    before = (tmp_path / "images.u8").read_bytes()
    everything.images[3] = 99  # torch may write to it, the file does not change
    assert (tmp_path / "images.u8").read_bytes() == before
    part = CachedImages(tmp_path).all(range(5, 17), torch.device("cpu"))
    assert part.images[:, 0, 0, 0].tolist() == part.masks[:, 0, 0].tolist() == list(range(5, 17))


def test_a_changed_byte_is_named_before_it_is_delivered(tmp_path):
    make(tmp_path, 20)
    data = bytearray((tmp_path / "masks.u8").read_bytes())
    data[10 * 16] ^= 1
    (tmp_path / "masks.u8").write_bytes(data)
    kept = CachedImages(tmp_path)
    assert kept.take(np.array([0, 17]))[0].shape == (2, 4, 4, 3)
    for read in (
        lambda: kept.take(np.array([9])),
        lambda: kept.all(range(20), torch.device("cpu")),
        kept.verify,
    ):
        with pytest.raises(ValueError, match=r"masks\.u8: images 8 to 15 differ from the manifest"):
            read()


def test_a_truncated_file_is_named(tmp_path):
    make(tmp_path, 20)
    os.truncate(tmp_path / "images.u8", 900)
    with pytest.raises(ValueError, match=r"images\.u8 needs 960 bytes for 20 images, but has 900"):
        make(tmp_path, 20)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"shards": [{"count": "8"}]},
        {"shards": [{"count": 9, "images": "", "masks": ""}]},
        {"shards": 3},
        {"image_size": -1},
        {"masks": None},
        {"shards": [{"count": 8}]},
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, change):
    make(tmp_path, 20)
    manifest = json.loads((tmp_path / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged or of another version"):
        make(tmp_path, 20)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not JSON"):
        make(tmp_path, 20)


def test_a_folder_keeps_to_one_key(tmp_path):
    make(tmp_path, 4)
    with pytest.raises(ValueError, match="images made with dataset='numbers', but dataset is"):
        make(tmp_path, 4, key=KEY | {"dataset": "letters"})
    assert cache_folder("a:b/c", KEY).name.startswith("a-b-c-")
    assert cache_folder("a", KEY) != cache_folder("a", KEY | {"seed": 1})


def test_a_disk_without_space_is_noticed_before_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(OSError, match=r"GB are free.*GENESIS_RL_CACHE") as raised:
        make(tmp_path, 20)
    assert raised.value.errno == errno.ENOSPC


def test_masks_are_for_all_images_or_none(tmp_path):
    assert make(tmp_path / "a", 4, Numbers(masks=False)).take(np.array([1]))[1] is None
    make(tmp_path / "b", 8, Numbers(masks=True))
    with pytest.raises(ValueError, match="either all images have masks or none"):
        make(tmp_path / "b", 16, Numbers(masks=False))

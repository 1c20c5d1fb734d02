"""Generated rooms: files in the published format, that the reader of the genuine ones reads."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from envs.rooms import draw_rooms, ring_camera, room_scene
from envs.textures import room_textures
from pretrain.data.generate import generate
from pretrain.data.gqn import Gqn
from pretrain.data.gqn_files import encode_jpeg
from pretrain.data.make_gqn import GqnRecipe, Renderer, render_views
from pretrain.data.pixels import decode_rgb
from pretrain.data.record_file import RecordFile

SMALL = GqnRecipe(train=5, test=2, scenes_per_file=2, samples=1, textures="procedural")
CPU = torch.device("cpu")
TEXTURES = room_textures("procedural")

# From a genuine file of a sister set, whose JPEG files are tf.io.encode_jpeg's.
GENUINE_HEADER = "ffd8ffe000104a46494600010101012c012c0000ffdb"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate(
        SMALL, tmp_path_factory.mktemp("rooms"), device="cpu", workers=1, progress=False
    )


@pytest.fixture
def reader(root, tmp_path):
    def opened(split):
        return Gqn(split, data_dir=root, cache_dir=tmp_path)

    return opened


def written(recipe, unit, folder):
    """The bytes of a unit's files, by path."""
    files = recipe.write(unit, folder, CPU)
    return {name: (folder / name).read_bytes() for name in files}


def test_the_marker_lists_files_of_published_names(root):
    folder = "rooms_ring_camera"
    marker = json.loads((root / "genesis_rl.json").read_text())
    assert marker["complete"]
    assert marker["settings"]["textures"] == "procedural"
    records = {n.removeprefix(f"{folder}/"): f.get("records") for n, f in marker["files"].items()}
    train = {f"train/{n}-of-3.tfrecord": min(2, 7 - 2 * n) for n in (1, 2, 3)}
    masks = dict.fromkeys(("train_masks/3-of-3.npz", "test_masks/1-of-1.npz"))
    assert records == {**train, "test/1-of-1.tfrecord": 2, **masks}
    assert SMALL.images == 70


def test_the_reader_of_the_genuine_set_reads_it(reader):
    sizes = {split: len(reader(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 4, "val": 1, "test": 2}, "the last file of three is for validation"
    images = reader("train").batch([0, 3]).images
    assert images.shape == (2, 64, 64, 3)
    sky = torch.tensor([154.0, 226, 250])
    assert (images[:, 2].float().mean(dim=(0, 1)) - sky).abs().max() < 3


def test_frames_cameras_and_masks_are_those_of_the_rooms_drawn(root, reader):
    masks = np.load(root / "rooms_ring_camera/test_masks/1-of-1.npz")["masks"]
    assert masks.shape == (2, 10, 64, 64)
    assert masks.dtype == np.uint8
    renderer = Renderer(TEXTURES)
    key = SMALL.key("test")
    views = render_views(renderer, key, torch.arange(2), samples=1)
    np.testing.assert_array_equal(masks, views.masks)
    scene = reader("test").scene(1)
    np.testing.assert_array_equal(scene.cameras, views.cameras[1])
    for jpeg, frame in zip(scene.frames, views.frames[1].numpy(), strict=True):
        error = np.abs(decode_rgb(jpeg, 64).astype(int) - frame)
        assert error.mean() < 6, "JPEG loses little"
    owners = int(draw_rooms(key, torch.tensor([1])).present.sum())
    assert set(np.unique(masks[1])) <= set(range(owners + 1))
    assert masks[1].any(), "an object is seen in some view"


def test_scenes_to_score_come_with_the_mask_of_the_view_that_is_shown(root, reader):
    assert reader("train").batch([0]).masks is None
    assert reader("val").batch([0]).masks.shape == (1, 64, 64)
    test = reader("test")
    shown = test.batch([0, 1])
    for index in range(2):
        frames = np.stack([decode_rgb(jpeg, 64) for jpeg in test.scene(index).frames])
        (view,) = np.flatnonzero((frames == shown.images[index].numpy()).all(axis=(1, 2, 3)))
        expected = test.scene_masks(index)[view]
        np.testing.assert_array_equal(shown.masks[index].numpy(), expected)


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("val", 4), ("test", 0)])
def test_a_reader_knows_rooms_and_cameras_of_what_it_shows(reader, split, first):
    data = reader(split)
    index = torch.arange(len(data))
    images, rooms, cameras = data.batch(index).images, data.rooms(index), data.cameras(index)
    key = SMALL.key("test" if split == "test" else "train")
    for found, drawn in zip(rooms, draw_rooms(key, index + first), strict=True):
        assert (found == drawn).all()
    camera = ring_camera(torch.atan2(cameras[:, 1].double(), cameras[:, 0].double()))
    again = Renderer(TEXTURES).render(room_scene(rooms, camera), size=64, samples=1).images
    assert (again.float() - images.float()).abs().mean() < 6, "JPEG loses little"


def test_rooms_that_nobody_drew_are_unknown(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "genesis_rl.json").unlink()
    data = Gqn("test", data_dir=copy)
    with pytest.raises(ValueError, match="does not say what stands in its rooms"):
        data.rooms([0])
    assert data.cameras([0, 1]).shape == (2, 5)


def test_damaged_masks_are_named(root, reader, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    beside = copy / "rooms_ring_camera/test_masks/1-of-1.npz"
    beside.write_bytes(beside.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"test_masks/1-of-1\.npz: masks of scene 0 are damaged"):
        Gqn("test", data_dir=copy).batch([0])


def test_a_jpeg_file_is_what_pillow_and_tensorflow_write():
    rng = np.random.default_rng(0)
    for frame in (rng.integers(0, 256, (64, 64, 3), np.uint8), np.full((64, 64, 3), 7, np.uint8)):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=2, dpi=(300, 300))
        assert encode_jpeg(frame) == buffer.getvalue()
        assert encode_jpeg(frame)[:22].hex() == GENUINE_HEADER


def test_bytes_do_not_depend_on_the_order_of_units_or_on_who_makes_them(root, tmp_path):
    for unit in (3, 0):
        for name, data in written(SMALL, unit, tmp_path).items():
            assert data == (root / name).read_bytes(), name


def test_a_larger_set_begins_with_the_scenes_of_a_smaller_one(root, tmp_path):
    larger = GqnRecipe(train=9, test=2, scenes_per_file=3, samples=1, textures="procedural")
    name = "rooms_ring_camera/train/1-of-3.tfrecord"
    written(larger, 0, tmp_path)
    first, second = (RecordFile(folder / name) for folder in (root, tmp_path))
    assert list(second.read([0, 1])) == list(first.read([0, 1]))


def test_splits_and_seeds_share_no_scene(root, tmp_path):
    other = GqnRecipe(train=5, test=2, scenes_per_file=2, seed=1, samples=1, textures="procedural")
    folder = "rooms_ring_camera"
    files = [root / folder / name for name in ("train/1-of-3.tfrecord", "test/1-of-1.tfrecord")]
    written(other, 0, tmp_path)
    files.append(tmp_path / folder / "train/1-of-3.tfrecord")
    records = [record for path in files for record in RecordFile(path).read([0, 1])]
    assert len(set(records)) == len(records) == 6


def test_every_file_holds_its_share():
    recipe = GqnRecipe(train=1201, test=7, scenes_per_file=500)
    assert recipe.units() == 4
    scenes = [recipe.file(unit) for unit in range(4)]
    assert [(f.split, f.name, len(f.scenes)) for f in scenes] == [
        ("train", "1-of-3", 500),
        ("train", "2-of-3", 500),
        ("train", "3-of-3", 201),
        ("test", "1-of-1", 7),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": 0}, "train needs to be at least 1 scene, but is 0"),
        ({"scenes_per_file": -1}, "scenes_per_file needs to be at least 1"),
        ({"samples": 4}, "samples is 1, 2 or 3"),
    ],
)
def test_settings_that_make_no_set_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GqnRecipe(**wrong)


@pytest.mark.gpu
def test_cuda_draws_the_same_frames():
    textures = TEXTURES
    here = render_views(Renderer(textures), 0, torch.arange(8))
    there = render_views(Renderer(textures, "cuda"), 0, torch.arange(8, device="cuda"))
    assert (here.frames.int() - there.frames.cpu().int()).abs().float().mean() < 0.05
    assert (here.masks == there.masks.cpu()).float().mean() > 0.9995

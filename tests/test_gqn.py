"""GQN scenes: split rules, views, the bytes that are written, and files that are damaged."""

import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import load
from pretrain.data.example import build_example
from pretrain.data.gqn import Gqn
from pretrain.data.gqn_files import encode_jpeg, file_name, split_files, write_scenes
from pretrain.data.pixels import decode_rgb
from pretrain.data.record_file import RecordFile
from pretrain.data.tfrecord import RecordError, read_records, write_records
from pretrain.flags import parse_arguments
from pretrain.run import main
from runs import arguments

SAMPLES = os.environ.get("GENESIS_RL_SAMPLES")
GENUINE = Path(SAMPLES or "") / "gqn_shepard_metzler_raw"
needs_samples = pytest.mark.skipif(
    not GENUINE.is_dir(), reason="GENESIS_RL_SAMPLES has no genuine GQN scenes"
)
HEADER = bytes.fromhex("ffd8ffe000104a46494600010101012c012c0000ffdb")
LUMINANCE = [
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
]
CHROMINANCE = [
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, *[99] * 38),
]


def flat_scene(number, views=10, size=64):
    """Every view is one grey: the scene's number times ten plus the view's."""
    levels = (number * views + np.arange(views)) % 256
    frames = np.broadcast_to(levels[:, None, None, None], (views, size, size, 3))
    return frames.astype(np.uint8), np.full((views, 5), number, np.float32)


def write_set(root, train=((1, 1, 6),), test=((1, 1, 2),), **options):
    """Writes files of (number, total, scenes); scenes are numbered through each split."""
    for split, files in (("train", train), ("test", test)):
        folder = root / "rooms_ring_camera" / split
        folder.mkdir(parents=True)
        first = 0
        for number, total, scenes in files:
            content = (flat_scene(first + k, **options) for k in range(scenes))
            write_scenes(folder / file_name(number, total), content)
            first += scenes
    return root


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "cache"))
    return write_set(tmp_path / "data", train=((1, 3, 8), (2, 3, 8), (3, 3, 5)))


def grey(batch):
    return batch.images[:, 32, 32, 0].int()


# --- what is written ----------------------------------------------------------------------------


def test_written_jpeg_files_have_the_published_header_and_tables():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode_jpeg(noise)
    assert data[:22] == HEADER
    with Image.open(io.BytesIO(data)) as picture:
        tables = picture.quantization
        assert picture.info["dpi"] == (300, 300)
        assert picture.layer[0][1:3] == (2, 2)  # luminance at full, colour at half resolution
    # Annex K of the JPEG standard, scaled to quality 95 as libjpeg does.
    assert tables[0] == [max(1, (10 * base + 50) // 100) for base in LUMINANCE]
    assert tables[1] == [max(1, (10 * base + 50) // 100) for base in CHROMINANCE]


@needs_samples
def test_genuine_jpeg_files_have_the_header_and_tables_that_we_write():
    ours = Image.open(io.BytesIO(encode_jpeg(np.zeros((64, 64, 3), np.uint8))))
    for path in sorted(GENUINE.glob("*.jpg")):
        assert path.read_bytes()[:22] == HEADER
        with Image.open(path) as genuine:
            assert genuine.quantization == ours.quantization


def test_files_are_named_as_published():
    assert file_name(3, 2160) == "0003-of-2160.tfrecord"
    assert file_name(240, 240) == "240-of-240.tfrecord"
    assert file_name(1, 2) == "1-of-2.tfrecord"


def test_cameras_come_first_and_both_features_are_read_back(root):
    path = root / "rooms_ring_camera" / "train" / "2-of-3.tfrecord"
    payload = next(iter(read_records(path))).payload
    assert payload.find(b"cameras") < payload.find(b"frames")
    scene = Gqn("train", data_dir=root).scene(9)
    assert len(scene.frames) == 10
    assert scene.cameras.shape == (10, 5)
    assert (scene.cameras == 9).all()
    assert scene.frames[3] == encode_jpeg(flat_scene(9)[0][3])


@needs_samples
def test_two_genuine_scenes_come_back_byte_true(tmp_path):
    folder = tmp_path / "shepard_metzler_5_parts" / "train"
    folder.mkdir(parents=True)
    genuine = []
    for name in ("scene0", "scene1033"):
        frames = [p.read_bytes() for p in sorted(GENUINE.glob(f"{name}_frame*.jpg"))]
        cameras = np.load(GENUINE / f"{name}_cameras.npy", allow_pickle=False)
        genuine.append((frames, cameras))
    examples = [build_example({"frames": f, "cameras": c.ravel()}) for f, c in genuine]
    write_records(folder / "001-of-900.tfrecord", examples * 60)
    with pytest.warns(UserWarning, match="1 of 900 files"):
        data = load("gqn:shepard_metzler_5_parts", "train", data_dir=tmp_path)
    for index, (frames, cameras) in enumerate(genuine):
        scene = data.scene(index)
        assert scene.frames == frames
        assert scene.cameras.tobytes() == cameras.astype("<f4").tobytes()
        decoded = {np.asarray(Image.open(io.BytesIO(f)).convert("RGB")).tobytes() for f in frames}
        assert data.batch([index]).images[0].numpy().tobytes() in decoded


# --- which view, which split --------------------------------------------------------------------


def test_a_view_is_a_function_of_seed_split_and_scene(root):
    data = Gqn("train", data_dir=root)
    assert len(data) == 16
    together = grey(data.batch(range(16)))
    assert (together // 10 == torch.arange(16)).all()  # the right scene
    alone = torch.cat([grey(data.batch([index])) for index in (11, 3)])
    assert (alone == together[[11, 3]]).all()
    views = together % 10
    assert len(views.unique()) > 4
    other = grey(Gqn("train", data_dir=root, seed=1).batch(range(16))) % 10
    assert (other != views).any()


def test_views_are_uniform(tmp_path):
    write_set(tmp_path, train=((1, 1, 610),))
    data = Gqn("train", data_dir=tmp_path)  # grey levels wrap at 256, so look at 10 x scene + view
    seen = (grey(data.batch(range(600))) - 10 * torch.arange(600)) % 256
    counts = torch.bincount(seen, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 30


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        ([(i, 120) for i in range(1, 121)], range(118), range(118, 120)),
        ([(1, 12), (2, 12), (5, 12)], [0, 1], [2]),  # the last of those that are there
        ([(3, 2160), (7, 2160), (2130, 2160)], [0, 1], [2]),  # by number
        ([(3, 2160), (7, 2160), (9, 2160)], [0, 1], [2]),  # no validation file has arrived
        ([(2124, 2160), (2125, 2160), (2160, 2160)], [0], [1, 2]),
    ],
)
def test_files_are_split_as_specified(tmp_path, names, train, val):
    folder = tmp_path / "train"
    folder.mkdir()
    paths = [folder / file_name(*name) for name in names]
    for path in paths:
        path.touch()
    (folder / "0004-of-2160.tfrecord_.gstmp").touch()
    (folder / "0005-of-2160.gstmp.tfrecord").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for split, expected in (("train", train), ("val", val)):
            found = [part.file.path for part in split_files(tmp_path, split)]
            assert found == [paths[k] for k in expected]


def test_a_partial_download_keeps_its_splits_and_warns(tmp_path):
    write_set(tmp_path, train=[(number, 2160, 2) for number in (3, 7, 2130)])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert len(Gqn("train", data_dir=tmp_path)) == 4
        data = Gqn("val", data_dir=tmp_path)
    lines = [str(warning.message) for warning in warned]
    assert sum("holds 3 of 2160 files" in line for line in lines) == 2
    assert sum("holds 2 scenes; published are 5,000" in line for line in lines) == 3
    assert len(data) == 2
    assert grey(data.batch([0]))[0] // 10 == 4


def test_a_single_file_gives_its_last_sixtieth_to_validation(tmp_path):
    write_set(tmp_path, train=((1, 1, 120),))
    train, val = (Gqn(split, data_dir=tmp_path) for split in ("train", "val"))
    assert (len(train), len(val), len(Gqn("test", data_dir=tmp_path))) == (118, 2, 2)
    assert val.scene(0).cameras[0, 0] == 118


def test_the_folder_itself_may_be_named(root):
    assert len(Gqn("train", data_dir=root / "rooms_ring_camera")) == 16


def test_size_reads_no_further_than_it_needs(root):
    (root / "rooms_ring_camera" / "train" / "2-of-3.tfrecord").write_bytes(b"damaged")
    assert len(Gqn("train", data_dir=root, size=8)) == 8
    with pytest.raises(RecordError, match=r"2-of-3\.tfrecord: record 0 at byte 0: the file ends"):
        Gqn("train", data_dir=root, size=9)


# --- for training -------------------------------------------------------------------------------


def test_the_compact_form_holds_the_same_pixels_and_can_grow(root):
    data = load("gqn", "train", size=6, image_size=64, data_dir=root, device="cpu")
    first = data.all(progress=False)
    assert first.masks is None
    assert (first.images == data.batch(range(6)).images).all()
    more = load("gqn", "train", data_dir=root).all(progress=False)
    assert len(more.images) == 16
    assert (more.images[:6] == first.images).all()
    assert len(os.listdir(root.parent / "cache")) == 1  # the same folder, made longer


def test_another_size_takes_the_nearest_pixel(tmp_path):
    ramp = np.zeros((1, 64, 64, 3), np.uint8)
    ramp[:] = np.arange(64, dtype=np.uint8)[:, None] * 4
    folder = tmp_path / "train"
    folder.mkdir()
    write_scenes(folder / "1-of-1.tfrecord", [(ramp, np.zeros((1, 5), np.float32))] * 2)
    image = Gqn("val", data_dir=tmp_path, image_size=32).batch([0]).images[0]
    full = Gqn("val", data_dir=tmp_path).batch([0]).images[0]
    assert (image == full[::2, ::2]).all()


def test_pretraining_on_a_folder_of_records(root):
    out = root.parent / "run"
    options = {"dataset": "gqn", "data_dir": root, "train_images": 12, "validate_every": 2}
    assert main(arguments(out, steps=3, validation_images=2, **options)) == 0
    assert (out / "model" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["split"] == "val"]
    assert scores
    assert all("kl" in line and "ari_fg" not in line for line in scores)  # there are no masks


def test_data_that_nobody_has_and_nobody_can_make_is_one_clear_error(tmp_path, capsys):
    assert main(arguments(tmp_path / "run", dataset="gqn:jaco")) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: gqn needs --data-dir DIR with DIR/jaco/train/0001")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("preset", "slots"), [("gqn", 7), ("shapestacks", 9)])
def test_the_presets_have_the_published_number_of_slots(preset, slots):
    config = parse_arguments(["--config", preset, "--data-dir", "somewhere"])
    assert (config.dataset, config.num_slots, config.image_size) == (preset, slots, 64)


# --- what can be wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, "empty"])
def test_missing_data_print_the_expected_tree_and_where_it_comes_from(tmp_path, place):
    with pytest.raises(FileNotFoundError) as raised:
        Gqn("train", data_dir=place and tmp_path)
    message = str(raised.value)
    assert "DIR/rooms_ring_camera/train/0001-of-2160.tfrecord" in message
    assert "gsutil -m cp -r gs://gqn-dataset/rooms_ring_camera DIR" in message
    assert "\n" not in message


def test_damage_is_named_by_file_and_record(root):
    path = root / "rooms_ring_camera" / "train" / "1-of-3.tfrecord"
    data = bytearray(path.read_bytes())
    data[int(RecordFile(path).offsets[2]) + 500] ^= 4
    path.write_bytes(data)
    gqn_data = Gqn("train", data_dir=root)
    assert len(gqn_data.batch([1, 3]).images) == 2
    with pytest.raises(RecordError, match=r"1-of-3.tfrecord: record 2 at byte \d+: its payload"):
        gqn_data.all(progress=False)
    with pytest.raises(ValueError, match=r"damaged records: 1, more than 0\.1% of 8"):
        Gqn("train", data_dir=root, on_corrupt="skip")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"frames": [b"no picture"], "cameras": np.zeros(5, "f4")}, "no JPEG or PNG"),
        ({"frames": [b"x"]}, "needs frames and cameras, but has frames"),
        ({"frames": [b"x"], "cameras": np.zeros(4, "f4")}, "1 frames need five float32 each"),
        ({"frames": [], "cameras": np.zeros(0, "f4")}, "0 frames need"),
    ],
)
def test_sound_records_that_are_no_scenes_are_named(tmp_path, example, message):
    (tmp_path / "test").mkdir()
    write_records(tmp_path / "test" / "1-of-1.tfrecord", [build_example(example)])
    data = Gqn("test", data_dir=tmp_path)
    with pytest.raises(ValueError, match=rf"1-of-1.tfrecord: record 0: .*{message}"):
        data.batch([0])


def test_frames_need_the_published_size_of_their_set(tmp_path):
    write_set(tmp_path, size=84)
    with pytest.raises(ValueError, match=r"record 0: it needs to be 64 x 64 pixels, but is 84 x"):
        Gqn("test", data_dir=tmp_path).batch([0])
    own = tmp_path / "rooms_ring_camera"
    assert (
        Gqn("test", variant="my_own", data_dir=own, image_size=84).batch([0]).images.shape[1] == 84
    )


def picture(**options):
    shape = options.pop("shape", (64, 64, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (picture(format="JPEG")[:400], "cannot be decoded"),
        (picture(format="GIF"), "no JPEG or PNG"),
        (picture(format="JPEG", shape=(64, 64)), "RGB, but has 1 channels"),
        (picture(format="JPEG", shape=(64, 32, 3)), "64 x 64 pixels, but is 64 x 32"),
        (picture(format="PNG", shape=(8000, 8000, 3)), "64 x 64 pixels, but is 8000 x 8000"),
        (b"", "no JPEG or PNG"),
        (b"\xff\xd8\xff", "no JPEG or PNG"),
    ],
)
def test_pictures_that_are_none_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_rgb(data, 64)


def test_a_file_cut_between_two_records_is_noticed_by_the_count(root):
    path = root / "rooms_ring_camera" / "train" / "1-of-3.tfrecord"
    files = {"rooms_ring_camera/train/1-of-3.tfrecord": {"records": 8}}
    (root / "genesis_rl.json").write_text(json.dumps({"files": files}))
    assert len(Gqn("train", data_dir=root)) == 16
    path.write_bytes(path.read_bytes()[: int(RecordFile(path).offsets[7])])
    with pytest.raises(ValueError, match=r"holds 7 records, but genesis_rl\.json announces 8"):
        Gqn("train", data_dir=root)


def test_files_of_two_sets_and_unknown_options_are_refused(root):
    (root / "rooms_ring_camera" / "train" / "01-of-12.tfrecord").touch()
    with pytest.raises(ValueError, match=r"mixes files of several sets \(of \[3, 12\] files\)"):
        Gqn("train", data_dir=root)
    with pytest.raises(ValueError, match="'stop' or 'skip', but is 'ignore'"):
        Gqn("test", data_dir=root, on_corrupt="ignore")
    with pytest.raises(ValueError, match="size needs to be at least 1"):
        Gqn("test", data_dir=root, size=0)


def test_fewer_scenes_than_were_asked_for_are_used_with_a_warning(root):
    with pytest.warns(UserWarning, match=r"test scenes of .*: 3 were asked for, 2 are there and"):
        assert len(Gqn("test", data_dir=root, size=3)) == 2


def test_scenes_that_cannot_be_written_are_refused(tmp_path):
    frames, cameras = flat_scene(0)
    with pytest.raises(ValueError, match="a scene is"):
        write_scenes(tmp_path / "a", [(frames, cameras[:9])])
    with pytest.raises(ValueError, match="finite"):
        write_scenes(tmp_path / "a", [(frames, cameras * np.nan)])
    assert not list(tmp_path.iterdir())

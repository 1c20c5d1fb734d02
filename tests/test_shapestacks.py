"""ShapeStacks: names, lists, crops and masks, on a small tree and on genuine frames."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data import load
from pretrain.data.shapestacks import (
    ShapeStacks,
    load_course_subset,
    nearest_indices,
    parse_scenario,
    preprocess,
    read_list,
    read_mask,
)

SAMPLES = Path(os.environ.get("GENESIS_RL_SAMPLES") or "nowhere")
needs_samples = pytest.mark.skipif(
    not (SAMPLES / "shapestacks_example").is_dir(), reason="GENESIS_RL_SAMPLES is not set"
)

STABLE = "env_blocks-easy-h=3-vcom=0-vpsf=0-v=12"
TOPPLES = "env_ccs-hard-h=5-vcom=2-vpsf=0-v=7"
ROLLS = "env_ccs-easy-h=6-vcom=0-vpsf=3-v=101"
TESTED = "env_blocks-hard-h=2-vcom=1-vpsf=0-v=1"


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, format="PNG", **options)


def picture(scenario, camera):
    """Left half as grey as the scenario's height times ten, right half as the camera's number."""
    image = np.empty((224, 224, 3), np.uint8)
    image[:, :112] = parse_scenario(scenario)[0] * 10
    image[:, 112:] = camera
    return image


def mask_of(labels):
    """The file's array: RGBA with 32 times the label in every channel but the last."""
    levels = (labels * 32).astype(np.uint8)
    return np.dstack([levels] * 3 + [np.full_like(levels, 255)])


def labels_of(camera):
    labels = np.zeros((224, 224), np.uint8)
    labels[100:160, 60:120] = 1
    labels[40:100, 60:120] = 2 + camera % 5
    return labels


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "shapestacks"
    lists = {"train": [STABLE, TOPPLES, ROLLS], "eval": [STABLE], "test": [TESTED]}
    for name, names in lists.items():
        path = root / "splits" / "default" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names))  # no newline at the end, as some copies have it
    for scenario in (STABLE, TOPPLES, ROLLS, TESTED):
        for camera in range(1, 17):
            name = f"w=5-f=0-l=4-c=unique-cam_{camera}-mono-0.png"
            save(root / "recordings" / scenario / f"rgb-{name}", picture(scenario, camera))
        (root / "recordings" / scenario / "log.txt").touch()
    return root


def add_masks(root, place="iseg", scenarios=(STABLE, TOPPLES, ROLLS, TESTED)):
    for scenario in scenarios:
        for camera in range(1, 17):
            name = f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map"
            save(root / place / scenario / name, mask_of(labels_of(camera)))


def test_labels_come_from_the_names(root):
    data = ShapeStacks("train", data_dir=root)
    assert len(data) == 48
    labels = data.labels(range(48))
    for index in range(48):
        name, path = data.path(index).parent.name, data.path(index).name
        assert labels.view[index] == int(path.split("cam_")[1].split("-")[0]) - 1
        expected = {STABLE: (0, 1, 0, 0), TOPPLES: (1, 3, 1, 2), ROLLS: (1, 4, 2, 3)}[name]
        row = (labels.stability, labels.height, labels.violation, labels.level)
        assert tuple(int(column[index]) for column in row) == expected


def test_images_and_labels_belong_together(root):
    data = load("shapestacks", "train", size=40, image_size=64, data_dir=root, device="cpu")
    labels, batch = data.labels(range(40)), data.batch(range(40))
    assert batch.images.shape == (40, 64, 64, 3)
    assert batch.masks is None
    assert (batch.images[:, 5, 5, 0] == (labels.height + 2) * 10).all()
    assert (batch.images[:, 5, 60, 1] == labels.view + 1).all()


def test_the_order_is_random_but_fixed(root):
    data = ShapeStacks("train", data_dir=root)
    order = [data.path(k) for k in range(48)]
    assert order != sorted(order)
    assert sorted(order) == sorted(set(order))
    few = ShapeStacks("train", data_dir=root, size=10)
    assert [few.path(k) for k in range(10)] == order[:10]
    other = ShapeStacks("train", data_dir=root, seed=1)
    assert [other.path(k) for k in range(48)] != order


def test_the_root_may_be_the_folder_above(root):
    assert len(ShapeStacks("val", data_dir=root.parent)) == 16
    assert len(load("shapestacks:default", "test", data_dir=root)) == 16


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_a_list_gives_the_same_scenarios_whatever_its_end(root, end):
    path = root / "splits" / "default" / "train.txt"
    path.write_bytes(("\n".join([STABLE, TOPPLES, ROLLS]) + end).encode())
    assert read_list(root, "default", "train") == [STABLE, TOPPLES, ROLLS]


@pytest.mark.parametrize("place", ["iseg", "recordings"])
def test_masks_are_found_in_both_places_by_camera(root, place):
    add_masks(root, place)
    data = ShapeStacks("train", data_dir=root)
    assert data.mask_mode == "nearest"
    batch, views = data.batch(range(48)), data.labels(range(48)).view
    pick = nearest_indices(64, exact=False)
    for index in range(48):
        expected = labels_of(int(views[index]) + 1)[np.ix_(pick, pick)]
        assert (batch.masks[index].numpy() == expected).all()
    assert ShapeStacks("train", data_dir=root, masks="none").batch([0]).masks is None


def test_nearest_takes_the_specified_pixels(root):
    steps = np.arange(64)
    offset = 14
    assert (nearest_indices(64, False) == np.floor(steps * 196 / 64) + offset).all()
    assert (nearest_indices(64, True) == np.floor((steps + 0.5) * 196 / 64) + offset).all()
    # What torch calls nearest and nearest-exact.
    columns = torch.arange(196.0)[None, None, None].expand(1, 1, 196, -1)
    for mode, exact in (("nearest", False), ("nearest-exact", True)):
        row = torch.nn.functional.interpolate(columns, size=(64, 64), mode=mode)[0, 0, 0]
        assert (row.numpy() == nearest_indices(64, exact) - offset).all()
    add_masks(root)
    exact = ShapeStacks("val", data_dir=root, masks="nearest-exact")
    pick = nearest_indices(64, True)
    camera = int(exact.labels([0]).view) + 1
    assert (exact.batch([0]).masks[0].numpy() == labels_of(camera)[np.ix_(pick, pick)]).all()


def test_a_map_file_survives_the_round_trip():
    labels = (np.arange(224 * 224).reshape(224, 224) // 97 % 7).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(mask_of(labels)).save(buffer, format="PNG")
    assert (read_mask(buffer.getvalue()) == labels).all()
    assert (np.asarray(Image.open(buffer))[..., 0] // 32 == labels).all()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_images_are_cropped_and_resized_as_torch_does_it(size):
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((20, 20)).resize((224, 224)))
    crop = torch.from_numpy(image[14:210, 14:210].copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        crop, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )[0].permute(1, 2, 0)
    assert (torch.tensor(preprocess(image, size)) - expected).abs().max() <= 1.01


def test_the_compact_form_holds_images_and_masks(root):
    add_masks(root)
    data = ShapeStacks("train", data_dir=root)
    kept, direct = data.all(progress=False), data.batch(range(48))
    assert (kept.images == direct.images).all()
    assert (kept.masks == direct.masks).all()


# --- genuine frames -----------------------------------------------------------------------------


@needs_samples
def test_reads_the_genuine_example(root):
    scenario = "env_ccs-easy-h=4-vcom=0-vpsf=0-v=60"
    folder = root / "recordings" / scenario
    folder.mkdir()
    for path in (SAMPLES / "shapestacks_example").iterdir():
        shutil.copy(path, folder)  # rgb, and depth and vseg that must not be taken for it
    (root / "splits" / "default" / "test.txt").write_text(scenario + "\n")
    with pytest.warns(UserWarning, match="1 lack views"):
        data = ShapeStacks("test", data_dir=root)
    assert len(data) == 2
    assert sorted(data.labels([0, 1]).view.tolist()) == [0, 1]
    assert {data.path(k).name[:4] for k in (0, 1)} == {"rgb-"}
    for image, index in zip(data.batch([0, 1]).images, (0, 1), strict=True):
        with Image.open(data.path(index)) as genuine:
            crop = genuine.convert("RGB").crop((14, 14, 210, 210))
            expected = np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR))
        assert (image.numpy() == expected).all()


@needs_samples
def test_reads_the_240_genuine_frames():
    frames = load_course_subset(SAMPLES / "shapestacks_real_224px")
    assert frames.images.shape == (240, 64, 64, 3)
    assert set(frames.labels["total_height"].tolist()) == {2, 3, 4, 5, 6}
    # The same frames, cropped and resized elsewhere and saved as JPEG.
    with np.load(SAMPLES / "shapestacks_real_2000_64px.npz", allow_pickle=False) as archive:
        ids, offsets, jpeg = archive["id"].tolist(), archive["offsets"], archive["jpeg"]
    places = {number: place for place, number in enumerate(ids)}
    both = [k for k, number in enumerate(frames.labels["id"].tolist()) if number in places]
    assert both
    for k in both:
        place = places[int(frames.labels["id"][k])]
        data = jpeg[offsets[place] : offsets[place + 1]].tobytes()
        theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
        assert np.abs(frames.images[k].numpy() - theirs).mean() < 4


# --- what can be wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("place", [None, "empty"])
def test_missing_data_print_the_expected_tree_and_where_it_comes_from(tmp_path, place):
    with pytest.raises(FileNotFoundError, match=r"DIR/recordings/env_\*/rgb-\*.png.*https://"):
        ShapeStacks("train", data_dir=place and tmp_path)


def test_a_missing_list_and_a_broken_one_are_named(root):
    with pytest.raises(FileNotFoundError, match=r"splits/ccs_all/test\.txt, which is missing"):
        ShapeStacks("test", variant="ccs_all", data_dir=root)
    path = root / "splits" / "default" / "test.txt"
    path.write_text(f"{TESTED}\n../../etc\n")
    with pytest.raises(ValueError, match=r"test\.txt: entry 2 is no scenario's name"):
        ShapeStacks("test", data_dir=root)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"test\.txt is empty"):
        ShapeStacks("test", data_dir=root)


def test_a_partial_copy_is_used_with_a_warning(root):
    shutil.rmtree(root / "recordings" / ROLLS)
    next((root / "recordings" / STABLE).glob("rgb-*cam_3-*")).unlink()
    with pytest.warns(UserWarning, match="of 3 train scenarios 1 are missing and 1 lack views"):
        assert len(ShapeStacks("train", data_dir=root)) == 31
    for name in (STABLE, TOPPLES):
        shutil.rmtree(root / "recordings" / name)
    with pytest.raises(FileNotFoundError, match="none of the 3 scenarios"):
        ShapeStacks("train", data_dir=root)


def test_masks_that_are_missing_for_some_images_are_named(root):
    add_masks(root, scenarios=(STABLE, TOPPLES))
    with pytest.raises(FileNotFoundError, match=f"16 of 48 images have no mask.*{ROLLS}"):
        ShapeStacks("train", data_dir=root)
    assert ShapeStacks("val", data_dir=root).batch([0]).masks is not None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((196, 196, 3), np.uint8), "224 x 224 pixels, but is 196 x 196"),
        (np.zeros((224, 224), np.uint8), "RGB, but has 1 channels"),
    ],
)
def test_images_of_another_kind_are_named(root, array, message):
    data = ShapeStacks("test", data_dir=root)
    save(data.path(4), array)
    with pytest.raises(ValueError, match=rf"cam_\d+-mono-0\.png: it needs to be {message}"):
        data.batch([4])


def test_a_damaged_image_is_named(root):
    data = ShapeStacks("test", data_dir=root)
    content = data.path(2).read_bytes()
    data.path(2).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"mono-0\.png: it cannot be decoded"):
        data.all(progress=False)


def test_masks_with_other_levels_are_named(root):
    add_masks(root)
    data = ShapeStacks("test", data_dir=root)
    for path in (root / "iseg" / TESTED).iterdir():
        save(path, mask_of(labels_of(1)) // 2)
    with pytest.raises(ValueError, match=r"\.map: grey levels need to be 0, 32"):
        data.batch([0])


def test_two_images_of_one_camera_are_refused(root):
    save(root / "recordings" / TESTED / "rgb-w=1-cam_2-mono-0.png", picture(TESTED, 2))
    with pytest.raises(ValueError, match="two files of camera 2"):
        ShapeStacks("test", data_dir=root)


@pytest.mark.parametrize(
    "name", ["env_ccs-easy-h=3-vcom=3-vpsf=0-v=1", "env_ccs-easy-h=3-vcom=1-vpsf=1-v=1", "env_x"]
)
def test_names_that_contradict_themselves_are_refused(name):
    with pytest.raises(ValueError, match=name):
        parse_scenario(name)

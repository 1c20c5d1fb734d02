"""Generated ShapeStacks: what the reader finds in it, and what the files hold."""

import numpy as np
import pytest
import torch

from envs.raycast import Renderer
from envs.textures import stack_textures
from envs.towers import draw_towers, stack_camera, tower_scene
from pretrain.data import make_shapestacks
from pretrain.data.generate import Written, generate
from pretrain.data.make_shapestacks import (
    SPLIT_COUNTS,
    ShapeStacksRecipe,
    divide,
    encode_mask,
    encode_picture,
)
from pretrain.data.manifest import read_marker
from pretrain.data.pixels import decode_rgb
from pretrain.data.shapestacks import ShapeStacks, parse_scenario, read_mask

SMALL = ShapeStacksRecipe(at_least=48, seed=3, shapes="both", scenarios_per_unit=2)
SPLITS = {"train": "train", "eval": "val", "test": "test"}  # files' names and ours


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Three scenarios of sixteen views, one in each split."""
    root = tmp_path_factory.mktemp("small") / "data"
    return generate(SMALL, root, device="cpu", workers=1, progress=False)


pytestmark = pytest.mark.usefixtures("cache")


def notes(names, wrong=()):
    """What units report of scenarios; `wrong` ones do the opposite of what their names say."""
    files = {}
    for number, name in enumerate(names):
        stands = (parse_scenario(name)[1] == 0) != (name in wrong)
        note = {"bgr": [number, 2 * number, 3 * number], "stands": stands}
        files[f"shapestacks/recordings/{name}/rgb-cam_1-mono-0.png"] = Written("", 0, note=note)
        files[f"shapestacks/recordings/{name}/rgb-cam_2-mono-0.png"] = Written("", 0)
    return files


def names_of(count):
    return [f"env_{name}" for name in draw_towers(torch.arange(count), shapes="both").names()]


# --- what is generated --------------------------------------------------------------------------


def test_the_reader_finds_every_view_mask_and_label(small):
    towers = draw_towers(torch.arange(3), seed=3, shapes="both")
    found = {}
    for split in SPLITS.values():
        data = ShapeStacks(split, data_dir=small)
        assert len(data) == 16
        assert data.mask_mode == "nearest"
        assert sorted(data.labels(range(16)).view.tolist()) == list(range(16))
        batch = data.batch(range(16))
        assert batch.images.shape == (16, 64, 64, 3)
        found[data.path(0).parent.name] = data.labels([0])
        assert 1 <= batch.masks.max() <= int(found[data.path(0).parent.name].height) + 2
    for row, name in enumerate(towers.names()):
        labels = found[f"env_{name}"]
        assert int(labels.height) + 2 == int(towers.height[row])
        assert bool(labels.stability) == (not towers.stable[row])


def test_pictures_are_rendered_with_one_ray_and_stored_without_loss(small):
    data = ShapeStacks("test", data_dir=small)
    name, view = data.path(5).parent.name, int(data.labels([5]).view) + 1
    towers = draw_towers(torch.arange(3), seed=3, shapes="both")
    tower = towers[towers.names().index(name.removeprefix("env_")) :][:1]
    scene = tower_scene(tower, stack_camera(torch.tensor([view])))
    expected = Renderer(stack_textures()).render(scene, size=224, samples=1)
    path = data.path(5)
    room = f"w={int(tower.wall)}-f={int(tower.floor)}-l={int(tower.light)}"
    assert path.name == f"rgb-{room}-c=unique-cam_{view}-mono-0.png"
    assert (decode_rgb(path.read_bytes(), 224) == expected.images[0].numpy()).all()
    mask = f"iseg-w=0-f=0-l=0-c=original-cam_{view}-mono-0.map"
    mask_path = small / "shapestacks" / "iseg" / name / mask
    assert (read_mask(mask_path.read_bytes()) == expected.masks[0].numpy()).all()


def test_mean_colours_are_blue_green_red(small):
    data = ShapeStacks("val", data_dir=small)
    pictures = [decode_rgb(data.path(row).read_bytes(), 224) for row in range(16)]
    expected = np.stack(pictures).astype(float).mean(axis=(0, 1, 2))[::-1]
    mean = np.load(small / "shapestacks/splits/default/eval_bgr_mean.npy", allow_pickle=False)
    assert mean.shape == (3,)
    assert mean == pytest.approx(expected)


def test_the_marker_says_what_it_depends_on(small):
    marker = read_marker(small / "genesis_rl.json")
    assert marker["complete"]
    assert marker["images"] == 48
    assert marker["settings"]["textures"] == "procedural"
    assert len([name for name in marker["files"] if name.endswith(".png")]) == 48
    assert len([name for name in marker["files"] if name.endswith(".map")]) == 48


def test_a_unit_alone_is_written_as_it_is_among_others(small, tmp_path):
    written = SMALL.write(1, tmp_path, torch.device("cpu"))
    assert len(written) == 32  # the last of three scenarios, two to a unit
    for name in written:
        assert (tmp_path / name).read_bytes() == (small / name).read_bytes()


def test_a_picture_and_a_mask_survive_their_files():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert (decode_rgb(encode_picture(picture), 224) == picture).all()
    labels = random.integers(0, 7, (224, 224), dtype=np.uint8)
    assert (read_mask(encode_mask(labels)) == labels).all()


# --- splits and blacklists ----------------------------------------------------------------------


def test_as_many_scenarios_as_published_are_divided_as_published():
    splits = divide([str(number) for number in range(19_450)])
    assert {split: len(names) for split, names in splits.items()} == SPLIT_COUNTS
    joined = [name for names in splits.values() for name in names]
    assert joined == [str(number) for number in range(19_450)]
    assert {split: len(names) for split, names in divide(["a", "b", "c"]).items()} == {
        "train": 1,
        "eval": 1,
        "test": 1,
    }


def test_lists_end_in_one_newline_and_hold_everything_once(tmp_path):
    names = names_of(60)
    done = SMALL.finish(tmp_path, notes(names))
    listed = []
    for split in SPLITS:
        text = (tmp_path / f"shapestacks/splits/default/{split}.txt").read_text()
        assert text.endswith("\n")
        assert "\n\n" not in text
        listed += text.split()
    assert listed == names
    blocks = (tmp_path / "shapestacks/splits/blocks_all/train.txt").read_text().split()
    train = (tmp_path / "shapestacks/splits/default/train.txt").read_text().split()
    assert blocks == [name for name in train if name.startswith("env_blocks-")]
    assert set(done) == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    }


def test_what_contradicts_its_name_is_blacklisted_and_in_no_split(tmp_path):
    names = names_of(40)
    fell = next(name for name in names if parse_scenario(name)[1] == 0)
    stood = next(name for name in names if parse_scenario(name)[1] == 2)
    SMALL.finish(tmp_path, notes(names, wrong=(fell, stood)))
    meta = tmp_path / "shapestacks/meta"
    assert (meta / "blacklist_stable.txt").read_text() == f"{fell}\n"
    assert (meta / "blacklist_unstable.txt").read_text() == f"{stood}\n"
    listed = [path.read_text() for path in (tmp_path / "shapestacks/splits").rglob("*.txt")]
    assert not any(name in text.split() for text in listed for name in (fell, stood))


def test_simulation_is_noted_for_every_tower(monkeypatch):
    pytest.importorskip("mujoco")
    towers = draw_towers(torch.arange(2), seed=3)
    images = torch.zeros(32, 4, 4, 3, dtype=torch.uint8)
    images[16:, :, :, 0] = 5  # red
    noted = ShapeStacksRecipe(physics=True)._notes(towers, images)
    assert [note["bgr"] for note in noted] == [[0, 0, 0], [0, 0, 5 * 16 * 16]]
    assert [note["stands"] for note in noted] == towers.stable.tolist()
    noted = ShapeStacksRecipe(physics=False)._notes(towers, images)
    assert [note["stands"] for note in noted] == [None, None]


# --- what can be wrong --------------------------------------------------------------------------


def test_without_mujoco_nothing_is_simulated_and_the_marker_says_so(without_mujoco):
    assert ShapeStacksRecipe().settings()["physics"] == "none"
    with pytest.raises(ValueError, match=r"pip install 'genesis-rl\[env\]'"):
        ShapeStacksRecipe(physics=True).settings()


def test_images_are_whole_scenarios_and_three_at_least():
    assert ShapeStacksRecipe(at_least=50).images == 64
    assert ShapeStacksRecipe(at_least=1).images == 48
    assert ShapeStacksRecipe(at_least=16 * 19_450).units() == 1216
    for name in ("at_least", "scenarios_per_unit"):
        with pytest.raises(ValueError, match=f"{name} needs to be at least 1, but is 0"):
            ShapeStacksRecipe(**{name: 0})
    with pytest.raises(ValueError, match="but are 'cubes'"):
        ShapeStacksRecipe(shapes="cubes")


def test_textures_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="mjcf/textures of the release"):
        ShapeStacksRecipe(textures=str(tmp_path)).settings()
    assert make_shapestacks.stack_textures().source == "procedural"

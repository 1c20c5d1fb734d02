"""The command of the ShapeStacks probes, on a small tree of files and on frames in an .npz."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch

from benchmarks import probe_shapestacks
from benchmarks.probe_data import encode, load_genuine, load_split, open_observer
from genesis_rl import Genesis, GenesisConfig, GenesisObsWrapper, save_checkpoint
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig

SAMPLES = Path(os.environ.get("GENESIS_RL_SAMPLES") or "nowhere") / "shapestacks_real_2000_64px.npz"
CPU = torch.device("cpu")
TASKS = ["stability", "height", "view"]
TRAIN = [
    "env_blocks-easy-h=2-vcom=0-vpsf=0-v=1",
    "env_blocks-easy-h=3-vcom=1-vpsf=0-v=2",
    "env_ccs-hard-h=6-vcom=0-vpsf=3-v=3",
]
TEST = ["env_blocks-hard-h=4-vcom=0-vpsf=0-v=4", "env_ccs-easy-h=5-vcom=0-vpsf=2-v=5"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """ShapeStacks of five towers: red is the height times 40, green the camera times 15."""
    root = tmp_path_factory.mktemp("data")
    for name, scenarios in (("train", TRAIN), ("eval", TEST[:1]), ("test", TEST)):
        path = root / "splits" / "default" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(scenarios) + "\n")
    for scenario in TRAIN + TEST:
        folder = root / "recordings" / scenario
        folder.mkdir(parents=True)
        height = int(scenario.split("h=")[1][0])
        for camera in range(1, 17):
            bgr = np.full((224, 224, 3), (0, camera * 15, height * 40), np.uint8)
            cv2.imwrite(str(folder / f"rgb-w=0-f=0-l=0-c=unique-cam_{camera}-mono-0.png"), bgr)
    return root


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One of each kind, as small as they come, untrained."""
    torch.manual_seed(0)
    slots = {"num_slots": 3, "image_size": 32, "width": 4}
    models = {
        "genesis": Genesis(GenesisConfig(**slots)),
        "genesis_s": GenesisS(GenesisSConfig(**slots)),
        "monet": Monet(MonetConfig(**slots)),
        "bd_vae": BdVae(VaeConfig(image_size=32, width=4)),
        "dc_vae": DcVae(VaeConfig(image_size=32, width=4)),
    }
    folder = tmp_path_factory.mktemp("weights")
    return {name: str(save_checkpoint(folder / name, model)) for name, model in models.items()}


def frames(path, count=24, **changes):
    """An .npz as that of the genuine frames, grey by height; `changes` replace or drop columns."""
    heights = np.arange(count) % 5 + 2
    files = [cv2.imencode(".jpg", np.full((64, 64, 3), 30 * h, np.uint8))[1] for h in heights]
    columns = {
        "jpeg": np.concatenate([np.zeros(0, np.uint8), *files]),
        "offsets": np.cumsum([0, *map(len, files)]),
        "instability_type": np.arange(count) % 3,
        "total_height": heights,
        "cam_angle": np.arange(count) % 2 + 1,
    } | changes
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    return path


def run(argv, tmp_path, capsys):
    argv = [*argv, "--results-dir", str(tmp_path), "--device", "cpu"]
    line = probe_shapestacks.main(argv)
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == line
    return line, printed


def test_the_command_fills_the_papers_table(root, checkpoints, tmp_path, capsys):
    argv = ["--checkpoint", *checkpoints.values(), "--data-dir", str(root)]
    argv += ["--epochs", "2", "--pixel-epochs", "1", "--seeds", "0", "1"]
    line, printed = run([*argv, "--picture", str(tmp_path / "bars.png")], tmp_path, capsys)

    rows = {row["model"]: row for row in line["rows"]}
    assert list(rows) == [*checkpoints, "pixel_cnn", "frequency", "majority"]
    assert [rows[name]["features"] for name in checkpoints] == [240, 192, 48, 64, 64]
    assert (line["train"], line["test"], line["towers"]) == (48, 32, 2)
    for name in (*checkpoints, "pixel_cnn"):
        for task in TASKS:
            score = rows[name]["tasks"][task]
            low, high = score["interval_95"]
            assert 0 <= low <= score["accuracy"] <= high <= 1
            assert len(score["per_seed"]) == 2
            assert score["curve"]["epochs"][-1] == (1 if name == "pixel_cnn" else 2)
            assert score["curve"]["test"][-1] == pytest.approx(score["accuracy"], abs=1e-4)
    assert rows["majority"]["tasks"]["stability"]["accuracy"] == 0.5
    assert rows["frequency"]["tasks"]["view"]["accuracy"] == 0.0625

    for text in (printed, (tmp_path / "probe_shapestacks.md").read_text()):
        for name in ("GENESIS-S", "MONet", "BD-VAE", "DC-VAE", "CNN on pixels", "64.0", "88.4"):
            assert name in text
    assert cv2.imread(str(tmp_path / "bars.png")) is not None

    again, _ = run(argv, tmp_path, capsys)  # the same command gives the same numbers
    assert again["rows"] == line["rows"]


def test_several_checkpoints_of_a_model_get_a_row_together(checkpoints, tmp_path, capsys):
    torch.manual_seed(1)
    config = GenesisConfig(num_slots=3, image_size=32, width=4)
    other = str(save_checkpoint(tmp_path / "other", Genesis(config)))
    argv = ["--checkpoint", checkpoints["genesis"], other, "--genuine"]
    argv += [str(frames(tmp_path / "f.npz")), "--epochs", "1", "--pixel-epochs", "0"]
    line, printed = run(argv, tmp_path, capsys)
    assert "GENESIS, 2 checkpoints, mean" in printed
    assert [row["model"] for row in line["rows"]] == ["genesis"] * 2 + ["frequency", "majority"]
    assert line["rows"][0]["checkpoint_sha256"] != line["rows"][1]["checkpoint_sha256"]


class Still(gym.Env):
    """Shows one frame."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, frame):
        self.frame = frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.frame.copy(), {}


@pytest.mark.parametrize(
    ("latents", "options"),
    [
        ("mean", {}),
        ("samples", {"stochastic": True}),
        ("parity", {"stochastic": True, "parity": "official"}),
    ],
)
def test_a_probe_sees_what_an_agent_sees(checkpoints, latents, options):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    name = checkpoints["genesis"]
    observer = open_observer(name, latents, image_size=64, device=CPU)
    env = GenesisObsWrapper(Still(images[0].numpy()), name, device="cpu", **options)
    seen, _ = env.reset(seed=0)  # which is the seed of the probes' samples, too
    np.testing.assert_allclose(encode(observer, images, batch_size=2)[0], seen, rtol=0, atol=1e-5)


def test_the_layout_of_the_release_leaves_out_a_mask_latent_of_genesis_alone(checkpoints):
    observers = [
        open_observer(path, "parity", image_size=64, device=CPU) for path in checkpoints.values()
    ]
    sizes = [observer.space.shape[0] for observer in observers]
    assert sizes == [2 * 64 + 3 * 16, 3 * 64, 3 * 16, 64, 64]


def test_samples_are_drawn_once_and_are_the_same_for_any_batch_size(checkpoints):
    images = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    drawn = [
        encode(open_observer(checkpoints["monet"], "samples", image_size=64, device=CPU), images,
               batch_size=size) for size in (1, 3)]  # fmt: skip
    torch.testing.assert_close(drawn[0], drawn[1])
    assert not drawn[0][0].allclose(drawn[0][1])  # equal images, noise of their own


def test_kept_latents_are_found_again_by_image_and_option(checkpoints, tmp_path):
    images = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)

    def encoded(images, latents):
        observer = open_observer(checkpoints["dc_vae"], latents, image_size=64, device=CPU)
        return encode(observer, images, batch_size=4, keep=tmp_path), observer.num_encoded

    first, count = encoded(images, "mean")
    assert count == 4
    second, count = encoded(images, "mean")
    assert count == 0
    assert first.equal(second)
    assert encoded(images + 1, "mean")[1] == 4
    assert encoded(images, "samples")[1] == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_every_seed_sees_the_same_images_of_the_splits(root):
    towers = load_split(root, tasks=TASKS, seeds=[0, 5], train=20, test=10)
    assert towers.images.shape == (30, 64, 64, 3)
    examples = towers.examples
    assert examples.train[0].equal(examples.train[5])
    assert set(examples.train[0].tolist()).isdisjoint(examples.test[0].tolist())
    for i in range(30):
        red, green = towers.images[i, 32, 32, :2].tolist()
        assert examples.labels["height"][i] == red // 40 - 2
        assert examples.labels["view"][i] == green // 15 - 1
    same = towers.tower[:, None] == towers.tower
    heights = examples.labels["height"]  # here no two towers are of one height
    assert same.equal(heights[:, None] == heights)


def test_without_numbers_all_images_are_used_and_too_many_are_refused(root):
    assert load_split(root, tasks=TASKS, seeds=[0]).sizes() == (48, 32)
    assert load_split(root, tasks=TASKS, seeds=[0], train=20).sizes() == (20, 20)
    with pytest.raises(ValueError, match=r"--train must be at most 48, .* got 49"):
        load_split(root, tasks=TASKS, seeds=[0], train=49)
    with pytest.raises(ValueError, match=r"--test must be at most 32, .* got 50000"):
        load_split(root, tasks=TASKS, seeds=[0], test=50_000)


def test_without_data_the_look_alike_of_pretraining_is_probed(root, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pretrain.data.lookalike.provide",
        lambda *names, **sizes: asked.append((names, sizes)) or root,
    )
    assert load_split(None, tasks=TASKS, seeds=[0], device=CPU).sizes() == (48, 32)
    assert asked == [(("shapestacks",), {"train": None, "validation": 320, "device": CPU})]


def test_genuine_frames_are_split_anew_by_every_seed(tmp_path):
    towers = load_genuine(frames(tmp_path / "f.npz"), tasks=TASKS, seeds=[0, 1])
    examples = towers.examples
    assert towers.sizes() == (18, 6)
    assert not examples.train[0].equal(examples.train[1])
    for seed in (0, 1):
        both = torch.cat([examples.train[seed], examples.test[seed]])
        assert sorted(both.tolist()) == list(range(24))
    assert examples.classes == {"stability": 2, "height": 5, "view": 2}
    assert examples.labels["stability"][:4].tolist() == [0, 1, 1, 0]
    for i in range(24):
        assert abs(int(towers.images[i, 0, 0, 0]) - 30 * (examples.labels["height"][i] + 2)) <= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"total_height": None},
            "has no total_height; probes need jpeg, offsets, instability_type",
        ),
        ({"cam_angle": np.ones(7)}, "has 24 images, but 7 of cam_angle"),
        ({"total_height": np.full(24, 9)}, "height has labels 0 to 4, but .* has 7"),
        ({"total_height": np.full(24, 3)}, "height: all 18 training images are of class 1"),
        ({"jpeg": np.zeros(9000, np.uint8)}, "image 0: it is no JPEG or PNG file"),
        ({"count": 0}, "has 0 images to share out, but --train 0 and --test 0"),
        ({"count": 1}, "has 1 images to share out, but --train 0 and --test 1"),
    ],
)
def test_frames_that_cannot_be_probed_are_named(tmp_path, changes, message):
    path = frames(tmp_path / "f.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_genuine(path, tasks=TASKS, seeds=[0])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_npz_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--genuine needs an \.npz file"):
        load_genuine(tmp_path / "none.npz", tasks=TASKS, seeds=[0])
    whole = frames(tmp_path / "f.npz").read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for content in (b"", b"text", whole[: len(whole) // 2], array.getvalue()):
        (tmp_path / "f.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"f\.npz is no \.npz file of plain arrays"):
            load_genuine(tmp_path / "f.npz", tasks=TASKS, seeds=[0])


def test_a_dataset_without_labels_is_named(root, monkeypatch):
    from pretrain.data.shapestacks import ShapeStacks

    monkeypatch.delattr(ShapeStacks, "labels")
    with pytest.raises(ValueError, match=r"probes need labels, and files in .* has none"):
        load_split(root, tasks=TASKS, seeds=[0])


def test_a_checkpoint_with_another_number_of_slots_is_probed_and_noted(
    checkpoints, tmp_path, capsys
):
    args = ["--checkpoint", checkpoints["monet"], checkpoints["dc_vae"], "--genuine"]
    args += [str(frames(tmp_path / "f.npz")), "--epochs", "1", "--pixel-epochs", "0"]
    probe_shapestacks.main([*args, "--results-dir", str(tmp_path), "--device", "cpu"])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert notes == [
        f"note: {checkpoints['monet']} has 3 slots, the published models of ShapeStacks 9"
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
        (["--genuine", "a.npz", "--data-dir", "b"], "two sources of images; give one of them"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--device", "cuda:99"], "--device cuda:99 needs a CUDA device"),
    ],
)
def test_a_mistake_is_named(checkpoints, argv, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        probe_shapestacks.main(["--checkpoint", checkpoints["monet"], *argv])


def test_a_checkpoint_without_its_weights_is_named_before_anything_is_read(checkpoints, tmp_path):
    folder = tmp_path / "torn"
    folder.mkdir()
    for name in ("config.json", "manifest.json"):
        (folder / name).write_bytes((Path(checkpoints["monet"]) / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        probe_shapestacks.main(["--checkpoint", str(folder), "--data-dir", "nowhere"])


def test_no_images_are_a_mistake_of_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        probe_shapestacks.main(["--train", "0"])
    assert exit_.value.code == 2
    assert "argument --train: needs a number above 0, got 0" in capsys.readouterr().err


def test_help_runs_as_a_file_and_does_not_wait_for_torch():
    script = Path(probe_shapestacks.__file__)
    code = f"import runpy, sys; sys.argv = ['x', '--help']; sys.path[0] = {str(script.parent)!r}\n"
    code += f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "--genuine NPZ" in run.stdout
    assert run.stdout.endswith("False\n")


@pytest.mark.skipif(not SAMPLES.is_file(), reason="GENESIS_RL_SAMPLES is not set")
def test_the_genuine_frames_are_read():
    towers = load_genuine(SAMPLES, tasks=TASKS, seeds=[0])
    labels = towers.examples.labels
    assert labels["height"].bincount().tolist() == [202, 298, 400, 502, 598]
    assert labels["stability"].bincount().tolist() == [500, 1500]
    assert labels["view"].bincount().tolist() == [1516, 484]
    assert 90 < towers.images.float().mean() < 160

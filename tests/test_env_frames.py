"""Frames of environments: which episodes, which pixels, and what happens when collecting stops."""

import gymnasium as gym
import numpy as np
import pytest

from genesis_rl.wrappers.frames import FrameFormat
from pretrain.data import cache, load, parse_name
from pretrain.data.cache import read_manifest
from pretrain.data.env_frames import EnvFrames
from pretrain.flags import parse_arguments
from pretrain.run import main
from runs import arguments


class Clock(gym.Env):
    """Left half: the step times 10; right half: drawn anew each episode. Ends after five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = gym.spaces.Discrete(3)

    def __init__(self, shape=(64, 64, 3), observe=True, render_mode=None):
        self.shape, self.render_mode = shape, render_mode
        pixels = gym.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = pixels if observe else gym.spaces.Box(-1, 1, (2,), np.float32)

    def _frame(self):
        frame = np.empty(self.shape, np.uint8)
        frame[:, : self.shape[1] // 2] = self.time * 10 + self.action
        frame[:, self.shape[1] // 2 :] = self.episode
        return frame

    def _look(self):
        pixels = self.observation_space.shape == self.shape
        return self._frame() if pixels else self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.action, self.episode = 0, 0, int(self.np_random.integers(256))
        return self._look(), {}

    def step(self, action):
        self.time, self.action = self.time + 1, int(action)
        return self._look(), 0.0, self.time == 5, False, {}

    def render(self):
        return self._frame()


class Blind(Clock):
    """Neither observes nor renders pixels."""

    metadata = {"render_modes": ["human"]}


IDS = {
    "Clock-v0": (Clock, {}),
    "ClockRendered-v0": (Clock, {"observe": False}),
    "ClockWide-v0": (Clock, {"shape": (40, 80, 3)}),
    "Blind-v0": (Blind, {"observe": False}),
}


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SHARD", 64)
    for name, (entry_point, options) in IDS.items():
        gym.register(name, entry_point, kwargs=options)
    yield
    for name in IDS:
        del gym.registry[name]


def frames_of(name="Clock-v0", split="train", size=100, **options):
    return load(f"env:{name}", split, size=size, **options)


def left(images):
    return images[:, 5, 5, 0].int()


@pytest.mark.parametrize("name", ["Clock-v0", "ClockRendered-v0"])
def test_frames_are_those_of_consecutive_steps(name):
    data = frames_of(name, num_envs=2)
    batch = data.all(progress=False)
    assert batch.images.shape == (100, 64, 64, 3)
    assert batch.masks is None
    # Two environments in turn; an episode has six frames; every 64 frames begin anew.
    steps = left(batch.images) // 10
    expected = [(k % 64) // 2 % 6 for k in range(100)]
    assert steps.tolist() == expected
    assert len(batch.images[:, 5, 60, 0].unique()) > 10
    assert (left(batch.images) % 10).unique().tolist() == [0, 1, 2]  # all actions are tried


def test_observed_and_rendered_frames_agree():
    one, other = (frames_of(name).all(progress=False) for name in ("Clock-v0", "ClockRendered-v0"))
    assert (one.images == other.images).all()


def test_frames_are_a_function_of_seed_split_and_index(tmp_path, monkeypatch):
    first = frames_of(size=70).batch(range(70)).images
    monkeypatch.setenv("GENESIS_RL_CACHE", str(tmp_path / "elsewhere"))
    again = frames_of(size=150)
    assert (again.batch(range(70)).images == first).all()
    assert (frames_of("Clock-v0", "val", size=70).batch(range(70)).images != first).any()
    assert (frames_of(size=70, seed=1).batch(range(70)).images != first).any()


def test_collecting_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    whole = frames_of(data_dir=tmp_path / "whole").batch(range(100)).images
    step, steps = Clock.step, iter(range(1000))

    def stop_in_the_second_shard(self, action):
        if next(steps) > 70:
            raise KeyboardInterrupt
        return step(self, action)

    monkeypatch.setattr(Clock, "step", stop_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        frames_of(data_dir=tmp_path / "parts")
    first = read_manifest(tmp_path / "parts" / "train")["shards"]
    assert [shard["count"] for shard in first] == [64]
    monkeypatch.setattr(Clock, "step", step)
    resumed = frames_of(data_dir=tmp_path / "parts")
    assert read_manifest(resumed.kept.folder)["shards"][:1] == first
    assert (resumed.batch(range(100)).images == whole).all()


def test_a_policy_sees_all_observations_and_acts_for_all(tmp_path):
    seen = []

    def policy(observations):
        seen.append(observations.shape)
        return np.full(len(observations), 2)

    options = {"policy": policy, "policy_name": "always 2", "num_envs": 4}
    data = frames_of(**options, data_dir=tmp_path / "kept")
    assert set(seen) == {(4, 64, 64, 3)}
    assert set((left(data.all(progress=False).images) % 10).tolist()) == {0, 2}
    # Frames that lie in a folder are used, whoever made them, as long as they are enough.
    assert (left(frames_of(data_dir=tmp_path / "kept").batch(range(100)).images) % 10 != 1).all()
    with pytest.raises(ValueError, match="num_envs=4, policy='always 2', but num_envs, policy is"):
        frames_of(size=200, data_dir=tmp_path / "kept")


def test_frames_are_resized_as_the_wrappers_do_it():
    image = frames_of("ClockWide-v0", size=1, image_size=32).batch([0]).images[0]
    raw = gym.make("ClockWide-v0")
    frame = raw.reset(seed=0)[0]
    frame[:, 40:] = int(image[0, 31, 0])
    layout = FrameFormat.of(frame.shape, frame.dtype, 0, 255)
    expected = layout.to_images(frame[None], 32)[0].permute(1, 2, 0)
    assert (image == expected).all()


def test_crop_takes_the_central_square():
    image = frames_of("ClockWide-v0", size=10, image_size=32, crop=40).batch([9]).images[0]
    assert (image[:, :16] == image[0, 0]).all()
    assert (image[:, 16:] == image[0, 31]).all()
    with pytest.raises(ValueError, match=r"crop is 50, but frames are \[40, 80, 3\]"):
        frames_of("ClockWide-v0", crop=50)


def test_mistakes_are_answered_in_one_line():
    with pytest.raises(ValueError, match=r"env:Blind-v0 neither observes .*\['human'\]"):
        frames_of("Blind-v0")
    with pytest.raises(ValueError, match="env:Nowhere-v0 cannot be made"):
        frames_of("Nowhere-v0")
    with pytest.raises(ValueError, match="env:nomodule:X-v0 cannot be made"):
        frames_of("nomodule:X-v0")
    with pytest.raises(ValueError, match="a policy needs a policy_name"):
        frames_of(policy=lambda observations: observations)
    for name in ("env", "env:"):
        with pytest.raises(ValueError, match="as in env:CartPole-v1"):
            parse_name(name)
    with pytest.raises(ValueError, match="at least 1 frame"):
        EnvFrames("train", variant="Clock-v0", size=0)


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("env:Nope-v0", {}, "env:Nope-v0 cannot be made"),
        ("env:Blind-v0", {}, "env:Blind-v0 neither observes"),
        ("env:ClockWide-v0", {"crop": 50}, "crop is 50, but frames are [40, 80, 3]"),
    ],
)
def test_what_gives_no_frames_leaves_nothing_behind(tmp_path, capsys, dataset, options, words):
    for place in ({}, {"data_dir": tmp_path / "frames"}):
        flags = arguments(tmp_path / "run", dataset=dataset, **options, **place)
        assert main(flags) == 3
        assert words in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset=gqn --crop=40", "crop is for dataset env only, but this is gqn"),
        ("--dataset=env", "as in env:CartPole-v1"),
        (
            "--dataset=env:A-v0 --unique-colours",
            "unique_colours is for dataset multi_dsprites",
        ),
        ("--dataset=multi_dsprites:x", "multi_dsprites has no variants"),
        ("--dataset=shapestack:x", "did you mean 'shapestacks'"),
    ],
)
def test_settings_that_do_not_go_together(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(flags.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_folder_has_no_part_of_an_id_for_a_folder():
    config = parse_arguments(["--dataset=env:envs:GenesisRL/SpriteGoal-v0"])
    assert str(config.folder) == "runs/env-envs-GenesisRL-SpriteGoal-v0"


def test_pretraining_on_an_environment(tmp_path):
    out = tmp_path / "run"
    assert main(arguments(out, dataset="env:ClockWide-v0", crop=40, steps=3)) == 0
    assert (out / "model" / "model.safetensors").is_file()

"""Frames reach the recorders of both libraries through the wrappers. Check 26 of the contract."""

import sys
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecVideoRecorder

from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper
from toys import Scribble, mean_colour

CLIP = "moviepy.video.io.ImageSequenceClip"


@pytest.fixture
def films(monkeypatch):
    """What recorders hand to moviepy, which is not needed for this."""

    class Clip:
        def __init__(self, frames, fps):
            taken.append((np.stack(frames), fps))

        def write_videofile(self, path, logger=None):
            """Writes nothing."""

    taken = []
    for name in ("moviepy", "moviepy.video", "moviepy.video.io", CLIP):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[CLIP].ImageSequenceClip = Clip
    return taken


def play(env):
    """Four steps; returns the frames that a viewer would have seen."""
    env.reset(seed=0)
    shown = [env.unwrapped.pixels[..., :3].copy()]
    for _ in range(4):
        env.step(1)
        shown.append(env.unwrapped.pixels[..., :3].copy())
    env.close()
    return np.stack(shown)


def single():
    mean_colour().image_size = 32
    return GenesisObsWrapper(Scribble(render_mode="rgb_array", length=4), "mean_colour")


def test_record_video_films_the_environment_not_the_slots(films, tmp_path):
    shown = play(gym.wrappers.RecordVideo(single(), str(tmp_path)))
    ((frames, fps),) = films
    np.testing.assert_array_equal(frames, shown)
    assert fps == 10


def test_vec_video_recorder_films_all_environments(films, tmp_path):
    mean_colour().image_size = 32
    venv = DummyVecEnv([lambda: Scribble(render_mode="rgb_array", length=9)] * 2)
    venv = GenesisVecEnvWrapper(venv, "mean_colour")
    recorder = VecVideoRecorder(venv, str(tmp_path), lambda step: step == 0, video_length=3)
    recorder.seed(0)
    recorder.reset()
    for _ in range(3):
        recorder.step(np.zeros(2, int))
    recorder.close()
    ((frames, fps),) = films
    assert frames.shape == (4, 64, 32, 3)
    assert fps == 10
    np.testing.assert_array_equal(frames[-1][:32], venv.unwrapped.envs[0].pixels[..., :3])


def test_a_film_can_be_written(tmp_path):
    pytest.importorskip("moviepy")
    play(gym.wrappers.RecordVideo(single(), str(tmp_path)))
    (film,) = tmp_path.glob("*.mp4")
    assert film.stat().st_size > 0

"""Small environments and a small encoder whose every number can be checked by hand."""

import functools
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.reliability_wrappers import KINDS, Scribble
from genesis_rl import Genesis, GenesisConfig, GenesisObsWrapper, save_checkpoint
from genesis_rl.encoder import register_encoder

torch.set_num_threads(1)  # the networks here are too small for two

# Not `is_available`: that lets no process use CUDA that is forked afterwards.
needs_cuda = pytest.mark.skipif(not torch.cuda.device_count(), reason="needs a CUDA device")


class Counter(gym.Env):
    """Shows a grey frame whose brightness is the step number; ends after `length` steps.

    Args:
        length: Steps of an episode.
        truncate: Whether episodes end by truncation: always, never, or "alternately".
        continuous: Whether actions are numbers in [-1, 1] instead of 0 and 1.
        size: Of the frame.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, length=3, truncate=False, continuous=False, size=8, render_mode=None):
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = (
            gym.spaces.Box(-1, 1, (1,), np.float32) if continuous else gym.spaces.Discrete(2)
        )
        self.length, self.truncate, self.render_mode = length, truncate, render_mode
        self.episodes = 0
        self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.episodes += 1
        return self._frame(), {"time": 0}

    def step(self, action):
        self.time += 1
        over = self.time >= self.length
        truncate = self.episodes % 2 == 0 if self.truncate == "alternately" else self.truncate
        reward = float(np.mean(action)) / 10
        return self._frame(), reward, over and not truncate, over and truncate, {"time": self.time}

    def render(self):
        return self._frame()

    def _frame(self):
        return np.full(self.observation_space.shape, self.time, np.uint8)


class MeanColour:
    """An encoder small enough to check by hand: every slot is the mean RGB of the frame.

    Red and green play the mask latent, blue the component latent. Noise is added as it is.
    """

    image_size, num_slots, slot_dim, latent_sizes = 8, 2, 3, (2, 1)

    def __init__(self):
        self.batches = []  # how many frames each forward pass has seen

    def encode(self, images, noise=None):
        self.batches.append(len(images))
        colour = images.float().mean(dim=(2, 3)) / (255 if images.dtype == torch.uint8 else 1)
        latents = colour[:, None].repeat(1, self.num_slots, 1)
        return latents if noise is None else latents + noise


def gpu(test):
    """Marks a test that runs on a GPU only."""
    return pytest.mark.gpu(needs_cuda(test))


def mean_colour(name="mean_colour"):
    """Registers a fresh `MeanColour` under a name, and returns it."""
    encoder = MeanColour()
    register_encoder(name, lambda device, precision: encoder)
    return encoder


def tiny_model(seed=0, **config):
    """A small GENESIS with statistics of its own in every batch norm, as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Genesis(GenesisConfig(**{"num_slots": 3, "image_size": 32, "width": 8, **config}))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.2, 1.0)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def tiny_checkpoint(folder: Path, seed=0, **config):
    """Saves a `tiny_model`; returns the path, as wrappers want it."""
    return str(save_checkpoint(folder / f"tiny_{seed}", tiny_model(seed, **config)))


def frames(count, size=32, seed=0):
    """Uint8 images `[N, 3, S, S]` with structure at every scale."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.rand(count, 3, size, size, generator=generator)
    mixed = F.interpolate(coarse, size=(size, size)) * 0.8 + 0.2 * fine
    return (mixed * 255).to(torch.uint8)


def staggered(count, **kwargs):
    """Factories of `Scribble`s whose episodes end at different times, in both ways."""
    return [
        functools.partial(Scribble, length=3 + 2 * i, truncate=i % 2 == 1, **kwargs)
        for i in range(count)
    ]


def counters(count, **kwargs):
    """So many `Counter`s in SB3's plainest VecEnv."""
    from stable_baselines3.common.vec_env import DummyVecEnv  # seconds, which workers need not wait

    return DummyVecEnv([functools.partial(Counter, **kwargs)] * count)


def scribbles(count, **kwargs):
    """`staggered` ones in SB3's plainest VecEnv."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv(staggered(count, **kwargs))


def wrapped(checkpoint, env_id="toys/Scribble_hwc-v0", **options):
    """A registered environment in a `GenesisObsWrapper` on the CPU."""
    env = gym.make(env_id, render_mode="rgb_array")
    return GenesisObsWrapper(env, checkpoint, **{"device": "cpu", **options})


def rollout(env, steps=12, seed=0):
    """Observations and rewards of a fixed sequence of actions."""
    observation, _ = env.reset(seed=seed)
    observations, rewards = [observation], []
    for action in np.random.default_rng(1).integers(0, 3, steps):
        observation, reward, terminated, truncated, _ = env.step(int(action))
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            observations.append(env.reset()[0])
    return observations, rewards


def assert_close(a, b, tolerance=1e-5):
    """Whether two observations, arrays or dicts of them, differ by no more than that."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance)
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def same_observation(a, b):
    """Whether two observations are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    return np.array_equal(a, b)


for kind in KINDS:
    gym.register(
        f"toys/Scribble_{kind}-v0", entry_point="toys:Scribble", kwargs={"kind": kind, "length": 20}
    )
gym.register("toys/Scribble-v0", entry_point="toys:Scribble", max_episode_steps=4)
gym.register("toys/Counter-v0", entry_point="toys:Counter")

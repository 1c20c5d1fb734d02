"""What slots cost: frames encoded, processes on the GPU, bytes in buffers, memory over time.

Numbers of checks are those of the wrapper contract.
"""

import functools
import os
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from genesis_rl import GenesisVecEnvWrapper, GenesisVectorObsWrapper
from genesis_rl.wrappers.latents import LatentOptions, latent_space
from toys import Counter, Scribble, counters, gpu, mean_colour, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("costs"), width=4)


# --- check 11: how many frames are encoded, beside SB3's wrapper ----------------------------------


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=str)
def test_a_step_is_one_forward_and_a_frame_is_encoded_once_in_every_mode(mode):
    encoder, count, steps = mean_colour(), 4, 23
    factories = [functools.partial(Counter, length=2 + i) for i in range(count)]
    envs = GenesisVectorObsWrapper(SyncVectorEnv(factories, autoreset_mode=mode), "mean_colour")
    envs.reset()
    ended = resets = 0
    for _ in range(steps):
        _, _, over, _, _ = envs.step(np.zeros(count, int))
        ended += over.sum()
        if mode == AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over.copy()})
            resets += 1
    assert ended > 15
    extra = 0 if mode == AutoresetMode.NEXT_STEP else ended  # where the final frame is the step's
    assert sum(encoder.batches) == envs.num_encoded == count * (steps + 1) + extra
    assert len(encoder.batches) == steps + 1 + resets


# --- check 15: workers run environments only ------------------------------------------------------


class Confesses(Scribble):
    """Tells whether the process that it runs in has used CUDA."""

    def has_used_cuda(self):
        return "torch" in sys.modules and torch.cuda.is_initialized()


def only_the_main_process_encodes(checkpoint, device, count, start_method):
    factories = [functools.partial(Confesses, length=3 + i) for i in range(count)]
    assert max(len(cloudpickle.dumps(make)) for make in factories) < 100_000
    workers = SubprocVecEnv(factories, start_method=start_method)
    try:
        venv = GenesisVecEnvWrapper(workers, checkpoint, device=device)
        venv.reset()
        for _ in range(4):
            latents, *_ = venv.step(np.zeros(count, int))
        assert latents.shape == (count, 240)
        assert venv.env_method("has_used_cuda") == [False] * count
        assert torch.cuda.is_initialized() == (device == "cuda")
    finally:
        workers.close()


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="forks, which this process must not after CUDA"
)
def test_workers_do_not_encode(checkpoint):
    only_the_main_process_encodes(checkpoint, "cpu", 2, "fork")


@gpu
def test_of_17_processes_one_uses_the_gpu(checkpoint):
    only_the_main_process_encodes(checkpoint, "cuda", 16, "forkserver")


# --- check 21: float16 ----------------------------------------------------------------------------


def nbytes(buffer):
    return sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))


def test_float16_halves_the_observations_of_both_kinds_of_buffer(checkpoint):
    rollout, replay = {}, {}
    for dtype in ("float32", "float16"):
        venv = GenesisVecEnvWrapper(counters(2, size=32), checkpoint, device="cpu", dtype=dtype)
        rollout[dtype] = PPO("MlpPolicy", venv, n_steps=8, batch_size=16).rollout_buffer
        replay[dtype] = DQN("MlpPolicy", venv, buffer_size=64).replay_buffer
    for kind, arrays in (
        (rollout, ["observations"]),
        (replay, ["observations", "next_observations"]),
    ):
        for name in arrays:
            full, half = (getattr(kind[dtype], name) for dtype in ("float32", "float16"))
            assert full.nbytes == 2 * half.nbytes > 0


def test_a_million_transitions_of_five_slots_take_less_than_1_7_gigabytes():
    slots = latent_space(5, (64, 16), LatentOptions(dtype="float16"))
    pixels = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    a_thousand = [
        nbytes(ReplayBuffer(1000, space, gym.spaces.Discrete(4), "cpu"))
        for space in (slots, pixels)
    ]
    assert slots.shape == (400,)
    assert a_thousand[0] * 1000 <= 1.7e9
    assert a_thousand[1] * 1000 == pytest.approx(24.6e9, rel=0.01)


class Match(Counter):
    """Pays for the action that fits the colour of the frame: 0 for black, 1 for white."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.time, self.colour = 0, int(self.np_random.integers(2))
        return self._frame(), {}

    def step(self, action):
        reward = float(action == self.colour)
        self.time, self.colour = self.time + 1, int(self.np_random.integers(2))
        return self._frame(), reward, self.time >= self.length, False, {}

    def _frame(self):
        return np.full((8, 8, 3), 255 * self.colour, np.uint8)


def learning_curve(dtype, seed, updates=12):
    venv = GenesisVecEnvWrapper(
        DummyVecEnv([functools.partial(Match, length=8)] * 4), "mean_colour", dtype=dtype
    )
    model = PPO("MlpPolicy", venv, 3e-3, 32, 64, n_epochs=4, seed=seed, device="cpu")
    curve = []
    for _ in range(updates):
        model.learn(128, reset_num_timesteps=False)
        curve.append(model.rollout_buffer.rewards.mean())
    return curve


@pytest.mark.slow
def test_float16_learns_like_float32_within_the_noise_of_seeds():
    mean_colour()
    curves = {
        dtype: np.array([learning_curve(dtype, seed) for seed in range(3)])
        for dtype in ("float32", "float16")
    }
    full, half = curves["float32"], curves["float16"]
    assert full[:, -1].min() > 0.9  # it can be learnt, from a half
    assert half[:, -1].min() > 0.9
    gap = np.abs(full.mean(axis=0) - half.mean(axis=0)).mean()
    assert gap <= 2 * full.std(axis=0).mean()


# --- check 23: memory over time -------------------------------------------------------------------


def resident():
    """Bytes of main memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's accounts")
def test_main_memory_stays_as_it_is_over_100_000_steps():
    mean_colour().batches = _Forgets()
    venv = GenesisVecEnvWrapper(counters(2, length=7), "mean_colour")
    venv.reset()
    actions = np.zeros(2, int)
    for step in range(100_000):
        venv.step(actions)
        if step == 5_000:
            before = resident()
    assert abs(resident() - before) <= 0.01 * before


class _Forgets(list):
    def append(self, item):
        """Keeps nothing: the encoder's diary would be all that grows."""


@gpu
@pytest.mark.slow
def test_100_000_varying_batches_take_three_graphs_and_no_more_memory(checkpoint):  # check 22
    from genesis_rl import GenesisEncoder

    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cuda", precision="fp32")
    images = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8, device="cuda")
    counts = np.random.default_rng(0).integers(64, 129, 100_000).tolist()
    before = {}
    for step, count in enumerate([64, 64, *counts]):
        encoder.encode(images[:count])
        if step == 5_000:
            torch.cuda.synchronize()
            before = {"main": resident(), "gpu": torch.cuda.memory_reserved()}
    torch.cuda.synchronize()
    assert 1 <= encoder._start().captures <= 3
    assert torch.cuda.memory_reserved() <= 1.01 * before["gpu"]
    assert resident() <= 1.01 * before["main"]

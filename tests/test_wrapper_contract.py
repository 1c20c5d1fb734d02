"""What holds for processes and memory as a whole, whichever wrapper is used.

Numbers of checks are those of the wrapper contract.
"""

import functools
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper, GenesisVectorObsWrapper
from toys import Counter, Scribble, gpu, tiny_checkpoint

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("contract"), width=4)


def in_a_fresh_process(code, *arguments, timeout=120):
    """Runs code that may import `toys`; returns what it printed."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=HERE.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# --- check 13: no device before the first frame ---------------------------------------------------

BUILD = """
    import functools, sys
    import torch
    import genesis_rl
    assert not torch.cuda.is_initialized(), "by importing"
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
    from stable_baselines3.common.vec_env import DummyVecEnv
    from toys import Scribble
    from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper, GenesisVectorObsWrapper

    checkpoint, device = sys.argv[1:]
    make = lambda: GenesisObsWrapper(Scribble(), checkpoint, device=device)
    env = make()
    venv = GenesisVecEnvWrapper(DummyVecEnv([Scribble]), checkpoint, device=device)
    envs = GenesisVectorObsWrapper(SyncVectorEnv([Scribble]), checkpoint, device=device)
    workers = AsyncVectorEnv([make] * 2)  # builds one environment in this process, then forks
    assert not torch.cuda.is_initialized(), "by building"
    assert not torch.cuda._is_in_bad_fork()
    workers.close()
    for thing in (env, venv, envs):
        thing.reset()
    print(torch.cuda.is_initialized())
"""


def test_no_device_is_touched_before_the_first_frame(checkpoint):
    assert in_a_fresh_process(BUILD, checkpoint, "cpu").strip() == "False"


@gpu
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_the_first_frame_initialises_cuda_and_nothing_before_it(checkpoint, device):
    assert in_a_fresh_process(BUILD, checkpoint, device).strip() == "True"


# --- check 14: encoding in worker processes -------------------------------------------------------


def encode_in_workers(*arguments):
    done = subprocess.run(
        [sys.executable, HERE / "encode_in_workers.py", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=HERE.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("context", "history"),
    [("fork", "clean"), ("fork", "used"), ("forkserver", "used"), ("spawn", "used")],
)
def test_workers_may_encode_on_the_cpu(checkpoint, context, history):
    assert encode_in_workers(checkpoint, "cpu", context, history) == "works: (2, 240)\n"


@gpu
@pytest.mark.parametrize("device", ["cuda", "auto"])
@pytest.mark.parametrize(
    ("context", "history"),
    [("fork", "clean"), ("forkserver", "used"), ("spawn", "clean"), ("spawn", "used")],
)
def test_workers_may_encode_on_cuda(checkpoint, device, context, history):
    assert encode_in_workers(checkpoint, device, context, history) == "works: (2, 240)\n"


@gpu
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_forking_after_cuda_was_used_is_an_error_that_says_what_to_do(checkpoint, device):
    said = encode_in_workers(checkpoint, device, "fork", "used")
    assert "CUDA cannot be used in a process forked from one that has used it" in said
    assert "spawn" in said
    assert "GenesisVectorObsWrapper" in said
    assert len(said.strip().splitlines()) == 1


# --- check 16: memory ----------------------------------------------------------------------------


def observations_of_a_thousand_steps(checkpoint, device, wrapper):
    """All observations of 1,000 steps, as the wrapper handed them out."""
    if wrapper is GenesisObsWrapper:
        env = wrapper(Counter(length=7, size=32), checkpoint, device=device)
        kept = [env.reset()[0]]
        while len(kept) < 1000:
            observation, _, terminated, _, _ = env.step(0)
            kept.append(observation)
            if terminated:
                kept.append(env.reset()[0])
        return env.observation_space, kept
    make = functools.partial(Counter, length=7, size=32)
    if wrapper is GenesisVectorObsWrapper:
        envs = wrapper(SyncVectorEnv([make] * 2), checkpoint, device=device)
        kept = [envs.reset()[0], *(envs.step(np.zeros(2, int))[0] for _ in range(999))]
        return envs.observation_space, kept
    venv = wrapper(DummyVecEnv([make] * 2), checkpoint, device=device)
    kept = [venv.reset()]
    for _ in range(999):
        observation, _, _, infos = venv.step(np.zeros(2, int))
        kept.append(observation)
        kept += [info["terminal_observation"] for info in infos if "terminal_observation" in info]
    return venv.observation_space, kept


def check_memory(checkpoint, device, wrapper):
    space, kept = observations_of_a_thousand_steps(checkpoint, device, wrapper)
    assert len(kept) >= 1000
    for i, latents in enumerate(kept):
        assert latents.flags.c_contiguous
        assert latents.flags.writeable
        assert latents.dtype == space.dtype
        latents[...] = i  # if two shared memory, the first would not hold its number any more
    assert all((latents == i).all() for i, latents in enumerate(kept))


@pytest.mark.parametrize(
    "wrapper", [GenesisObsWrapper, GenesisVectorObsWrapper, GenesisVecEnvWrapper]
)
def test_observations_of_a_thousand_steps_are_the_callers(checkpoint, wrapper):
    check_memory(checkpoint, "cpu", wrapper)


@gpu
@pytest.mark.parametrize(
    "wrapper", [GenesisObsWrapper, GenesisVectorObsWrapper, GenesisVecEnvWrapper]
)
def test_observations_from_cuda_graphs_are_the_callers(checkpoint, wrapper):
    check_memory(checkpoint, "cuda", wrapper)


# --- a wrapper costs next to nothing --------------------------------------------------------------


def test_the_single_wrapper_adds_less_than_a_tenth_to_the_encoder(tmp_path):
    path = tiny_checkpoint(tmp_path, num_slots=5, image_size=64, width=32)
    env = GenesisObsWrapper(Scribble(size=(64, 64)), path, device="cpu")
    frame, _ = env.env.reset(seed=0)

    def best(call, repeats):
        times = []
        for _ in range(repeats):
            begin = time.thread_time()  # not the wall's, which other programs share
            call()
            times.append(time.thread_time() - begin)
        return min(times)

    encoding = best(lambda: env._observer.encoder.encode(env._observer.images(frame[None])), 10)
    latents = env._observer.encoder.encode(env._observer.images(frame[None]))
    env._observer.encoder = SimpleNamespace(
        encode=lambda images, noise: latents, image_size=64, num_slots=5, latent_sizes=(64, 16)
    )
    wrapping = best(lambda: env.observation(frame), 500)
    print(f"encoder {encoding * 1e3:.2f} ms, wrapper {wrapping * 1e3:.3f} ms on top")
    assert wrapping <= 0.1 * encoding

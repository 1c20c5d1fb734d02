"""One row of the RL benchmark: PPO on one representation with one seed, evaluated as it learns.

The agent of Stable-Baselines3 sees what the representation makes of a frame: the true state, the
pixels, or the slots of a frozen GENESIS. Everything else is the same for all of them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

import envs  # noqa: F401  registers the ids
from benchmarks.common import append_line
from genesis_rl import load_checkpoint, save_checkpoint
from genesis_rl.checkpoint import checkpoint_sha256
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv

REPRESENTATIONS = ("state", "cnn", "genesis", "random-genesis")
EVALUATION_SEED = 1_000_000_000  # seeds of training stay far below


@dataclass(frozen=True)
class RowConfig:
    """What a row's numbers depend on.

    Attributes:
        env_id: Task.
        representation: One of `REPRESENTATIONS`.
        seed: Of weights, exploration and training episodes.
        steps: Environment steps to train for, over all environments.
        checkpoint: Id or folder of the GENESIS; None without one.
        latents: What of its slots is shown: "both", "mask" (where) or "component" (what).
        num_envs: Environments stepped together.
        rollout: Steps collected between two updates of the policy, over all environments.
        batch_size: Steps in a minibatch.
        epochs: Passes over a rollout.
        learning_rate: Of Adam.
        evaluate_every: Environment steps between evaluations; they fall on the ends of rollouts.
        episodes: Episodes of an evaluation, always the same ones.
        normalise: Whether vectors are shifted and scaled by their running mean and deviation.
        env_options: Further arguments of the environment.
    """

    env_id: str
    representation: str
    seed: int
    steps: int
    checkpoint: str | None = None
    latents: Literal["both", "mask", "component"] = "both"
    num_envs: int = 256
    rollout: int = 8192
    batch_size: int = 512
    epochs: int = 10
    learning_rate: float = 3e-4
    evaluate_every: int = 100_000
    episodes: int = 100
    normalise: bool = False
    env_options: dict[str, Any] | None = None


def train_row(
    config: RowConfig,
    folder: Path,
    *,
    device: torch.device,
    progress: Callable[[int, str], object] = lambda steps, status: None,
) -> dict[str, Any]:
    """Trains and evaluates one row; leaves `metrics.jsonl` and `model.zip`.

    Args:
        config: The row.
        folder: Where its files go; an unfinished attempt there is replaced.
        device: Where frames are encoded, and pixels learnt from. Policies on vectors stay on the
            CPU, which is faster for networks that small.
        progress: Called with the steps done since the last call and a few words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint = checkpoint_of(config, folder)
    training: VecEnv = VecMonitor(make_venv(config, config.num_envs, checkpoint, device))
    testing = make_venv(config, config.episodes, checkpoint, device)
    if config.normalise and config.representation != "cnn":
        training = VecNormalize(training, norm_reward=False)
        testing = VecNormalize(testing, norm_reward=False, training=False)
        testing.obs_rms = training.obs_rms  # one object, that only training changes
    model = make_ppo(config, training, device)
    training.seed(1_000_000 * config.seed)  # SB3's own seeds would overlap between runs
    recorder = _Recorder(config, testing, folder / "metrics.jsonl", progress)
    try:
        model.learn(config.steps, callback=recorder)
        recorder.evaluate()
    finally:
        torch.set_num_threads(recorder.threads)
        training.close()
        testing.close()
    model.save(folder / "model.zip")
    if isinstance(training, VecNormalize):
        training.save(str(folder / "normalisation.pkl"))
    return {
        **asdict(config),
        "checkpoint_sha256": checkpoint_sha256(checkpoint) if checkpoint else None,
        "final": recorder.lines[-1],
        "curve": {
            name: [line[name] for line in recorder.lines] for name in ("steps", "success", "return")
        },
        "training_curve": recorder.training_curve,
        "frames_per_s": recorder.lines[-1]["frames_per_s"],
        "training_s": round(recorder.training_seconds, 1),
        "evaluation_s": round(recorder.evaluation_seconds, 1),
    }


def make_venv(
    config: RowConfig, count: int, checkpoint: str | None, device: torch.device
) -> VecEnv:
    """Builds natively vectorised environments that show the row's representation."""
    state = config.representation == "state"
    env = gym.make_vec(
        config.env_id,
        num_envs=count,
        vectorization_mode="vector_entry_point",
        observation="state" if state else "pixels",
        autoreset_mode="SameStep",
        device="cpu" if state else str(device),  # numbers are not worth the way to a GPU
        **(config.env_options or {}),
    )
    venv: VecEnv = SB3VecEnv(env)
    if checkpoint is not None:
        from genesis_rl import GenesisVecEnvWrapper

        venv = GenesisVecEnvWrapper(venv, checkpoint, latents=config.latents, device=str(device))
    return venv


def make_ppo(config: RowConfig, venv: VecEnv, device: torch.device) -> PPO:
    """Builds PPO with the constants of OCRL (Yoon et al., 2023), but for the sizes of batches."""
    pixels = config.representation == "cnn"
    steps = max(1, config.rollout // config.num_envs)
    return PPO(
        "CnnPolicy" if pixels else "MlpPolicy",
        venv,
        n_steps=steps,
        batch_size=min(config.batch_size, steps * config.num_envs),
        n_epochs=config.epochs,
        learning_rate=config.learning_rate,
        gamma=0.99,
        clip_range=0.2,
        ent_coef=0.01,
        policy_kwargs={} if pixels else {"net_arch": [128, 128], "activation_fn": torch.nn.ReLU},
        device=device if pixels else "cpu",
        seed=config.seed,
    )


def checkpoint_of(config: RowConfig, folder: Path) -> str | None:
    """Returns the GENESIS of a row, an untrained one of the same size where that is the row."""
    if config.representation not in REPRESENTATIONS:
        raise ValueError(
            f"unknown representation {config.representation!r}; choose from {REPRESENTATIONS}"
        )
    if not config.representation.endswith("genesis"):
        return None
    if config.checkpoint is None:
        raise ValueError(f"representation {config.representation!r} needs a checkpoint")
    if config.representation == "genesis":
        return config.checkpoint
    trained = load_checkpoint(config.checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        untrained = type(trained)(trained.config)
    return str(save_checkpoint(folder / "untrained", untrained))


def evaluate(act: Callable[[np.ndarray], np.ndarray], venv: VecEnv) -> dict[str, float]:
    """Plays one episode in each environment, the same ones every time.

    Args:
        act: Maps a batch of observations to actions.
        venv: One environment for each episode.

    Returns:
        Mean `success`, `return` and `length` of the episodes.
    """
    count = venv.num_envs
    returns, lengths, success = np.zeros(count), np.zeros(count), np.zeros(count)
    playing = np.ones(count, bool)
    venv.seed(EVALUATION_SEED)
    observations = venv.reset()
    while playing.any():
        observations, rewards, dones, infos = venv.step(act(np.asarray(observations)))
        returns += rewards * playing
        lengths += playing
        for i in np.flatnonzero(dones & playing):
            success[i] = infos[i].get("is_success", returns[i] > 0)
        playing &= ~dones
    means = {"success": success.mean(), "return": returns.mean(), "length": lengths.mean()}
    return {name: round(float(value), 4) for name, value in means.items()}


def evaluate_random(config: RowConfig) -> dict[str, float]:
    """Plays the evaluation episodes with random actions: the level that learning starts from."""
    blind = RowConfig(**{**asdict(config), "representation": "state", "checkpoint": None})
    venv = make_venv(blind, config.episodes, None, torch.device("cpu"))
    venv.action_space.seed(0)
    try:
        return evaluate(lambda seen: np.array([venv.action_space.sample() for _ in seen]), venv)
    finally:
        venv.close()


class _Recorder(BaseCallback):
    """Evaluates at the ends of rollouts, keeps the clock of training, and writes a line each."""

    def __init__(
        self,
        config: RowConfig,
        venv: VecEnv,
        path: Path,
        progress: Callable[[int, str], object],
    ):
        super().__init__()
        self.config, self.venv, self.path, self.progress = config, venv, path, progress
        self.lines: list[dict[str, Any]] = []
        self.training_curve: dict[str, list[float]] = {"steps": [], "success": []}
        self.training_seconds = self.evaluation_seconds = 0.0
        self._clock = 0.0
        self.threads = torch.get_num_threads()

    def _on_training_start(self) -> None:
        self.evaluate()

    def _on_step(self) -> bool:
        self.progress(self.config.num_envs, "")
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.ep_success_buffer
        self.training_curve["steps"].append(self.num_timesteps)
        self.training_curve["success"].append(round(float(np.mean(buffer)), 4) if buffer else 0.0)
        if self.model.device.type == "cpu" and self.config.representation != "cnn":
            torch.set_num_threads(1)  # a network this small only gets slower with more

    def _on_rollout_start(self) -> None:  # the update after the rollout before is done
        torch.set_num_threads(self.threads)
        if self.num_timesteps >= self.lines[-1]["steps"] + self.config.evaluate_every:
            self.evaluate()

    def evaluate(self) -> None:
        """Evaluates the policy as it is, without touching the random numbers of training."""
        now = time.perf_counter()
        if self.lines:
            if self.lines[-1]["steps"] == self.num_timesteps:
                return
            self.training_seconds += now - self._clock
        with torch.random.fork_rng(devices=_devices(self.model.device)):
            torch.manual_seed(EVALUATION_SEED)
            scores = evaluate(lambda seen: self.model.predict(seen)[0], self.venv)
        self._clock = time.perf_counter()
        self.evaluation_seconds += self._clock - now
        seconds = self.training_seconds
        self.lines.append(
            {
                "steps": self.num_timesteps,
                **scores,
                "frames_per_s": round(self.num_timesteps / seconds, 1) if seconds else None,
            }
        )
        append_line(self.path, self.lines[-1])
        self.progress(0, f"success {scores['success']:.2f}, return {scores['return']:.2f}")


def _devices(device: torch.device) -> list[int]:
    return [device.index or torch.cuda.current_device()] if device.type == "cuda" else []


def finished(folder: Path) -> dict[str, Any] | None:
    """Returns the result of a row that has been finished before, or None."""
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return dict(json.loads((folder / "result.json").read_text()))
    return None

"""One row of the RL benchmark: PPO on one representation with one seed, evaluated as it learns.

The agent of Stable-Baselines3 sees what the representation makes of a frame: the true state, the
pixels, the latents of a frozen VAE or the slots of a frozen GENESIS. Everything else is the same.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from benchmarks.common import append_line
from benchmarks.rl_playing import EVALUATION_SEED, RowConfig, checkpoint_of, evaluate, make_venv
from genesis_rl.checkpoint import checkpoint_sha256
from genesis_rl.extractors import SlotExtractor


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
        device: Where frames are encoded, pixels learnt from, and slots attended to. MLPs stay on
            the CPU, which is faster for networks that small.
        progress: Called with the steps done since the last call and a few words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoint = checkpoint_of(config, folder)
    training: VecEnv = VecMonitor(make_venv(config, config.num_envs, checkpoint, device))
    if config.normalise and config.representation != "cnn":
        training = VecNormalize(training, norm_reward=False)
    testing = _for_testing(config, checkpoint, device, training)
    model = make_ppo(config, training, device)
    training.seed(1_000_000 * config.seed)  # SB3's own seeds would overlap between runs
    recorder = _Recorder(config, testing, folder / "metrics.jsonl", progress)
    try:
        model.learn(config.steps, callback=recorder)
        recorder.evaluate()
        transfer = {
            name: recorder.success_in(_for_testing(case, checkpoint, device, training))
            for name, case in config.varied().items()
        }
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
        "observation": list(model.observation_space.shape or ()),
        "final": recorder.lines[-1],
        "transfer": transfer,
        "curve": {
            name: [line[name] for line in recorder.lines] for name in ("steps", "success", "return")
        },
        "training_curve": recorder.training_curve,
        "frames_per_s": recorder.lines[-1]["frames_per_s"],
        "training_s": round(recorder.training_seconds, 1),
        "evaluation_s": round(recorder.evaluation_seconds, 1),
    }


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
        policy_kwargs={} if pixels else _policy(config, venv),
        device=device if pixels or config.head != "mlp" else "cpu",
        seed=config.seed,
    )


def _policy(config: RowConfig, venv: VecEnv) -> dict[str, Any]:
    """The networks on a vector or on slots; sizes of heads other than "mlp" are OCRL's."""
    if config.head == "mlp":
        return {"net_arch": [128, 128], "activation_fn": torch.nn.ReLU}
    keywords: dict[str, Any] = {"head": config.head}
    if config.representation == "state":
        keywords["num_slots"], _ = venv.get_attr("state_shape")[0]
        if config.head == "transformer":
            keywords["depth"] = 3
    return {
        "features_extractor_class": SlotExtractor,
        "features_extractor_kwargs": keywords,
        "net_arch": [64, 64],
        "activation_fn": torch.nn.ReLU,
    }


def _for_testing(
    config: RowConfig, checkpoint: str | None, device: torch.device, training: VecEnv
) -> VecEnv:
    """One environment for each episode of an evaluation, normalised as those of training are."""
    venv = make_venv(config, config.episodes, checkpoint, device)
    same = venv.observation_space.shape == training.observation_space.shape
    if isinstance(training, VecNormalize) and same:
        venv = VecNormalize(venv, norm_reward=False, training=False)
        venv.obs_rms = training.obs_rms  # one object, that only training changes
    return venv


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
        if self.config.representation != "cnn" and self.config.head == "mlp":
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
        scores = self._play(self.venv)
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

    def success_in(self, venv: VecEnv) -> float | None:
        """Plays in other environments and closes them; None if the policy cannot see them."""
        try:
            if venv.observation_space.shape != self.venv.observation_space.shape:
                return None
            return self._play(venv)["success"]
        finally:
            venv.close()

    def _play(self, venv: VecEnv) -> dict[str, float]:
        with torch.random.fork_rng(devices=_devices(self.model.device)):
            torch.manual_seed(EVALUATION_SEED)
            return evaluate(lambda seen: self.model.predict(seen)[0], venv)


def _devices(device: torch.device) -> list[int]:
    return [device.index or torch.cuda.current_device()] if device.type == "cuda" else []


def finished(folder: Path) -> dict[str, Any] | None:
    """Returns the result of a row that has been finished before, or None."""
    with suppress(FileNotFoundError, json.JSONDecodeError):
        return dict(json.loads((folder / "result.json").read_text()))
    return None

"""What an agent of the RL benchmark sees of its environments, and playing evaluation episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

import envs  # noqa: F401  registers the ids
from benchmarks.rl_report import REPRESENTATIONS
from genesis_rl import load_checkpoint, save_checkpoint
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv

EVALUATION_SEED = 1_000_000_000  # seeds of training stay far below


@dataclass(frozen=True)
class RowConfig:
    """What a row's numbers depend on.

    Attributes:
        env_id: Task.
        representation: One of `REPRESENTATIONS`.
        seed: Of weights, exploration and training episodes.
        steps: Environment steps to train for, over all environments.
        checkpoint: Id or folder of the GENESIS or VAE; None without one.
        latents: What of GENESIS's slots is shown: "both", "mask" (where) or "component" (what).
        head: What reads them: "mlp", all side by side, or another of `genesis_rl.heads.HEADS`.
        num_envs: Environments stepped together.
        rollout: Steps collected between two updates of the policy, over all environments.
        batch_size: Steps in a minibatch.
        epochs: Passes over a rollout.
        learning_rate: Of Adam.
        evaluate_every: Environment steps between evaluations; they fall on the ends of rollouts.
        episodes: Episodes of an evaluation, always the same ones.
        normalise: Whether vectors are shifted and scaled by their running mean and deviation.
        env_options: Further arguments of the environment.
        variants: Changes to these, by name, under which the trained agent is tried as well.
    """

    env_id: str
    representation: str
    seed: int
    steps: int
    checkpoint: str | None = None
    latents: Literal["both", "mask", "component"] = "both"
    head: str = "mlp"
    num_envs: int = 256
    rollout: int = 8192
    batch_size: int = 512
    epochs: int = 10
    learning_rate: float = 3e-4
    evaluate_every: int = 100_000
    episodes: int = 100
    normalise: bool = False
    env_options: dict[str, Any] | None = None
    variants: dict[str, dict[str, Any]] | None = None

    def varied(self) -> dict[str, RowConfig]:
        """The same row in each environment that it is to be tried in after training."""
        return {
            name: replace(self, env_options={**(self.env_options or {}), **changes})
            for name, changes in (self.variants or {}).items()
        }


def make_venv(
    config: RowConfig, count: int, checkpoint: str | None, device: torch.device
) -> VecEnv:
    """Builds natively vectorised environments that show the row's representation."""
    state = config.representation == "state"
    # Frames for the encoder stay on its device; agents get arrays.
    frames: dict[str, Any] = {} if checkpoint is None else {"tensors": True}
    try:
        env = gym.make_vec(
            config.env_id,
            num_envs=count,
            vectorization_mode="vector_entry_point",
            observation="state" if state else "pixels",
            autoreset_mode="SameStep",
            device="cpu" if state else str(device),  # numbers are not worth the way to a GPU
            **frames,
            **(config.env_options or {}),
        )
    except (gym.error.Error, TypeError) as error:
        raise ValueError(
            f"{config.env_id}: {error}. The benchmark plays natively vectorised environments with "
            "the options observation ('state' or 'pixels'), autoreset_mode, device and tensors, as "
            "those of GenesisRL/ are; put others into GenesisVecEnvWrapper and train them by SB3 "
            "itself"
        ) from error
    venv: VecEnv = NamesErrors(SB3VecEnv(env, copy=not frames), config.env_id)
    if checkpoint is not None:
        from genesis_rl import GenesisVecEnvWrapper

        venv = GenesisVecEnvWrapper(
            venv,
            checkpoint,
            latents=config.latents,
            layout="flat" if config.head == "mlp" else "slots",
            device=str(device),
        )
    return venv


class NamesErrors(VecEnvWrapper):
    """Says which environment raised, with its seeds and the step, so that it can be repeated.

    Args:
        venv: The environments.
        env_id: What they are called.
    """

    def __init__(self, venv: VecEnv, env_id: str):
        super().__init__(venv)
        self._named_id, self._named_steps = env_id, 0
        self._named_seed: int | None = None

    def seed(self, seed: int | None = None) -> Any:
        self._named_seed, self._named_steps = seed, 0
        return self.venv.seed(seed)

    def reset(self) -> Any:
        return self._named(self.venv.reset, "reset()")

    def step_wait(self) -> VecEnvStepReturn:
        self._named_steps += 1
        result: VecEnvStepReturn = self._named(self.venv.step_wait, f"step {self._named_steps}")
        return result

    def _named(self, call: Callable[[], Any], when: str) -> Any:
        try:
            return call()
        except Exception as error:
            seeds = "without seeds"
            if self._named_seed is not None:
                seeds = f"with seeds {self._named_seed} to {self._named_seed + self.num_envs - 1}"
            raise RuntimeError(
                f"{self._named_id}, {self.num_envs} environments {seeds}, raised in {when}: "
                f"{type(error).__name__}: {error}"
            ) from error


def usual_variants(env_id: str, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What agents of a task are tried in unless told: unseen colours, and one object more.

    Args:
        env_id: The task.
        options: The arguments of the environment that they are trained in.

    Returns:
        Changes of these by name, as far as the task can be played with them.
    """

    def playable(changes: dict[str, Any]) -> VecEnv | None:
        case = RowConfig(env_id, "state", 0, 0, env_options={**options, **changes})
        try:
            return make_venv(case, 1, None, torch.device("cpu"))
        except ValueError:
            return None

    changes: list[tuple[str, Any]] = [("colours", "ood")]
    trained = playable({})
    if trained is not None and trained.has_attr("num_objects"):
        changes.append(("num_objects", trained.get_attr("num_objects")[0] + 1))
    return {f"{name}={value}": {name: value} for name, value in changes if playable({name: value})}


def checkpoint_of(config: RowConfig, folder: Path) -> str | None:
    """Returns the encoder of a row, an untrained GENESIS of the same size where that is the row."""
    if config.representation not in REPRESENTATIONS:
        raise ValueError(
            f"unknown representation {config.representation!r}; choose from {REPRESENTATIONS}"
        )
    if config.representation in ("state", "cnn"):
        return None
    if config.checkpoint is None:
        raise ValueError(f"representation {config.representation!r} needs a checkpoint")
    if config.representation != "random-genesis":
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


def evaluate_random(config: RowConfig) -> dict[str, Any]:
    """Plays the evaluation episodes with random actions: the level that learning starts from.

    Returns:
        As `evaluate`, and the success in each variant under `transfer`.
    """

    def play(case: RowConfig) -> dict[str, float]:
        blind = RowConfig(**{**asdict(case), "representation": "state", "checkpoint": None})
        venv = make_venv(blind, config.episodes, None, torch.device("cpu"))
        venv.action_space.seed(0)
        try:
            return evaluate(lambda seen: np.array([venv.action_space.sample() for _ in seen]), venv)
        finally:
            venv.close()

    scores: dict[str, Any] = dict(play(config))
    transfer = {}
    for name, case in config.varied().items():
        try:
            transfer[name] = play(case)["success"]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{config.env_id} cannot be tried with {name} ({error}); name what it can be tried "
                "with after --transfer, or nothing"
            ) from error
    return {**scores, "transfer": transfer}

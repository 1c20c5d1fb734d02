"""From somebody else's environment to an agent on its slots, and a film of what the agent sees.

Renders frames, pretrains GENESIS on them, wraps the environment in that checkpoint, trains PPO of
Stable-Baselines3 on the slots, and films the agent: frame, reconstruction, slots.

    pip install 'gymnasium[toy-text]'            # FrozenLake draws with pygame
    python docs/examples/third_party.py
    python docs/examples/third_party.py --env-id Reacher-v5      # needs gymnasium[mujoco]

The defaults take two to three minutes on a CPU, most of them for drawing. Such a short pretraining
hardly moves the latents, but moves them as objects move: hence the normalisation below. For objects
worth looking at, pretrain on a GPU: `--pretrain "--config multi_dsprites --steps 100000"`.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
from gymnasium.wrappers import AddRenderObservation
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from benchmarks.common import positive_int, run_cli
from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper

OPTIONS = {"FrozenLake-v1": {"is_slippery": False}}  # on slippery ice, luck hides learning
EXTRAS = "'gymnasium[classic-control]', 'gymnasium[toy-text]' or 'gymnasium[mujoco]'"


def make_env(env_id: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    """The environment with what it renders as observation, whatever it observed before."""
    return AddRenderObservation(Monitor(gym.make(env_id, render_mode="rgb_array", **options)))


def check_draws(make: Callable[[], gym.Env[Any, Any]]) -> None:
    """Finds out before the work begins whether the environment can be drawn on this machine."""
    try:
        env = make()
        env.reset(seed=0)
        env.close()
    except (gym.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"this cannot be drawn here: {reason}; install {EXTRAS}") from error


def pretrain(env_id: str, arguments: str, out: Path) -> None:
    """Trains GENESIS on frames of random play."""
    command = ["-m", "pretrain.run", "--dataset", f"env:{env_id}", *shlex.split(arguments)]
    command += ["--out", str(out)]
    print("$ python", shlex.join(command), flush=True)
    if status := subprocess.run([sys.executable, *command]).returncode:
        sys.exit(status)


def film(agent: PPO, scale: VecNormalize, env: GenesisObsWrapper, path: Path, longest: int) -> int:
    """Writes episodes of the agent, slots beside frames; returns the number of pictures."""
    observation, _ = env.reset(seed=1)
    pictures = [env.render_slots()]
    while len(pictures) < longest:
        action, _ = agent.predict(scale.normalize_obs(observation))
        discrete = isinstance(env.action_space, gym.spaces.Discrete)
        observation, _, terminated, truncated, _ = env.step(int(action) if discrete else action)
        pictures.append(env.render_slots())
        if terminated or truncated:
            observation, _ = env.reset()
            pictures.append(env.render_slots())
    height, width = (2 * side for side in pictures[0].shape[:2])
    frames_per_second = env.metadata.get("render_fps", 15)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, frames_per_second, (width, height))
    if not writer.isOpened():
        raise ValueError(f"OpenCV cannot write {path}: this build has no encoder for mp4")
    for picture in pictures:
        enlarged = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
        writer.write(cv2.cvtColor(enlarged, cv2.COLOR_RGB2BGR))
    writer.release()
    return len(pictures)


def main(argv: Sequence[str] | None = None) -> None:
    """Goes all the way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env-id", default="FrozenLake-v1")
    parser.add_argument("--env-options", type=json.loads, help='as JSON: {"is_slippery": false}')
    parser.add_argument("--pretrain", default="--config debug", help="arguments of pretrain.run")
    parser.add_argument("--steps", type=positive_int, default=12_288, help="of PPO")
    parser.add_argument("--num-envs", type=positive_int, default=8)
    parser.add_argument("--episodes", type=positive_int, default=50, help="of an evaluation")
    parser.add_argument("--pictures", type=positive_int, default=40, help="of the film, at least")
    parser.add_argument("--device", default="auto", help="of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/third_party"))
    args = parser.parse_args(argv)

    options = OPTIONS.get(args.env_id, {}) if args.env_options is None else args.env_options
    make = functools.partial(make_env, args.env_id, options)
    check_draws(make)
    checkpoint = args.out / "pretrain" / "model"
    if checkpoint.exists():
        print(f"{checkpoint} is there already, and taken")
    else:
        pretrain(args.env_id, args.pretrain, args.out / "pretrain")

    slots = GenesisVecEnvWrapper(
        DummyVecEnv([make] * args.num_envs), str(checkpoint), device=args.device
    )
    venv = VecNormalize(slots, norm_reward=False)
    rollout = min(128, -(-args.steps // args.num_envs))
    settings = {"n_steps": rollout, "batch_size": rollout, "ent_coef": 0.02, "seed": 0}
    agent = PPO("MlpPolicy", venv, device="cpu", **settings)
    before, _ = evaluate_policy(agent, venv, args.episodes, deterministic=False)
    agent.learn(args.steps)
    venv.training = False
    after, _ = evaluate_policy(agent, venv, args.episodes, deterministic=False)
    agent.save(args.out / "agent.zip")
    venv.save(str(args.out / "normalisation.pkl"))
    env = GenesisObsWrapper(make(), str(checkpoint), device=args.device)
    count = film(agent, venv, env, args.out / "slots.mp4", args.pictures)
    print(
        f"mean return of {args.episodes} episodes: {before:.2f} before training, {after:.2f} after"
    )
    print(f"{count} frames with their slots: {args.out / 'slots.mp4'}")


if __name__ == "__main__":
    run_cli(main)

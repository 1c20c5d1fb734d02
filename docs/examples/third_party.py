"""From somebody else's environment to an agent on its slots, and a film of what the agent sees.

Renders frames, pretrains GENESIS on them, wraps the environment in that checkpoint, trains PPO of
Stable-Baselines3 on the slots, and films an episode: frame, reconstruction, slots.

    pip install 'gymnasium[classic-control]'     # CartPole draws with pygame
    python docs/examples/third_party.py
    python docs/examples/third_party.py --env-id Reacher-v5      # needs gymnasium[mujoco]

The defaults take two to three minutes on a CPU; they show the way, not what it leads to. For
results, pretrain longer: `--pretrain "--config multi_dsprites --steps 100000"`, on a GPU.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AddRenderObservation
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from benchmarks.common import positive_int, run_cli
from genesis_rl import GenesisObsWrapper


def make_env(env_id: str, checkpoint: str | Path, device: str) -> GenesisObsWrapper:
    """The environment as the agent sees it: rendered, and then encoded."""
    env = gym.make(env_id, render_mode="rgb_array")
    return GenesisObsWrapper(AddRenderObservation(Monitor(env)), str(checkpoint), device=device)


def check_renders(env_id: str) -> None:
    """Finds out before the work begins whether the environment can be drawn on this machine."""
    try:
        env = gym.make(env_id, render_mode="rgb_array")
        env.reset(seed=0)
        env.render()
        env.close()
    except (gym.error.Error, ImportError) as error:
        raise ValueError(
            f"{env_id} cannot be drawn here: {' '.join(str(error).split())}; install what it draws "
            "with, 'gymnasium[classic-control]', 'gymnasium[toy-text]' or 'gymnasium[mujoco]'"
        ) from error


def pretrain(env_id: str, arguments: str, out: Path) -> None:
    """Trains GENESIS on frames of random play."""
    command = ["-m", "pretrain.run", "--dataset", f"env:{env_id}", *shlex.split(arguments)]
    command += ["--out", str(out)]
    print("$ python", shlex.join(command), flush=True)
    if status := subprocess.run([sys.executable, *command]).returncode:
        sys.exit(status)


def film(agent: PPO, env: GenesisObsWrapper, path: Path, *, longest: int = 200) -> int:
    """Writes one episode of the agent, slots beside frames; returns the number of its frames."""
    observation, _ = env.reset(seed=1)
    pictures, over = [env.render_slots()], False
    while not over and len(pictures) < longest:
        action, _ = agent.predict(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        pictures.append(env.render_slots())
        over = terminated or truncated
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])  # video needs even sides
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15, (width, height))
    if not writer.isOpened():
        raise ValueError(f"OpenCV cannot write {path}: this build has no encoder for mp4v")
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
    writer.release()
    return len(pictures)


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """Goes all the way; returns the mean return before and after training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--pretrain", default="--config debug", help="arguments of pretrain.run")
    parser.add_argument("--steps", type=positive_int, default=10_240, help="of PPO")
    parser.add_argument("--episodes", type=positive_int, default=20, help="of an evaluation")
    parser.add_argument("--device", default="auto", help="of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/third_party"))
    args = parser.parse_args(argv)

    check_renders(args.env_id)
    checkpoint = args.out / "pretrain" / "model"
    if checkpoint.exists():
        print(f"{checkpoint} is there already, and taken")
    else:
        pretrain(args.env_id, args.pretrain, args.out / "pretrain")

    env = make_env(args.env_id, checkpoint, args.device)
    rollout = min(512, args.steps)
    agent = PPO("MlpPolicy", env, n_steps=rollout, batch_size=min(128, rollout), seed=0)
    before, _ = evaluate_policy(agent, env, args.episodes, deterministic=False)
    agent.learn(args.steps)
    after, _ = evaluate_policy(agent, env, args.episodes, deterministic=False)
    agent.save(args.out / "agent.zip")
    count = film(agent, env, args.out / "slots.mp4")
    print(f"mean return of {args.episodes} episodes: {before:.1f} before, {after:.1f} after")
    print(f"{count} frames with their slots: {args.out / 'slots.mp4'}")
    return float(np.mean(before)), float(np.mean(after))


if __name__ == "__main__":
    run_cli(main)

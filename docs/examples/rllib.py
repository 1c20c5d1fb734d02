"""Slots in RLlib: `GenesisObsWrapper` inside its environment runners, PPO on top.

    pip install 'ray[rllib]' torch
    python docs/examples/rllib.py

Every runner is a process with an encoder of its own, on the CPU here; environments of one runner
share it. RLlib pins its own release of Gymnasium, so give it an environment of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.common import positive_int, run_cli


def make_env(settings: dict[str, Any]) -> Any:
    """What a runner builds; imports come inside, because it is a process of its own."""
    import gymnasium as gym

    from genesis_rl import GenesisObsWrapper

    env = gym.make(settings["env_id"])
    return GenesisObsWrapper(env, settings["checkpoint"], device=settings["device"])


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Trains; returns the mean return of episodes after each iteration."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env-id", default="envs:GenesisRL/SpriteGoal-v0")
    parser.add_argument("--checkpoint", default="multi_dsprites")
    parser.add_argument("--device", default="cpu", help="of the encoder in each runner")
    parser.add_argument("--runners", type=positive_int, default=1)
    parser.add_argument("--envs-per-runner", type=positive_int, default=4)
    parser.add_argument("--iterations", type=positive_int, default=5)
    parser.add_argument("--batch", type=positive_int, default=1024, help="steps an iteration")
    args = parser.parse_args(argv)
    try:
        import ray
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
        from ray.tune.registry import register_env
    except ImportError as error:
        raise ValueError(f"this needs RLlib ({error}): pip install 'ray[rllib]'") from None

    register_env("slots", make_env)
    settings = {name: getattr(args, name) for name in ("env_id", "checkpoint", "device")}
    config = (
        PPOConfig()
        .environment("slots", env_config=settings)
        .env_runners(
            num_env_runners=args.runners,
            num_envs_per_env_runner=args.envs_per_runner,
            sample_timeout_s=600,  # RLlib's minute can be short for runners that encode on a CPU
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[128, 128]))
        .training(
            train_batch_size_per_learner=args.batch,
            minibatch_size=256,
            num_epochs=10,
            lr=3e-4,
            entropy_coeff=0.01,
        )
        .debugging(seed=0)
    )
    ray.init(include_dashboard=False)
    algorithm = config.build_algo()
    returns = []
    try:
        for iteration in range(1, args.iterations + 1):
            scores = algorithm.train()["env_runners"]
            returns.append(float(scores["episode_return_mean"]))
            steps = scores["num_env_steps_sampled_lifetime"]
            message = f"iteration {iteration}  steps {steps:.0f}  mean return {returns[-1]:.3f}"
            print(message, flush=True)
    finally:
        algorithm.stop()
        ray.shutdown()
    return returns


if __name__ == "__main__":
    run_cli(main)

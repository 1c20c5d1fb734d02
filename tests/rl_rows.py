"""Rows of the RL benchmark that train in a second, and weights as small."""

import torch

from benchmarks.rl_playing import RowConfig
from genesis_rl import Genesis, GenesisConfig, save_checkpoint
from genesis_rl.models.vae import DcVae, VaeConfig

CPU = torch.device("cpu")
ENV = "GenesisRL/SpriteGoal-v0"
TINY = RowConfig(
    env_id=ENV,
    representation="state",
    seed=0,
    steps=64,
    num_envs=4,
    rollout=32,
    batch_size=16,
    epochs=1,
    evaluate_every=32,
    episodes=4,
    env_options={"max_episode_steps": 6},
)
FLAGS = "--seeds 0 --steps 32 --envs 4 --rollout 32 --batch-size 16 --epochs 1 --episodes 3"
FLAGS += " --env-options max_episode_steps=5 --transfer --device cpu"


def tiny_genesis(folder):
    """Saves a small GENESIS, whose 3 slots are 240 numbers; returns its path."""
    torch.manual_seed(5)
    return str(save_checkpoint(folder / "tiny", Genesis(GenesisConfig(num_slots=3, width=4))))


def tiny_vae(folder):
    """Saves a small VAE of as many numbers; returns its path."""
    torch.manual_seed(6)
    return str(
        save_checkpoint(folder / "vae", DcVae(VaeConfig(image_size=32, latents=240, width=4)))
    )

"""The row that sees pixels: the probes of `probes.py`, on features that are learnt with them.

The features are the three convolutions of the DQN network (Mnih et al., 2015), which Stable-
Baselines3 calls NatureCNN and which the `cnn` row of the RL benchmark uses: at 64 x 64 pixels they
come to 1,024 numbers, and the probe takes the place of the network's last hidden layer.

Shapes: P probes, B images a step, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.probes import MlpProbes

LEARNING_RATE = 3e-4  # 1e-4, as for the probes, takes three times as long to learn heights


class PixelProbes(nn.Module):
    """P convolutional networks side by side, one per task and seed; they share nothing.

    Args:
        image_size: S, 36 at least.
        classes: Of each probe.
        seeds: Of each network's initial weights.
    """

    def __init__(self, image_size: int, classes: Sequence[int], seeds: Sequence[int]):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            trunks = []
            for seed in seeds:
                torch.manual_seed(seed)
                trunks.append(_convolutions())
        self.trunks = nn.ModuleList(trunks)
        features = trunks[0](torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.probes = MlpProbes(features, classes, seeds)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[P, B, S, S, 3]` uint8 to logits `[P, B, C]`."""
        x = images.permute(0, 1, 4, 2, 3).float() / 255
        return self.probes(torch.stack([f(own) for f, own in zip(self.trunks, x, strict=True)]))


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, kernel_size=3, stride=1),
        nn.ReLU(),
        nn.Flatten(),
    )

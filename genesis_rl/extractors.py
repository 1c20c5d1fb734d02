"""Stable-Baselines3 features extractors: heads on latents, and a GENESIS that learns on.

- `SlotExtractor`: on what the wrappers give. The encoder is frozen and runs once per frame; only
  the head learns. This is what you want.
- `FineTuningExtractor`: on pixels. GENESIS is part of the policy and learns with it, at the price
  of running it, and its gradient, about `n_epochs + 1` times per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from genesis_rl.checkpoint import StrPath, load_checkpoint
from genesis_rl.heads import make_head


class SlotExtractor(BaseFeaturesExtractor):
    """A head on slot latents, in any layout of the wrappers.

    Example:
        >>> from stable_baselines3 import PPO
        >>> keywords = dict(head="transformer", num_slots=5)
        >>> options = dict(features_extractor_class=SlotExtractor,
        ...                features_extractor_kwargs=keywords, net_arch=[64])
        >>> PPO("MlpPolicy", venv, policy_kwargs=options)  # doctest: +SKIP

    Args:
        observation_space: Of a wrapper: `[K, D]`, `[K * D]`, or a Dict of `[K, M]` and `[K, C]`.
        head: A name in `genesis_rl.heads.HEADS`.
        num_slots: K; needed with the flat layout alone, which does not tell.
        options: What the head takes.

    Raises:
        ValueError: The space is none of these.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        head: str = "transformer",
        num_slots: int | None = None,
        **options: Any,
    ):
        slots, size = _slot_shape(observation_space, num_slots)
        made = make_head(head, slots, size, **options)
        super().__init__(observation_space, made.features_dim)
        self.num_slots = slots
        self.head = made

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Maps a batch of observations to `[B, F]`."""
        if isinstance(observations, dict):
            parts = [observations[name] for name in sorted(observations, reverse=True)]
            observations = torch.cat(parts, dim=-1)  # mask before component
        features: Tensor = self.head(observations.reshape(len(observations), self.num_slots, -1))
        return features


class FineTuningExtractor(BaseFeaturesExtractor):
    """GENESIS on pixels, trained by the policy's gradient from a checkpoint on, with a head on top.

    Its normalisation layers keep the statistics of pretraining, whatever `train()` is called with:
    batches of a policy are too few and too alike to replace them.

    Args:
        observation_space: Frames of the checkpoint's size, `[3, S, S]` uint8, as SB3 hands them on.
        checkpoint: An id or a path.
        head: A name in `genesis_rl.heads.HEADS`.
        options: What the head takes.

    Raises:
        ValueError: The frames have another shape.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        checkpoint: StrPath = "multi_dsprites",
        head: str = "transformer",
        **options: Any,
    ):
        model = load_checkpoint(checkpoint)
        expected = (3, model.image_size, model.image_size)
        if observation_space.shape != expected:
            raise ValueError(
                f"FineTuningExtractor with {checkpoint} needs frames of shape {expected}, but got "
                f"{observation_space.shape}; resize them with gymnasium.wrappers.ResizeObservation"
            )
        made = make_head(head, model.num_slots, model.slot_dim, **options)
        super().__init__(observation_space, made.features_dim)
        self.model, self.head = model, made
        self.train()

    def forward(self, observations: Tensor) -> Tensor:
        """Maps frames `[B, 3, S, S]`, floats in [0, 1], to `[B, F]`."""
        features: Tensor = self.head(self.model.encode(observations))
        return features

    def train(self, mode: bool = True) -> FineTuningExtractor:
        """Sets the head's mode; the model stays in eval."""
        super().train(mode)
        self.model.eval()
        return self


def _slot_shape(space: spaces.Space[Any], num_slots: int | None) -> tuple[int, int]:
    """K and D of an observation space."""
    if isinstance(space, spaces.Dict):
        shapes = [entry.shape for entry in space.values()]
        if all(shape is not None and len(shape) == 2 for shape in shapes):
            counts = {shape[0] for shape in shapes if shape}
            if len(counts) == 1:
                return counts.pop(), sum(shape[1] for shape in shapes if shape)
    elif space.shape is not None and len(space.shape) == 2:
        return space.shape[0], space.shape[1]
    elif space.shape is not None and len(space.shape) == 1 and num_slots:
        if space.shape[0] % num_slots == 0:
            return num_slots, space.shape[0] // num_slots
        raise ValueError(
            f"{space.shape[0]} numbers are not {num_slots} equal slots; with parity='official' "
            "slots have different sizes and no head but SB3's own MLP fits"
        )
    raise ValueError(
        "SlotExtractor needs slots, [K, D] or {mask: [K, M], component: [K, C]}, or flat ones with "
        f"num_slots=K, but got {space}; see the option layout of the wrappers"
    )

"""`GenesisObsWrapper`: one environment, seen through slots."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genesis_rl.checkpoint import checkpoint_name
from genesis_rl.wrappers.checks import check_kind
from genesis_rl.wrappers.latents import (
    Align,
    DType,
    LatentObserver,
    LatentOptions,
    Latents,
    Layout,
    Observation,
    Parity,
)


class GenesisObsWrapper(
    gym.ObservationWrapper[Observation, Any, Any], gym.utils.RecordConstructorArgs
):
    """Replaces each RGB frame by the latents of its K object slots.

    Latents are posterior means, so equal frames give equal observations. Slots are inferred in
    sequence, from scratch for each frame: unless `align` is given, nothing ties a slot to the one
    of the same number a frame later. Encoding frame by frame wastes most of a GPU; for many
    environments use `GenesisVectorObsWrapper` (Gymnasium) or `GenesisVecEnvWrapper`
    (Stable-Baselines3), which encode all of them in one forward pass.

    Example:
        >>> env = gym.make("envs:GenesisRL/SpriteGoal-v0")  # doctest: +SKIP
        >>> env = GenesisObsWrapper(env, layout="slots")  # doctest: +SKIP
        >>> env.observation_space.shape  # doctest: +SKIP
        (5, 80)

    Args:
        env: Whose observations are frames.
        checkpoint: A shipped id or a path.
        layout: "flat" `[K * D]`, "slots" `[K, D]` or "dict".
        latents: "both", "mask" (where) or "component" (what).
        stochastic: Samples instead of posterior means; `reset(seed=...)` reproduces them.
        clip: Bound of the observation space.
        dtype: "float32" or "float16".
        device: "auto", "cpu", "cuda", "cuda:1", ...; touched by the first frame, not before.
        precision: "auto", "fp32", "tf32" or "bf16".
        parity: "official" gives the features of the authors' release.
        align: "hungarian" lets slots keep their numbers over an episode, as far as they can.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str = "multi_dsprites",
        *,
        layout: Layout = "flat",
        latents: Latents = "both",
        stochastic: bool = False,
        clip: float = 10.0,
        dtype: DType = "float32",
        device: str = "auto",
        precision: str = "auto",
        parity: Parity | None = None,
        align: Align | None = None,
    ):
        check_kind(env, "GenesisObsWrapper")
        options = LatentOptions(
            layout, latents, stochastic, clip, dtype, device, precision, parity, align
        )
        checkpoint = checkpoint_name(checkpoint)
        gym.utils.RecordConstructorArgs.__init__(self, checkpoint=checkpoint, **asdict(options))
        gym.ObservationWrapper.__init__(self, env)
        self._observer = LatentObserver(
            "GenesisObsWrapper", checkpoint, options, env.observation_space
        )
        self._frame: Any = None
        self._begins = True  # an episode, with the next frame
        self.observation_space = self._observer.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._observer.seed([seed])
        self._begins = True
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Any) -> Observation:
        """Encodes one frame; with `align`, as the next one of the episode."""
        self._frame = observation
        frames = observation[None] if hasattr(observation, "shape") else [observation]
        latents = self._observer(frames, begins=[0] if self._begins else [])
        self._begins = False
        if isinstance(latents, dict):
            return {name: entry[0] for name, entry in latents.items()}
        return latents[0]

    def render_slots(self) -> NDArray[np.uint8]:
        """Returns a picture `[H, W, 3]` of the last frame and what the encoder makes of it."""
        if self._frame is None:
            raise RuntimeError("render_slots needs a frame: call reset() first")
        return self._observer.picture(self._frame)

    @property
    def num_clipped(self) -> int:
        """How many latent values were clipped so far."""
        return self._observer.num_clipped

    @property
    def num_encoded(self) -> int:
        """How many frames were encoded so far."""
        return self._observer.num_encoded

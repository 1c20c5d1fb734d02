"""What the three wrappers share: options, spaces, and the way from frames to observations.

Shapes: N frames, K slots, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from genesis_rl.agents import stamp
from genesis_rl.alignment import SlotAligner
from genesis_rl.encoder import GenesisEncoder, ObjectEncoder, open_encoder
from genesis_rl.models.slots import Decomposition
from genesis_rl.wrappers.checks import frame_format

Layout = Literal["flat", "slots", "dict"]
Latents = Literal["both", "mask", "component"]
DType = Literal["float32", "float16"]
Parity = Literal["official"]
Align = Literal["hungarian"]

Observation: TypeAlias = Any  # an array or a tensor, or a dict of them

_NOISE = 0x9E4E5  # keeps the noise of a seed apart from whatever else is drawn from that seed


@dataclass(frozen=True)
class LatentOptions:
    """The options of all three wrappers; see `docs/wrappers.md`.

    Attributes:
        layout: "flat" `[K * D]`, "slots" `[K, D]`, or "dict" with entries `mask` `[K, M]` and
            `component` `[K, C]`.
        latents: Which of the two to observe; "mask" costs a sixth of the others.
        stochastic: Samples instead of posterior means, from generators of the wrapper's own.
        clip: Values are clipped to [-clip, clip], which are the bounds of the space.
        dtype: Of space and observation.
        device: "auto", "cpu", "cuda", "cuda:1", ...; touched by the first frame, not before.
        precision: "auto", "fp32", "tf32" or "bf16".
        parity: "official" leaves out the last slot's mask latent, which owns no mask, and puts all
            mask latents first, as the features of the authors' release do. GENESIS-S, whose slots
            have one latent for both, keeps them all.
        align: "hungarian" permutes each frame's slots, at least cost, to match those of the frames
            before; see `genesis_rl.alignment`.
    """

    layout: Layout = "flat"
    latents: Latents = "both"
    stochastic: bool = False
    clip: float = 10.0
    dtype: DType = "float32"
    device: str = "auto"
    precision: str = "auto"
    parity: Parity | None = None
    align: Align | None = None

    def __post_init__(self) -> None:
        choices = {"layout": Layout, "latents": Latents, "dtype": DType}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} must be one of {get_args(allowed)}, but got {getattr(self, name)!r}"
                )
        if self.parity not in (None, "official"):
            raise ValueError(f"parity must be None or 'official', but got {self.parity!r}")
        if self.parity and self.layout == "slots":
            raise ValueError(
                "parity='official' leaves slots of different sizes, which layout='slots' cannot "
                "hold; use layout='flat' or 'dict'"
            )
        if self.align not in (None, "hungarian"):
            raise ValueError(f"align must be None or 'hungarian', but got {self.align!r}")
        if self.align and self.parity:
            raise ValueError(
                "parity='official' leaves out the mask latent of the slot that is inferred last, "
                "which align moves about; use one of the two"
            )
        _check_flag("stochastic", self.stochastic)
        if not (isinstance(self.clip, int | float) and self.clip > 0 and math.isfinite(self.bound)):
            raise ValueError(
                f"clip must be positive and finite in {self.dtype}, but got {self.clip!r}"
            )

    @property
    def bound(self) -> float:
        """`clip`, rounded to the dtype."""
        with np.errstate(over="ignore"):
            return float(np.dtype(self.dtype).type(self.clip))


class LatentObserver:
    """Turns batches of frames into batches of observations.

    Args:
        name: Of the wrapper, for messages.
        checkpoint: An id, a path, or a registered name.
        options: What to observe of the latents.
        frame_space: The environment's (single) observation space.
        num_envs: How many environments the frames come from; each has noise of its own.
        tensors: Whether observations stay tensors on the encoder's device; arrays otherwise.

    Attributes:
        space: The space of one observation.
        num_encoded: Frames encoded so far.
        num_forwards: In how many calls of the encoder.
        num_clipped: Values clipped so far.
        aligner: What ties slots to those of earlier frames; None if nothing does.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str,
        options: LatentOptions,
        frame_space: gym.Space[Any],
        num_envs: int = 1,
        tensors: bool = False,
    ):
        _check_flag("tensors", tensors)
        self.name = name
        self.options = options
        self.tensors = tensors
        self.format = frame_format(frame_space, name)
        self.encoder: ObjectEncoder = open_encoder(checkpoint, options.device, options.precision)
        self.space = latent_space(self.encoder.num_slots, self.encoder.latent_sizes, options)
        stamp(self.space, checkpoint, self.encoder, asdict(options))
        self.num_encoded = self.num_forwards = self.num_clipped = 0
        self._noise = [
            np.random.default_rng() for _ in range(num_envs if options.stochastic else 0)
        ]
        self.aligner = self._open_aligner(num_envs) if options.align else None

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Restarts the noise of each environment that has a seed; the others' goes on."""
        if self.options.stochastic:
            for i, seed in enumerate(seeds):
                if seed is not None:
                    self._noise[i] = np.random.default_rng([_NOISE, int(seed)])

    def __call__(
        self,
        frames: Any,
        envs: Sequence[int] | None = None,
        begins: Sequence[int] = (),
        final: int = 0,
    ) -> Observation:
        """Encodes a batch in one forward pass.

        Args:
            frames: `[N, ...]` as the environment lays them out.
            envs: Which environment each frame comes from; None is all, in order.
            begins: Environments whose episode begins with their frame; only alignment asks.
            final: So many frames, the first of the batch, are the last of old episodes beside the
                first of new ones.

        Returns:
            `[N, ...]` in memory of its own, in the space but for the batch axis.
        """
        images = self.images(frames)
        noise = None
        if self.options.stochastic:
            shape = (self.encoder.num_slots, self.encoder.slot_dim)
            drawn = [
                self._noise[i].standard_normal(shape, dtype=np.float32)
                for i in (range(len(images)) if envs is None else envs)
            ]
            noise = torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, *shape)
        self.num_encoded += len(images)
        self.num_forwards += 1
        if self.options.latents == "mask" and isinstance(self.encoder, GenesisEncoder):
            latents = self.encoder.encode_masks(images, noise)
        else:
            latents = self.encoder.encode(images, noise)
        if self.aligner is not None:
            latents = self.aligner(latents, envs, begins, final)
        # Extremes are found on the encoder's device, which is the faster one.
        extremes = torch.stack(torch.aminmax(latents)) if latents.numel() else torch.zeros(2)
        values = self._clipped(latents if self.tensors else latents.cpu(), extremes)
        ragged = drops_last_mask(self.encoder.latent_sizes)
        observation = arrange(values, self.encoder.latent_sizes[0], self.options, ragged)
        if self.tensors:
            return observation
        if isinstance(observation, dict):
            return {name: entry.numpy() for name, entry in observation.items()}
        return observation.numpy()

    def images(self, frames: Any) -> Tensor:
        """Maps frames to uint8 images of the encoder's size, `[N, 3, S, S]`."""
        try:
            return self.format.to_images(frames, self.encoder.image_size)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def picture(self, frame: Any, env: int = 0) -> NDArray[np.uint8]:
        """Draws an environment's last frame and its slots, in the order of the observation."""
        from genesis_rl.pictures import decomposition_picture, full_model, picture_of

        if not isinstance(self.encoder, GenesisEncoder):
            raise TypeError(
                f"render_slots draws what a checkpoint's model sees, but the encoder is a "
                f"{type(self.encoder).__name__}"
            )
        images, model = self.images(frame[None]), full_model(self.encoder.checkpoint)
        if self.aligner is None or self.aligner.order is None:
            return picture_of(images, model)
        order = self.aligner.order[env].cpu()
        pixels = images.cpu().float() / 255
        seen = model.decompose(pixels)
        parts = (part[:, order] for part in (seen.log_masks, seen.components, seen.latents))
        return decomposition_picture(pixels, Decomposition(*parts), scale=2)

    def _open_aligner(self, num_envs: int) -> SlotAligner:
        sizes = self.encoder.latent_sizes
        try:
            return SlotAligner(
                self.encoder.num_slots,
                sizes[0],
                num_envs,
                last_mask_counts=not drops_last_mask(sizes),
            )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def _clipped(self, values: Tensor, extremes: Tensor) -> Tensor:
        bound = self.options.bound
        low, high = extremes.tolist()
        if not (low >= -bound and high <= bound):  # written so that NaN is outside, too
            if values.isnan().any():
                raise FloatingPointError(f"{self.name}: the encoder returned NaN")
            clipped = int((values.abs() > bound).sum())
            if self.num_clipped == 0:
                warnings.warn(
                    f"{self.name} clipped {clipped} of {values.numel()} latent values to "
                    f"[-{bound:g}, {bound:g}]; further clipping is only counted, in num_clipped",
                    stacklevel=3,
                )
            self.num_clipped += clipped
            values = values.clamp(-bound, bound)
        return values.to(getattr(torch, self.options.dtype))


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, but got {value!r}")  # "no" would be true


def latent_space(
    num_slots: int, latent_sizes: tuple[int, int], options: LatentOptions
) -> spaces.Box | spaces.Dict:
    """Returns the space of one observation: a function of sizes and options, never of data."""
    sizes = {"mask": latent_sizes[0], "component": latent_sizes[1]}
    if options.latents != "both" and sizes[options.latents] == 0:
        raise ValueError(f"latents={options.latents!r} was asked for, but the model has none")
    slots = torch.empty((1, num_slots, sum(latent_sizes)), device="meta")
    example = arrange(slots, sizes["mask"], options, drops_last_mask(latent_sizes))

    def box(shape: tuple[int, ...]) -> spaces.Box:
        return spaces.Box(-options.bound, options.bound, shape, np.dtype(options.dtype).type)

    if isinstance(example, dict):
        return spaces.Dict({name: box(entry.shape[1:]) for name, entry in example.items()})
    return box(example.shape[1:])


def drops_last_mask(latent_sizes: tuple[int, int]) -> bool:
    """Whether the authors' release leaves out the last slot's mask latent: it owns no mask.

    With component latents beside it, that is; where one latent says both, as in GENESIS-S, all
    slots' are used.
    """
    return min(latent_sizes) > 0


def arrange(
    latents: Tensor, mask_size: int, options: LatentOptions, ragged: bool
) -> Tensor | dict[str, Tensor]:
    """Lays out latents as the options say; copies them only where that moves something.

    Args:
        latents: `[N, K, M + C]`, mask latents first; `[N, K, M]` if only masks were encoded.
        mask_size: M.
        options: What to show, and how.
        ragged: Whether parity leaves out the last slot's mask latent.
    """
    parts = {"mask": latents[..., :mask_size], "component": latents[..., mask_size:]}
    parts = {
        name: part
        for name, part in parts.items()
        if part.shape[-1] > 0 and options.latents in ("both", name)
    }
    if options.parity == "official" and ragged and "mask" in parts:
        parts["mask"] = parts["mask"][:, :-1]
    if options.layout == "dict":
        return {name: part.contiguous() for name, part in parts.items()}
    if options.parity == "official":
        return torch.cat([part.flatten(1) for part in parts.values()], dim=1)
    everything = sum(part.shape[-1] for part in parts.values()) == latents.shape[-1]
    slots = latents if everything else torch.cat(list(parts.values()), dim=2)
    return slots.flatten(1) if options.layout == "flat" else slots

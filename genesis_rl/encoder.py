"""The encoder that wrappers, probes and agents see: images in, slot latents out.

One instance per process serves everybody who asks for the same checkpoint, device and precision.
Nothing touches a device before the first image is encoded, so that environments can be built in a
process that is about to fork.

Shapes: B images, K slots, S x S pixels, M mask-latent and C component-latent dimensions, D = M + C.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genesis_rl.checkpoint import (
    checkpoint_name,
    checkpoint_sha256,
    load_checkpoint,
    read_config,
    resolve_checkpoint,
)
from genesis_rl.checkpoint_files import MANIFEST
from genesis_rl.inference.runtime import PRECISIONS, Runtime, open_runtime, resolve_device

StrPath = str | os.PathLike[str]


@runtime_checkable
class ObjectEncoder(Protocol):
    """All that wrappers ask of a model; implement it, then `register_encoder`, to plug in another.

    Attributes:
        image_size: S.
        num_slots: K.
        slot_dim: D.
        latent_sizes: (M, C); a model without mask latents has M = 0.
    """

    image_size: int
    num_slots: int
    slot_dim: int
    latent_sizes: tuple[int, int]

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Maps `[B, 3, S, S]`, uint8 or float in [0, 1], to latents `[B, K, D]` in fresh memory.

        Without noise, equal images have equal latents. With standard normal noise `[B, K, D]`,
        latents are samples.
        """


EncoderFactory = Callable[[str, str], ObjectEncoder]

_FACTORIES: dict[str, EncoderFactory] = {}
_ENCODERS: weakref.WeakValueDictionary[tuple[str, ...], GenesisEncoder] = (
    weakref.WeakValueDictionary()
)
_RUNTIMES: weakref.WeakValueDictionary[tuple[str, ...], Runtime] = weakref.WeakValueDictionary()


def register_encoder(name: str, factory: EncoderFactory) -> None:
    """Makes a name usable wherever a checkpoint is asked for.

    Args:
        name: What to call it; registering a name again replaces it.
        factory: Builds the encoder from (device, precision).
    """
    _FACTORIES[name] = factory


def open_encoder(
    checkpoint: StrPath, device: str = "auto", precision: str = "auto"
) -> ObjectEncoder:
    """Returns the encoder registered under that name, or else a checkpoint's `GenesisEncoder`."""
    factory = _FACTORIES.get(checkpoint_name(checkpoint))
    if factory is not None:
        return factory(device, precision)
    return GenesisEncoder.from_checkpoint(checkpoint, device, precision)


class GenesisEncoder:
    """A frozen GENESIS (or any other of the models) that maps images to slot latents.

    Not an `nn.Module`: whichever policy holds it, it is neither trained nor saved nor moved with
    it. Use `from_checkpoint`.

    Example:
        >>> encoder = GenesisEncoder.from_checkpoint("multi_dsprites", device="cpu")
        >>> size = encoder.image_size
        >>> encoder.encode(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape
        torch.Size([2, 5, 80])

    Attributes:
        checkpoint: The folder that it was loaded from.
        sha256: Its content.
        metadata: What its writer noted: data, steps, scores.
        image_size: S.
        num_slots: K.
        slot_dim: D.
        latent_sizes: (M, C).
    """

    def __init__(self, checkpoint: Path, device: str, precision: str):
        entry = read_config(checkpoint)
        config = entry["config"]
        self.checkpoint = checkpoint
        self.sha256 = checkpoint_sha256(checkpoint)  # reads it all: better now than mid-episode
        self.metadata: dict[str, Any] = entry["metadata"]
        self.image_size: int = config["image_size"]
        if entry["model"] == "genesis":
            self.num_slots: int = config["num_slots"]
            self.latent_sizes: tuple[int, int] = config["mask_latents"], config["component_latents"]
        else:  # only the model itself knows which of its numbers are slots and latents
            model = load_checkpoint(checkpoint)
            self.num_slots, self.latent_sizes = model.num_slots, model.latent_sizes
        self.slot_dim: int = sum(self.latent_sizes)
        self.precision = precision
        self._device = device
        self._runtime: Runtime | None = None

    @classmethod
    def from_checkpoint(
        cls, id_or_path: StrPath, device: str = "auto", precision: str = "auto"
    ) -> GenesisEncoder:
        """Returns the process's encoder for a checkpoint.

        Args:
            id_or_path: A shipped id such as "multi_dsprites", or a folder.
            device: "auto" (CUDA if there is any), "cpu", "cuda", "cuda:1", ...
            precision: "fp32", "tf32" or "bf16"; "auto" is bf16 on CUDA and fp32 elsewhere. The
                recurrent part and the heads are float32 always.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is damaged, or an argument is none of the above.
        """
        _check_device(device)
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, but got {precision!r}")
        folder = resolve_checkpoint(id_or_path).resolve()
        manifest = folder / MANIFEST
        # The manifest holds the hashes of everything else, and is quick to read.
        content = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""
        key = (str(folder), content, device, precision)
        encoder = _ENCODERS.get(key)
        if encoder is None:
            encoder = _ENCODERS[key] = cls(folder, device, precision)
        return encoder

    @property
    def device(self) -> torch.device | None:
        """Where it runs; None before the first image."""
        return None if self._runtime is None else self._runtime.device

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Maps images to latents, in memory of their own, on the encoder's device.

        Args:
            images: `[B, 3, S, S]`, uint8 or float in [0, 1]; fastest as channels-last uint8.
            noise: `[B, K, D]` standard normal numbers, for samples instead of posterior means.

        Returns:
            `[B, K, D]` float32: each slot's mask latent, then its component latent.

        Raises:
            TypeError: Images are no tensor, or neither uint8 nor float.
            ValueError: Images or noise have another shape; or float images on the CPU are not in
                [0, 1]. On a GPU their range is not checked, which would wait for the device: there,
                latents of other values mean nothing. uint8 is always right.
        """
        return self._encode(images, noise, mask_only=False)

    def encode_masks(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns mask latents alone, `[B, K, M]`; for GENESIS at a sixth of the cost."""
        return self._encode(images, noise, mask_only=True)

    def train(self, mode: bool = True) -> GenesisEncoder:
        """Does nothing: batch statistics would make a frame's latents depend on its neighbours."""
        return self

    def eval(self) -> GenesisEncoder:
        """Does nothing: it is never in another mode."""
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Returns copies of the weights in use, batch norms folded in."""
        return {k: v.detach().clone() for k, v in self._start().network.state_dict().items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.checkpoint), self._device, self.precision)

    def __deepcopy__(self, memo: dict[int, Any]) -> GenesisEncoder:
        return self

    def __repr__(self) -> str:
        where = self._device if self.device is None else self.device
        return f"GenesisEncoder({str(self.checkpoint)!r}, K={self.num_slots}, device={where})"

    @torch.no_grad()
    def _encode(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor:
        self._check(images, noise)
        runtime = self._start()
        if len(images) == 0:
            dims = self.latent_sizes[0] if mask_only else self.slot_dim
            return torch.zeros(0, self.num_slots, dims, device=runtime.device)
        return runtime.encode(images, noise, mask_only=mask_only)

    def _check(self, images: Tensor, noise: Tensor | None) -> None:
        size = self.image_size
        if not isinstance(images, Tensor):
            raise TypeError(
                f"the encoder needs a tensor [B, 3, {size}, {size}], but got "
                f"{type(images).__name__}; torch.from_numpy makes one of an array"
            )
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            last = images.ndim == 4 and images.shape[3] == 3
            advice = "move channels by permute(0, 3, 1, 2)" if last else "resize them"
            raise ValueError(
                f"the encoder needs images [B, 3, {size}, {size}], but got {list(images.shape)}; "
                f"{advice} first"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 or float, but are {images.dtype}")
        if images.is_floating_point() and images.device.type == "cpu" and len(images) > 0:
            low, high = torch.aminmax(images)
            if not (low >= 0 and high <= 1):  # written so that NaN fails too
                raise ValueError(
                    f"float images must lie in [0, 1], but these span [{low:g}, {high:g}]; divide "
                    "by 255, or pass them as uint8"
                )
        expected = (len(images), self.num_slots, self.slot_dim)
        if noise is not None and noise.shape != expected:
            raise ValueError(f"noise must be {list(expected)}, but is {list(noise.shape)}")

    def _start(self) -> Runtime:
        if self._runtime is None or torch.cuda._is_in_bad_fork():
            device = resolve_device(self._device)
            # "auto", "cuda" and "cuda:0" may be three encoders, but share one set of weights.
            key = (str(self.checkpoint), self.sha256, str(device), self.precision)
            runtime = _RUNTIMES.get(key)
            if runtime is None:
                model = load_checkpoint(self.checkpoint)
                runtime = _RUNTIMES[key] = open_runtime(model, device, self.precision)
            self._runtime = runtime
        return self._runtime


def _reopen(checkpoint: str, device: str, precision: str) -> GenesisEncoder:
    # A function of its own, because cloudpickle would take a class method apart, registry and all.
    return GenesisEncoder.from_checkpoint(checkpoint, device, precision)


def _check_device(device: str) -> None:
    """Finds out what can be found out about a device without touching it."""
    if device == "auto":
        return
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:1' or the like, but got {device!r}"
        ) from error
    if kind == "cuda" and not torch.backends.cuda.is_built():
        raise ValueError(
            f"device={device!r} was asked for, but this torch is built without CUDA; use 'cpu' or "
            "'auto', or install a CUDA build"
        )

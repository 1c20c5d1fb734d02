"""Where a lean encoder runs: on the CPU here, on CUDA in `cuda.py`; and what the two share."""

from __future__ import annotations

import abc
import os

import torch
from torch import Tensor

from genesis_rl.inference.network import Frozen, FrozenModel, LeanGenesis
from genesis_rl.models.genesis import Genesis
from genesis_rl.models.slots import SlotModel

PRECISIONS = ("auto", "fp32", "tf32", "bf16")

# A forked child must not enter OpenMP with more than one thread: its parent's threads, for which
# the runtime would wait, do not exist in it.
_FIRST_PROCESS = os.getpid()

_FORKED = (
    "CUDA cannot be used in a process forked from one that has used it: start the workers with "
    "'spawn' or 'forkserver', or encode all environments at once in the main process with "
    "GenesisVectorObsWrapper or GenesisVecEnvWrapper, or pass device='cpu'"
)

# How cuDNN and cuBLAS say that there was no memory for what they need to work in.
_NO_MEMORY = ("unable to find an engine", "ALLOC_FAILED", "out of memory")

# Bytes of the largest activation on the CPU. More of it would leave the cache, and be asked of the
# operating system afresh for each image. For the default model that is four masks at a time.
_CPU_ACTIVATION = 9 << 19
# Whose images share one pass over the two large matrices of the model, 42 MB; fewer where their
# activation would be too large a block for `_keep_freed_memory`.
_CPU_CHUNK = 16
_KEPT_BLOCK = 31 << 20


class Runtime(abc.ABC):
    """Encodes any number of images, in chunks that fit into memory.

    Args:
        chunk: Most images per chunk; halved whenever one does not fit, and never raised again.
    """

    def __init__(self, network: Frozen, device: torch.device, chunk: int):
        self.network = network
        self.device = device
        self.chunk = chunk
        self._shortage = ""

    def encode(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor:
        """Maps at least one image `[B, 3, S, S]` to `[B, K, D]` in memory of its own."""
        chunks: list[Tensor] = []
        start = 0
        while start < len(images):
            part = slice(start, start + self._share(len(images) - start))
            latents = self._attempt(
                images[part], None if noise is None else noise[part], mask_only=mask_only
            )
            # Here the traceback, which held the tensors of the failed attempt, is gone.
            if latents is None:
                self._make_room(min(len(images[part]), self.chunk))
                continue
            chunks.append(latents)
            start += len(latents)
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def _share(self, count: int) -> int:
        """How many of so many images `_encode` is given at once."""
        return self.chunk

    @abc.abstractmethod
    def _encode(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor:
        """Encodes what `_share` gives it."""

    def _attempt(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor | None:
        try:
            return self._encode(images, noise, mask_only=mask_only)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            self._shortage = str(error)
            return None

    def _make_room(self, count: int) -> None:
        if count == 1:
            raise RuntimeError(
                f"not even one image fits into the free memory of {self.device}: free some, or "
                f"encode with device='cpu' ({self._shortage})"
            )
        self.chunk = count // 2
        self._release()

    @abc.abstractmethod
    def _release(self) -> None:
        """Frees whatever can be spared."""


def lacks_memory(error: BaseException | None) -> bool:
    """Whether this says that a device's memory has run out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


class PlainRuntime(Runtime):
    """The CPU, and any device for which there are no kernels here."""

    def __init__(self, model: SlotModel, device: torch.device, dtype: torch.dtype):
        network: Frozen
        if device.type == "cpu":
            _keep_freed_memory()
        if not isinstance(model, Genesis):
            network, chunk = FrozenModel(model, dtype), 16 if device.type == "cpu" else 256
        elif device.type == "cpu":
            activation = model.image_size**2 * 2 * model.config.width * 4
            fitting = max(_CPU_ACTIVATION // activation, 1)
            sharing = max(min(_CPU_CHUNK, _KEPT_BLOCK // activation), 1)
            chunk = max(sharing, fitting // (model.num_slots - 1))
            winograd = dtype == torch.float32
            network = LeanGenesis(model, dtype=dtype, winograd=winograd, masks_at_once=fitting)
        else:
            network, chunk = LeanGenesis(model, dtype=dtype), 256
        super().__init__(network.to(device), device, chunk)

    def _encode(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor:
        if os.getpid() != _FIRST_PROCESS and torch.get_num_threads() > 1:
            torch.set_num_threads(1)
        noise = None if noise is None else noise.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            return self.network(images.to(self.device), noise, mask_only=mask_only)

    def _release(self) -> None:
        """Nothing is kept between two calls."""


def _keep_freed_memory() -> None:
    """Spares a quarter of the time on the CPU, which page faults would take.

    By default glibc gives freed activations back to the operating system, and the next image needs
    them again. It keeps twice as much as the largest block below 32 MB that it has seen freed.
    """
    torch.empty(_KEPT_BLOCK, dtype=torch.uint8)


def open_runtime(model: SlotModel, device: torch.device, precision: str) -> Runtime:
    """Puts a model on a device; the first moment at which CUDA is touched.

    Args:
        model: Whose weights to take; may become part of the runtime.
        device: As `resolve_device` returns it.
        precision: One of `PRECISIONS`; "auto" is bfloat16 convolutions on CUDA, else float32.
    """
    if device.type == "cuda":
        from genesis_rl.inference.cuda import CudaRuntime

        return CudaRuntime(model, device, "bf16" if precision == "auto" else precision)
    if precision == "tf32":
        raise ValueError(f"precision='tf32' exists on CUDA only, not on {device}; use 'fp32'")
    return PlainRuntime(model, device, torch.bfloat16 if precision == "bf16" else torch.float32)


def resolve_device(name: str) -> torch.device:
    """Turns "auto", "cpu", "cuda", "cuda:1", ... into a device that is there.

    Raises:
        RuntimeError: If CUDA was asked for and is absent, or cannot be used in a forked process.
    """
    if name != "cpu" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(_FORKED)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 and os.getpid() != _FIRST_PROCESS:
        raise RuntimeError(f"device={name!r} was asked for, but torch sees none here. {_FORKED}")
    if count == 0:
        raise RuntimeError(
            f"device={name!r} was asked for, but torch sees no CUDA device; use device='cpu' or "
            "'auto', or install a CUDA build of torch and its driver"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise RuntimeError(
            f"device={name!r} was asked for, but there are only {count} CUDA devices"
        )
    return torch.device("cuda", index)

"""The encoder on CUDA: fused kernels, one CUDA graph per batch size, pinned uploads.

A graph replays all of the encoder's kernels at the cost of one launch, but only for the batch size
that it was captured with. `Planner` covers batch after batch with few sizes.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genesis_rl.inference.layers import CHANNELS_LAST, Operations, PlainOperations
from genesis_rl.inference.network import Frozen, FrozenModel, LeanGenesis
from genesis_rl.inference.runtime import Runtime, lacks_memory
from genesis_rl.models.genesis import Genesis
from genesis_rl.models.slots import SlotModel

_CHUNK = 512  # 1.6 GB of activations for 64 x 64 pixels and 5 slots in bfloat16
_MOST_GRAPHS = 12
_SIGHTINGS = 2  # before a size is worth a graph: capturing costs as much as hundreds of replays
_REPEATS = 16  # in a row, before what other graphs already cover gets its own
_STEPS = 16  # sizes of equal shares are multiples of this part of a chunk
_SEVERAL = 3  # graphs, which then have to do for batches that are no habit
_SPARE = 32 << 20  # bytes that have to be left when a graph is captured


class Kind(NamedTuple):
    """What, beside the batch size, tells graphs apart."""

    dtype: torch.dtype
    sampled: bool
    mask_only: bool


def plan(count: int, captured: Collection[int]) -> list[int]:
    """Returns batch sizes whose replays cover `count` images.

    Sizes in `captured` cost nothing; any other will have to be captured, if it is asked for often.
    However a batch varies between N and 2 N, and whichever sizes come first, three graphs are
    enough: two for batches as a whole, and one for the small tail by which a batch exceeds them. N
    plus the terminal frames of a few environments is a replay of N and one of the tail.
    """
    if count <= 8:
        count = 1 << (count - 1).bit_length()
    snug = [size for size in captured if count <= size <= 1.25 * count]
    if snug:
        return [min(snug)]
    base = max((size for size in captured if count / 2 <= size < count), default=None)
    if base is not None:
        return [base, *_plan_rest(count - base, base, captured)]
    roomy = [size for size in captured if count < size <= 2 * count]
    return [min(roomy)] if len(roomy) > 1 else [count]


def _plan_rest(count: int, base: int, captured: Collection[int]) -> list[int]:
    """Returns batch sizes for what is left beside a replay of `base` images."""
    # At most a quarter of the base, or, for small bases, what a launch is worth.
    most = max(base / 4, 8)
    if count > most:
        return [base]
    tails = [size for size in captured if base / 16 <= size <= most]
    enough = [size for size in tails if size >= count]
    if enough:
        return [min(enough)]
    tail = max(tails, default=max(8, math.ceil(base / 8)))
    return [tail] * math.ceil(count / tail)


def shares(count: int, chunk: int) -> list[int]:
    """Returns equal batch sizes, at most `chunk`, that cover `count` images, which are more.

    A chunk's worth and a rest of any size would be slower, and a new size with almost every rest:
    1,024 frames and 54 to 87 terminal ones are three times 384.
    """
    parts = math.ceil(count / chunk)
    step = max(chunk // _STEPS, 1)
    size = min(math.ceil(count / parts / step) * step, chunk)
    return [size] * parts


class Planner:
    """Chooses batch sizes for one call after another; what has become a habit gets its own."""

    def __init__(self) -> None:
        self._latest: tuple[list[int], Kind] | None = None
        self._repeats = 0

    def sizes(self, count: int, kind: Kind, captured: Collection[int], chunk: int) -> list[int]:
        """Returns batch sizes, at most `chunk`, whose replays cover `count` images.

        Args:
            count: Of the images in this call.
            kind: Of graph that it needs.
            captured: Sizes of that kind, which cost nothing.
            chunk: Most images that fit into memory together.
        """
        if count > chunk:
            wish = shares(count, chunk)
            sizes = self._share(count, wish, [size for size in captured if size <= chunk])
        else:
            sizes = plan(count, captured)
            # A batch and its small tail are faster as one, if they are always of about that size.
            together = len(sizes) > 1 and sum(sizes) <= min(1.25 * sizes[0], chunk)
            wish = [sum(sizes) if together else count]
        self._repeats = self._repeats + 1 if (wish, kind) == self._latest else 0
        self._latest = wish, kind
        return wish if self._repeats >= _REPEATS else sizes

    def _share(self, count: int, wish: list[int], captured: list[int]) -> list[int]:
        """Returns the shares that were wished for, or others once there are enough graphs."""
        large = [size for size in captured if size >= wish[0] / 2]
        if wish[0] in captured or len(captured) < _SEVERAL or not large:
            return wish
        best = min(large, key=lambda size: math.ceil(count / size) * size)
        return [best] * math.ceil(count / best)


class CudaRuntime(Runtime):
    """Encodes on one CUDA device.

    Attributes:
        captures: How many graphs have been captured so far.
    """

    def __init__(self, model: SlotModel, device: torch.device, precision: str):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network: Frozen
        if isinstance(model, Genesis):
            paired = dtype == torch.bfloat16
            network = LeanGenesis(model, dtype=dtype, operations=_operations(device), paired=paired)
        else:
            network = FrozenModel(model, dtype)
        super().__init__(network.to(device), device, _CHUNK)
        self.captures = 0
        self._size = model.image_size
        self._precision = precision
        self._graphs: OrderedDict[tuple[int, Kind], _Graph] = OrderedDict()
        self._graphs_work = True
        self._sightings: Counter[tuple[int, Kind]] = Counter()
        self._planner = Planner()
        self._staging = _Staging()
        self._lock = threading.Lock()
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            # One for all captures: every stream has workspaces of its own, for good.
            self._side = torch.cuda.Stream()
            self._idle = torch.cuda.Event()

    def _encode(self, images: Tensor, noise: Tensor | None, *, mask_only: bool) -> Tensor:
        dtype = torch.uint8 if images.dtype == torch.uint8 else torch.float32
        kind = Kind(dtype, noise is not None, mask_only)
        with self._lock, torch.cuda.device(self.device), torch.autocast("cuda", enabled=False):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._idle)  # the caller may have changed streams since last time
            parts: list[Tensor] = []
            for size in self._sizes(len(images), kind):
                start = sum(map(len, parts))
                part = slice(start, start + size)
                parts.append(
                    self._run(size, kind, images[part], None if noise is None else noise[part])
                )
            self._idle.record(stream)
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _share(self, count: int) -> int:
        return count  # the planner keeps to the chunk

    def _sizes(self, count: int, kind: Kind) -> list[int]:
        captured = [size for size, other in self._graphs if other == kind]
        return self._planner.sizes(count, kind, captured, self.chunk)

    def _run(self, size: int, kind: Kind, images: Tensor, noise: Tensor | None) -> Tensor:
        """Encodes up to `size` images, by a graph if that size has earned one."""
        graph = self._graphs.get((size, kind))
        self._sightings[size, kind] += 1
        if graph is None and self._graphs_work and self._sightings[size, kind] >= _SIGHTINGS:
            graph = self._capture(size, kind)
        if graph is None:
            noise = None if noise is None else noise.to(self.device)
            with precision_of(self._precision):
                return self.network(images.to(self.device), noise, mask_only=kind.mask_only)
        self._graphs.move_to_end((size, kind))
        self._staging.upload(images, graph.images[: len(images)])
        if noise is not None and graph.noise is not None:
            graph.noise[: len(noise)].copy_(noise)
        graph.graph.replay()
        return graph.latents[: len(images)].clone()

    def _capture(self, size: int, kind: Kind) -> _Graph | None:
        current = torch.cuda.current_stream()
        try:
            # Heuristics choose algorithms for fp32: some of the fastest are not exact enough.
            with precision_of(self._precision, benchmark=self._precision != "fp32"):
                graph = _Graph(self.network, size, self._size, kind, self._side, self._pool)
        except RuntimeError as error:
            self._abandon(current)
            # Lack of memory in the middle of a capture surfaces as the failure to end it.
            if lacks_memory(error) or lacks_memory(error.__context__):
                raise torch.OutOfMemoryError(str(error)) from None
            self._graphs_work = False
            _warn(f"CUDA graphs are unavailable, so small batches are slower: {_line(error)}")
            return None
        self.captures += 1
        self._graphs[size, kind] = graph
        if len(self._graphs) > _MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def _abandon(self, current: torch.cuda.Stream) -> None:
        """Undoes what a capture that could not be ended has left behind."""
        torch.cuda.set_stream(current)
        # Up to torch 2.11 the allocator goes on to think that the capture is under way.
        with contextlib.suppress(RuntimeError, AttributeError):  # which says that it knows
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    def _release(self) -> None:
        with self._lock, torch.cuda.device(self.device):
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()  # without graphs, the old one is void
            torch.cuda.empty_cache()


class _Graph:
    """The encoder's kernels for one batch size, and the memory they read and write.

    Memory must not run out in the middle of a capture, from which torch up to 2.11 does not
    recover. So the warm-up needs as much as the capture will, on the same stream and with a margin;
    what it had is free again when the capture begins.
    """

    def __init__(
        self,
        network: Frozen,
        count: int,
        size: int,
        kind: Kind,
        side: torch.cuda.Stream,
        pool: Any,
    ):
        device = network.white.device
        pixels = torch.zeros(count, size, size, 3, dtype=kind.dtype, device=device)
        self.images = pixels.permute(0, 3, 1, 2)
        self.noise = None
        if kind.sampled:
            self.noise = torch.zeros(count, network.num_slots, network.slot_dim, device=device)
        current = torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # compiles kernels and picks algorithms
            spare = torch.empty(_SPARE, dtype=torch.uint8, device=device)
            for _ in range(3):
                network(self.images, self.noise, mask_only=kind.mask_only)
            del spare
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool, side, capture_error_mode="thread_local"):
            self.latents = network(self.images, self.noise, mask_only=kind.mask_only)


class _Staging:
    """Two pinned buffers in turn, so that the next frames are collected while these travel."""

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, torch.cuda.Event]] = []
        self._turn = 0

    def upload(self, images: Tensor, target: Tensor) -> None:
        """Copies images to `target` on the device, without waiting for it."""
        if images.device.type != "cpu" or not images.is_contiguous(memory_format=CHANNELS_LAST):
            target.copy_(images)
            return
        self._turn = 1 - self._turn
        needed = images.numel() * target.element_size()
        if not self._buffers:
            self._buffers = [(_pinned(needed), torch.cuda.Event()) for _ in range(2)]
        buffer, sent = self._buffers[self._turn]
        sent.synchronize()  # what the buffer held last has left it
        if buffer.numel() < needed:
            buffer = _pinned(needed)
            self._buffers[self._turn] = buffer, sent
        pixels = target.permute(0, 2, 3, 1)
        staged = buffer[:needed].view(target.dtype).view(pixels.shape)
        staged.copy_(images.permute(0, 2, 3, 1))
        pixels.copy_(staged, non_blocking=True)
        sent.record()


@contextlib.contextmanager
def precision_of(precision: str, *, benchmark: bool = False) -> Iterator[None]:
    """Sets what float32 means to cuDNN and cuBLAS, whatever the program has set, for a while."""
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    before = cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark
    legacy = torch.get_float32_matmul_precision()
    try:
        cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        # The older of torch's two switches sets the newer too; the two must not disagree.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        cudnn.benchmark = benchmark
        yield
    finally:
        torch.set_float32_matmul_precision(legacy)
        cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark = before


def _operations(device: torch.device) -> Operations:
    """Returns the fused kernels, if they run here."""
    try:
        from genesis_rl.inference.kernels import KernelOperations

        kernels = KernelOperations()
        with torch.cuda.device(device):  # compiles; that needs a C compiler, among other things
            kernels.gate(torch.zeros(1, 16, 2, 2, device=device), torch.zeros(16, device=device))
    except Exception as error:  # anything may be missing on a foreign machine
        _warn(f"Triton kernels are unavailable, so encoding is slower: {_line(error)}")
        return PlainOperations()
    return kernels


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

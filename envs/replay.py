"""Small kernels take longer to launch than to run: on CUDA they are recorded, and then replayed.

A step of 256 scenes is 200 kernels of a few microseconds each. As CUDA graphs they are two or three
launches. What was recorded is not called again: its kernels run anew, on the same memory.
"""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Function = Callable[..., dict[str, Tensor]]

_WARM_UPS = 2  # the first makes tables and compiles kernels, the second asks for nothing new


class Recording(NamedTuple):
    """What replaying reads, what it writes, and how to do it."""

    inputs: tuple[Tensor, ...]
    results: dict[str, Tensor]
    replay: Callable[[], None]


class Replays:
    """Calls functions of tensors; on CUDA, replays what they did when they were first called.

    A function is recorded once for each shape of its arguments. What it does has to depend on
    nothing but its arguments and tensors that stay where they are: the host reads no value (no
    `item`, no mask of bools as an index) and sends none, shapes follow from shapes, and numbers
    that Python computes stay what they were. Where recording fails, a warning says so, and
    functions are called from then on.

    Args:
        device: Where the functions work.
        wanted: Whether to replay, if the device is a GPU.

    Attributes:
        work: Whether functions are replayed.
    """

    def __init__(self, device: torch.device, wanted: bool = True):
        self.device = device
        self.work = wanted and device.type == "cuda"
        self._kept: dict[tuple[Any, ...], Recording] = {}
        self._pool: Any = None  # memory that all graphs share, for they run one after the other
        self._side: Any = None

    def __call__(self, function: Function, *inputs: Tensor) -> dict[str, Tensor]:
        """What the function returns for these arguments, in memory that no later call writes to.

        The call that records runs the function several times, so twice has to do what once does.
        Others need `record` at a time when that does no harm.

        Args:
            function: Functions are told apart by their names.
            inputs: On the device or on the host.
        """
        self.record(function, *inputs)
        if not self.work:
            return function(*(value.to(self.device, non_blocking=True) for value in inputs))
        recording = self._kept[_key(function, inputs)]
        for target, value in zip(recording.inputs, inputs, strict=True):
            target.copy_(value, non_blocking=True)
        recording.replay()
        return {name: result.clone() for name, result in recording.results.items()}

    def record(self, function: Function, *inputs: Tensor) -> None:
        """Records the function for arguments of these shapes, unless it has been."""
        if not self.work or _key(function, inputs) in self._kept:
            return
        try:
            with torch.inference_mode(False):  # what is kept outlives the caller's mode
                static = tuple(value.to(self.device, copy=True) for value in inputs)
                self._kept[_key(function, inputs)] = self._recorded(function, static)
        except RuntimeError as error:
            self.work = False
            self._kept.clear()
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"no CUDA graphs, so environments are slower: {line}", RuntimeWarning, stacklevel=3
            )

    def _recorded(self, function: Function, inputs: tuple[Tensor, ...]) -> Recording:
        with torch.cuda.device(self.device):
            if self._side is None:
                self._pool, self._side = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                for _ in range(_WARM_UPS):
                    function(*inputs)
            current.wait_stream(self._side)
            graph, pool = torch.cuda.CUDAGraph(), self._pool
            try:
                with torch.cuda.graph(graph, pool, self._side, capture_error_mode="thread_local"):
                    results = function(*inputs)
            except RuntimeError:
                torch.cuda.set_stream(current)
                # Up to torch 2.11 the allocator goes on to think that the capture is under way.
                with contextlib.suppress(RuntimeError, AttributeError):
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
                raise
        return Recording(inputs, results, graph.replay)


def _key(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return function.__name__, *(value.shape for value in inputs)


def download(values: Tensor) -> Callable[[], np.ndarray]:
    """Begins a copy to the host. What is returned waits for it, but not for later kernels."""
    if not values.is_cuda:
        return values.numpy
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record(torch.cuda.current_stream(values.device))

    def arrived() -> np.ndarray:
        arrival.synchronize()
        return host.numpy()

    return arrived

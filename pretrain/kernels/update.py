"""Adam and the running average in one pass over memory, by a table of where everything is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.kernels import update_triton as kernels
from pretrain.update import Update

_BLOCK = 2048  # numbers of a part
_WARPS = 4
_LANES = 4  # numbers that a thread loads at once, if they begin at a multiple of 16 bytes


class OnePassUpdate(Update):
    """`Update` on a kernel of our own, for CUDA. Weights have to be float32.

    torch cuts all weights into so few parts that an H200 reads and writes them at 40 % of its
    memory's speed, and an average takes three more passes. Adam's state stays where torch has it.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        states = [self.optimizer.state[parameter] for parameter in self.parameters]
        self._steps = states[0]["step"]
        for state in states:  # all have made the same steps, so they can share a counter
            state["step"] = self._steps
        weights = [parameter.data for parameter in self.parameters]
        averages, self._average_rate = weights, self._excess  # unless there are any
        if self.average is not None:
            averages, self._average_rate = self.average.take(self.parameters), self.average.rate
        kinds = [
            weights,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            averages,
        ]
        self._parts = [_Parts(kinds, _LANES), _Parts(kinds, 1)]

    def norms(self) -> Tensor:
        """Returns the norm of each part."""
        self._find_gradients()
        return torch.cat([parts.norms() for parts in self._parts])

    def decide(self, good: Tensor, norm: Tensor) -> None:
        """Takes note of whether the step counts, counts it, and of its gradient's norm."""
        super().decide(good, norm)
        self._steps.add_(good)

    def apply(self) -> None:
        """Moves the weights and their averages at once, then those of other tensors."""
        beta_1, beta_2 = self.betas
        (group,) = self.optimizer.param_groups
        for parts in self._parts:
            parts.launch(
                kernels.adam,
                self._skip,
                self._excess,
                group["lr"],
                self._steps,
                self._average_rate,
                BETA_1=beta_1,
                BETA_2=beta_2,
                LOG_BETA_1=math.log(beta_1 or 1e-300),
                LOG_BETA_2=math.log(beta_2 or 1e-300),
                EPS=group["eps"],
                AVERAGED=self.average is not None,
            )
        if self.average is not None:
            self.average.follow()

    def captured(self) -> None:
        """Finds the gradients that the graph will write, since no capture copies from the host."""
        self._find_gradients()

    def _find_gradients(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None and parameter.grad.data_ptr() % 16:
                parameter.grad = parameter.grad.clone()  # which begins where memory is handed out
        if self._steps.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        for parts in self._parts:
            parts.point_to([parameter.grad for parameter in self.parameters])


class _Parts:
    """What a launch of kernels works on: a program each.

    Args:
        kinds: Weights, means, squares, averages: of each the same tensors, laid out alike.
        lanes: Numbers loaded at once. With more than one the parts are those of tensors cut to a
            multiple of them, with one they are what this has cut off.
    """

    def __init__(self, kinds: Sequence[Sequence[Tensor]], lanes: int):
        self._lanes = lanes
        owners, firsts, counts = [], [], []
        for owner, tensor in enumerate(kinds[0]):
            if any(k[owner].dtype != torch.float32 for k in kinds):
                raise TypeError(f"weights need to be float32 for this, but one is {tensor.dtype}")
            whole = tensor.numel() - tensor.numel() % _LANES
            begin, end = (0, whole) if lanes > 1 else (whole, tensor.numel())
            for first in range(begin, end, _BLOCK):
                owners.append(owner)
                firsts.append(first)
                counts.append(min(_BLOCK, end - first))
        lines = torch.tensor([owners, counts, firsts], dtype=torch.int64)
        self._owners, self._counts, self._bytes = lines[0], lines[1], 4 * lines[2]
        nothing = torch.zeros_like(self._counts)  # no counts and no gradients yet
        table = [nothing, nothing, *map(self._addresses, kinds)]
        self._table = torch.stack(table).to(kinds[0][0].device)

    def point_to(self, gradients: Sequence[Tensor | None]) -> None:
        """Takes these gradients from now on; parts of tensors that have none are empty."""
        addresses = self._addresses(gradients)
        counts = torch.where(addresses > 0, self._counts, 0)
        self._table[:2] = torch.stack([counts, addresses]).to(self._table.device)

    def norms(self) -> Tensor:
        """Returns the norms of the parts' gradients."""
        norms = torch.empty(len(self._counts), device=self._table.device)
        self.launch(kernels.norms, norms)
        return norms

    def launch(self, kernel: Any, *arguments: Any, **constants: Any) -> None:
        """Runs a kernel on all parts, if there are any."""
        if not len(self._counts):
            return
        block = _BLOCK if self._lanes > 1 else _LANES
        sizes = {"BLOCK": block, "LANES": self._lanes, "num_warps": _WARPS if block > 32 else 1}
        kernel[(len(self._counts),)](self._table, *arguments, **constants, **sizes)

    def _addresses(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns where each part is in its tensor; 0: nowhere."""
        starts = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        own = torch.tensor(starts)[self._owners]
        return torch.where(own > 0, own + self._bytes, 0)

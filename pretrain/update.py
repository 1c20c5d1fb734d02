"""From gradients to weights: Adam, and the running average that trails the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.average import WeightAverage


class Update:
    """Adam as torch has it, then the average: what kernels of our own do in one pass.

    A step asks for the norms of the gradients, decides, and moves the weights or leaves all as it
    was. Decisions are tensors on the device, so a CUDA graph can make them.

    Args:
        model: The one that learns.
        parameters: Of it, those that do.
        learning_rate: A scalar on their device, because a captured graph would keep a number.
        betas: Of Adam.
        clip: Largest norm of the gradient; 0 for any.
        average: Decay of the running average; 0 for none.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        learning_rate: Tensor,
        *,
        betas: tuple[float, float],
        clip: float,
        average: float,
    ):
        self.parameters, self.betas = list(parameters), betas
        device = learning_rate.device
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=learning_rate,
            betas=betas,
            fused=True,
            capturable=device.type == "cuda",
        )
        # Adam skips the update, its step count included, where this is one: GradScaler's mechanism.
        self._skip = torch.ones((), device=device)
        self.optimizer.found_inf = self._skip  # type: ignore[attr-defined]
        self._clip = clip
        self._excess = torch.ones((), device=device)  # of the gradient's norm over `clip`
        if clip:  # the other half of that mechanism: Adam divides gradients by it
            self.optimizer.grad_scale = self._excess  # type: ignore[attr-defined]
        for parameter in self.parameters:  # Adam makes its state at its first step, skipped or not
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average = WeightAverage(model, average) if average else None

    def norms(self) -> Tensor:
        """Returns the norms of parts of the gradient, which together are all of it."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients))

    def decide(self, good: Tensor, norm: Tensor) -> None:
        """Takes note of whether the step counts, and of its gradient's norm: two scalars."""
        self._skip.copy_(~good)
        if self._clip:
            self._excess.copy_((norm / self._clip).clamp(min=1.0))
        if self.average is not None:
            self.average.decide(good)

    def apply(self) -> None:
        """Moves the weights, and what trails them."""
        self.optimizer.step()
        if self.average is not None:
            self.average.follow()

    def captured(self) -> None:
        """Is told when a graph has been captured, before it is replayed."""

    def state_dict(self) -> dict[str, Any]:
        """Moments and averages: tensors and plain containers."""
        state: dict[str, Any] = {"optimizer": [self.optimizer.state[p] for p in self.parameters]}
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back, or on, to a saved state; in place, so that a captured graph stays valid."""
        for parameter, saved in zip(self.parameters, state["optimizer"], strict=True):
            for name, value in self.optimizer.state[parameter].items():
                value.copy_(saved[name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

"""A running average of a model's weights, often better than the weights of any one step."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """A copy of a model whose weights and normalisation statistics trail the original's.

    The exponential average forgets weights older than `1 / (1 - decay)` steps; early on, anything
    older than a tenth of the steps made, so that first weights do not linger. The state is on the
    model's device and moved there, so a CUDA graph can do it.

    Args:
        model: The original, on its device.
        decay: Weight of the past, such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        device = next(model.parameters()).device
        self.register_buffer("steps", torch.zeros((), device=device))
        self.steps: Tensor
        here, there = self.model.state_dict(), model.state_dict()
        pairs = [(here[name], there[name]) for name in here]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def follow(self, good: Tensor) -> None:
        """Moves the copy towards the original where the step was good: scalar, true or false."""
        rate = (10 / (10 + self.steps)).clamp(min=1 - self.decay) * good
        mine, theirs = zip(*self._averaged, strict=True)
        way = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(way, rate)
        torch._foreach_add_(mine, way)
        for own, other in self._counted:
            own.copy_(other)
        self.steps.add_(good)

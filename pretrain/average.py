"""A running average of a model's weights, often better than the weights of any one step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
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

    Attributes:
        model: The copy.
        rate: What part of its way the copy goes in this step; a scalar.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        device = next(model.parameters()).device
        self.register_buffer("steps", torch.zeros((), device=device))
        self.steps: Tensor
        self.rate = torch.zeros((), device=device)
        here, there = self.model.state_dict(), model.state_dict()
        self._pairs = {name: (here[name], there[name]) for name in here}

    def take(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Hands over the averages of these parameters of the model: the caller will move them."""
        held = {there.data_ptr(): name for name, (_, there) in self._pairs.items()}
        return [self._pairs.pop(held[parameter.data_ptr()])[0] for parameter in parameters]

    @torch.no_grad()
    def decide(self, good: Tensor) -> None:
        """Sets the rate of a step that counts or does not: scalar, true or false."""
        self.rate.copy_((10 / (10 + self.steps)).clamp(min=1 - self.decay) * good)
        self.steps.add_(good)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the copy towards the original."""
        averaged = [pair for pair in self._pairs.values() if pair[0].is_floating_point()]
        mine, theirs = zip(*averaged, strict=True)
        way = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(way, self.rate)
        torch._foreach_add_(mine, way)
        for own, other in self._pairs.values():
            if not own.is_floating_point():
                own.copy_(other)

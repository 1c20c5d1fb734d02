"""The loops over slots with gradients of their own, which take a few large products at the end.

Left to itself, differentiation makes a product for every weight of every step and adds them up one
by one: most of what such a loop launches, while a product of few rows lasts no longer than its
launch. `genesis_rl.models.masks` defines what is computed, up to rounding.

Shapes: B images, K slots, T steps, M mask-latent dimensions, H hidden units of an LSTM.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genesis_rl.models.layers import Gaussian, LSTMCell, full_precision, posterior_gaussian
from genesis_rl.models.masks import Masks


def infer_slots(masks: Masks, features: Tensor, noise: Tensor | None) -> tuple[Gaussian, Tensor]:
    """Reads slot after slot off `[B, F]` features; see `Masks.posterior`."""
    cell, head = masks.later_slots, masks.later_slots_head
    by_feature, by_latent = cell.weight_ih.split([features.shape[1], masks.latents], dim=1)
    driven = F.linear(features, by_feature, cell.bias_ih + cell.bias_hh)  # of all later slots
    weights = by_latent, cell.weight_hh, head.weight, head.bias
    first = masks.first_slot(features)
    parameters, latents = _Posterior.apply(masks.num_slots, noise, first, driven, *weights)
    return posterior_gaussian(parameters), latents


def unroll(cell: LSTMCell, driven: Tensor) -> Tensor:
    """Maps the inputs' share of all steps' gates, `[B, T, 4 H]`, to hidden states `[B, T, H]`."""
    return _Unrolled.apply(driven, cell.weight_hh)


class _Step(NamedTuple):
    """What the gradient of an LSTM's step needs: gates after their activation, and the cell.

    Attributes:
        take: `[B, H]`, as are the others.
        forget: Share of the last cell state that is kept.
        candidate: Which `take` lets in.
        emit: Share of the cell state that becomes the hidden state.
        cell: The cell's state after the step.
    """

    take: Tensor
    forget: Tensor
    candidate: Tensor
    emit: Tensor
    cell: Tensor

    @classmethod
    def make(cls, gates: Tensor, cell: Tensor | None) -> _Step:
        take, forget, candidate, emit = gates.chunk(4, dim=1)
        take, forget, emit = take.sigmoid(), forget.sigmoid(), emit.sigmoid()
        candidate = candidate.tanh()
        seen = take * candidate
        cell = seen if cell is None else seen + forget * cell
        return cls(take, forget, candidate, emit, cell)

    def hidden(self) -> Tensor:
        return self.emit * self.cell.tanh()

    def backward(
        self, of_hidden: Tensor, of_cell: Tensor | None, before: _Step | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of gates `[B, 4 H]`, and what reaches the cell before the step."""
        squashed = self.cell.tanh()
        through = of_hidden * self.emit * (1 - squashed * squashed)
        of_cell = through if of_cell is None else through + of_cell
        kept = torch.zeros_like(self.cell) if before is None else before.cell
        of_kept = of_cell * self.forget
        pieces = [
            of_cell * self.candidate * self.take * (1 - self.take),
            of_cell * kept * self.forget * (1 - self.forget),
            of_cell * self.take * (1 - self.candidate * self.candidate),
            of_hidden * squashed * self.emit * (1 - self.emit),
            # No gate's; but part of this and needed besides, it makes the compiler write everything
            # in one pass over `[B, H]`, and not in two: the cell's, then that of all gates.
            of_kept,
        ]
        return torch.cat(pieces, dim=1)[:, : 4 * kept.shape[1]], of_kept


class _Posterior(torch.autograd.Function):
    """Parameters `[B, K, 2 M]` and latents `[B, K, M]` of all slots, from the first's parameters.

    A slot takes two products, and so does its gradient: what is multiplied by the same weights, or
    the same numbers by several, goes together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        slots: int,
        noise: Tensor | None,
        first: Tensor,
        driven: Tensor,
        by_latent: Tensor,
        by_hidden: Tensor,
        head: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        head_and_gates = torch.cat([head, by_hidden])  # [2 M + 4 H, H]
        parameters, latents = [first], [_draw(first, noise, 0)]
        steps: list[_Step] = []
        hidden: list[Tensor] = []
        gates = driven
        for k in range(1, slots):
            gates = gates + latents[-1] @ by_latent.mT
            steps.append(_Step.make(gates, steps[-1].cell if steps else None))
            hidden.append(steps[-1].hidden())
            raw, recurrent = (hidden[-1] @ head_and_gates.mT).split([len(head), len(by_hidden)], 1)
            parameters.append(raw + bias)
            latents.append(_draw(parameters[-1], noise, k))
            gates = driven + recurrent
        outputs = torch.stack(parameters, dim=1), torch.stack(latents, dim=1)
        known = noise, by_latent, by_hidden, head, *outputs, torch.stack(hidden, dim=1)
        ctx.save_for_backward(*known, *(tensor for step in steps for tensor in step))
        return outputs

    @staticmethod
    def backward(ctx: Any, of_parameters: Tensor, of_latents: Tensor) -> tuple[Tensor | None, ...]:
        noise, by_latent, by_hidden, head, parameters, latents, hidden, *kept = ctx.saved_tensors
        steps = _steps(kept)
        sizes = [by_latent.shape[1], by_hidden.shape[1]]
        with full_precision(head):
            latent_and_hidden = torch.cat([by_latent, by_hidden], dim=1)  # [4 H, M + H]
            # The deviation is `softplus(raw + 0.5)` and a constant; softplus grows by a sigmoid.
            raw = parameters.chunk(2, dim=2)[1]
            slope = None if noise is None else noise * torch.sigmoid(raw + 0.5)
            of_raw: list[Tensor] = []  # from the last slot to the first, like `of_gates`
            of_gates: list[Tensor] = []
            from_latent = from_hidden = of_cell = None
            for k in reversed(range(latents.shape[1])):
                of_mean, of_deviation = of_parameters[:, k].chunk(2, dim=1)
                of_latent = _plus(of_latents[:, k], from_latent)
                if slope is not None:
                    of_deviation = of_deviation + of_latent * slope[:, k]
                of_raw.append(torch.cat([of_mean + of_latent, of_deviation], dim=1))
                if k:
                    of_hidden = _plus(of_raw[-1] @ head, from_hidden)
                    before = steps[k - 2] if k > 1 else None
                    of_step, of_cell = steps[k - 1].backward(of_hidden, of_cell, before)
                    of_gates.append(of_step)
                    from_latent, from_hidden = (of_step @ latent_and_hidden).split(sizes, dim=1)
            of_first = of_raw.pop()
            of_later, gates = torch.stack(of_raw[::-1], dim=1), torch.stack(of_gates[::-1], dim=1)
            of_weights = (
                _of_weight(gates, latents[:, :-1]),
                _of_weight(gates, _before(hidden)),
                _of_weight(of_later, hidden),
            )
            return None, None, of_first, gates.sum(dim=1), *of_weights, of_later.sum(dim=(0, 1))


class _Unrolled(torch.autograd.Function):
    """An LSTM whose inputs are known."""

    @staticmethod
    def forward(ctx: Any, driven: Tensor, by_hidden: Tensor) -> Tensor:
        steps: list[_Step] = []
        hidden: list[Tensor] = []
        for gates in driven.unbind(dim=1):
            if hidden:
                gates = gates + hidden[-1] @ by_hidden.mT
            steps.append(_Step.make(gates, steps[-1].cell if steps else None))
            hidden.append(steps[-1].hidden())
        output = torch.stack(hidden, dim=1)
        ctx.save_for_backward(by_hidden, output, *(tensor for step in steps for tensor in step))
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        by_hidden, hidden, *kept = ctx.saved_tensors
        steps = _steps(kept)
        with full_precision(by_hidden):
            of_gates: list[Tensor] = []  # from the last step to the first
            from_hidden = of_cell = None
            for t in reversed(range(len(steps))):
                of_hidden = _plus(upstream[:, t], from_hidden)
                before = steps[t - 1] if t else None
                of_step, of_cell = steps[t].backward(of_hidden, of_cell, before)
                of_gates.append(of_step)
                from_hidden = of_step @ by_hidden if t else None
            gates = torch.stack(of_gates[::-1], dim=1)
            return gates, _of_weight(gates, _before(hidden))


def _steps(kept: list[Tensor]) -> list[_Step]:
    size = len(_Step._fields)
    return [_Step(*kept[i : i + size]) for i in range(0, len(kept), size)]


def _draw(parameters: Tensor, noise: Tensor | None, k: int) -> Tensor:
    return posterior_gaussian(parameters).sample(None if noise is None else noise[:, k])


def _plus(summand: Tensor, other: Tensor | None) -> Tensor:
    return summand if other is None else summand + other


def _before(hidden: Tensor) -> Tensor:
    """Returns the hidden states before the steps after which they are `[B, T, H]`."""
    return F.pad(hidden[:, :-1], (0, 0, 1, 0))  # before the first step they are 0


def _of_weight(of_outputs: Tensor, inputs: Tensor) -> Tensor:
    """Sums a weight's gradient `[out, in]` over the rows of all steps, in one product."""
    return of_outputs.flatten(end_dim=1).mT @ inputs.flatten(end_dim=1)

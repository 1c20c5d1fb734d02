"""What keeps reconstruction and compression in balance: GECO, or a beta set by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """A weight on the KL that moves as training goes on. Its state lies in buffers."""

    beta: Tensor

    def forward(self, error: Tensor, kl: Tensor) -> Tensor:
        """Returns the scalar loss of this batch, then (in training) moves beta for the next one.

        Args:
            error: Scalar, batch mean in nats per image.
            kl: Scalar, batch mean in nats per image.
        """
        loss = self.loss(error, kl)
        if self.training:
            self.update(error.detach(), torch.isfinite(loss.detach()))
        return loss

    def loss(self, error: Tensor, kl: Tensor) -> Tensor:
        """Returns the scalar loss of this batch and moves nothing."""
        # The clone keeps this beta for autograd, should it be moved in place before the way back.
        return error + self.beta.clone() * kl

    def update(self, error: Tensor, good: Tensor) -> None:
        """Moves beta for the next batch.

        Args:
            error: Like that of `forward`, but without a gradient.
            good: Scalar, true or false. A batch that is not good leaves the state as it was.
        """
        raise NotImplementedError


class Geco(Objective):
    """Minimises the KL subject to `reconstruction error <= goal` (Rezende and Viola, 2018).

    While the running error is above the goal, beta falls and the model is free to reconstruct;
    once the goal is met, beta rises and the KL is squeezed. State lives in buffers on the model's
    device, so nothing is read back to the host and `state_dict()` resumes it exactly. A batch whose
    error or KL is not finite leaves the state as it was.

    Args:
        goal: Error to reach, in nats per image.
        step_size: Learning rate of log beta while the goal is missed, per nat and step.
        speedup: Factor on `step_size` while the goal is met.
        decay: Weight of the past in the running error, which starts at the first error seen.
        first_beta: Beta to start with.
        beta_range: Bounds of beta.
        largest_step: Bound on the change of log beta in a step, up or down. Early errors miss the
            goal by a thousand nats, which says that training is young and not that beta is too
            large; unbounded, they take beta down by decades that it then has to climb back.
        half_life: Steps in which the distance from an easy first goal to `goal` halves; 0 asks for
            `goal` from the start.
        first_goal: That easy goal, in nats per image; None takes the first error seen.
    """

    def __init__(
        self,
        goal: float,
        *,
        step_size: float = 1e-5,
        speedup: float = 10.0,
        decay: float = 0.99,
        first_beta: float = 1.0,
        beta_range: tuple[float, float] = (1e-10, 1e10),
        largest_step: float = math.inf,
        half_life: float = 0.0,
        first_goal: float | None = None,
    ):
        super().__init__()
        self.goal = goal
        self.step_size = step_size
        self.speedup = speedup
        self.decay = decay
        self.beta_range = beta_range
        self.largest_step = largest_step
        self.half_life = half_life
        self.first_goal = first_goal
        self.register_buffer("beta", torch.tensor(first_beta))
        # In double: a float near the goal, 7,000 nats, is only exact to 5e-4, and beta sums it up.
        self.register_buffer("error_ema", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("started", torch.tensor(False))
        self.error_ema: Tensor
        self.started: Tensor
        if half_life:  # how much easier than `goal` the goal still is, in nats per image
            self.register_buffer("margin", torch.tensor(0.0, dtype=torch.float64))
            self.margin: Tensor

    @classmethod
    def for_image_size(
        cls,
        image_size: int,
        *,
        goal: float = 0.5655,
        step_size: float = 1e-5,
        first_goal: float | None = None,
        **options: Any,
    ) -> Geco:
        """Returns the multiplier for square RGB images.

        Args:
            image_size: Side of the image in pixels.
            goal: Error to reach in nats per pixel and channel. 0.5623 is the floor at a standard
                deviation of 0.7; the paper's 0.5655 is a mean squared error of 0.0032.
            step_size: At 64 pixels; smaller for larger images, whose errors sum over more pixels.
            first_goal: Like `goal`.
            options: Passed on.
        """
        elements = 3 * image_size**2
        return cls(
            goal * elements,
            step_size=step_size * 64**2 / image_size**2,
            first_goal=None if first_goal is None else first_goal * elements,
            **options,
        )

    @torch.no_grad()
    def update(self, error: Tensor, good: Tensor) -> None:
        """Moves the running error, then beta towards what the goal asks for."""
        average = self.decay * self.error_ema + (1 - self.decay) * error.double()
        average = torch.where(self.started, average, error.double())
        slack = self._goal_now(error, good) - average  # positive where the goal is met
        rate = self.step_size * torch.where(slack > 0, self.speedup, 1.0)
        step = (rate * slack).clamp(-self.largest_step, self.largest_step)
        beta = (self.beta * torch.exp(step)).clamp(*self.beta_range)
        self.beta.copy_(torch.where(good, beta, self.beta))
        self.error_ema.copy_(torch.where(good, average, self.error_ema))
        self.started.copy_(self.started | good)

    def _goal_now(self, error: Tensor, good: Tensor) -> float | Tensor:
        """Returns the goal of this step and moves it on."""
        if not self.half_life:
            return self.goal
        first = error.double()
        if self.first_goal is not None:
            first = torch.full_like(first, self.first_goal)
        # Never negative: a first goal harder than the last one would be none to start from.
        margin = torch.where(self.started, self.margin, (first - self.goal).clamp(min=0))
        self.margin.copy_(torch.where(good, margin * 0.5 ** (1 / self.half_life), self.margin))
        return self.goal + margin


class BetaWarmup(Objective):
    """The beta-VAE objective: a fixed weight on the KL, optionally reached along a straight line.

    Args:
        beta: Final weight of the KL.
        warmup_steps: Steps over which the weight grows from 0; 0 starts at `beta`.
    """

    def __init__(self, beta: float = 0.5, *, warmup_steps: int = 0):
        super().__init__()
        self.final_beta = beta
        self.warmup_steps = warmup_steps
        self.register_buffer("beta", torch.tensor(0.0 if warmup_steps else beta))
        self.register_buffer("step", torch.tensor(0.0))
        self.step: Tensor

    @torch.no_grad()
    def update(self, error: Tensor, good: Tensor) -> None:
        """Moves beta up the line by a step."""
        self.step.add_(good)
        if self.warmup_steps:
            done = (self.step / self.warmup_steps).clamp(max=1.0)
            self.beta.copy_(self.final_beta * done)

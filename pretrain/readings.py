"""What the engine notes about its steps, on the device, until somebody reads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Readings:
    """What happened since the last reading. Nats are per image.

    Attributes:
        loss: Of the last step that counted.
        error: Its reconstruction error.
        kl: Its KL.
        beta: Weight of the KL in the next step.
        mean_error: Mean over the steps that counted.
        mean_kl: Likewise.
        mean_gradient_norm: Likewise.
        skipped: Steps whose error, KL or gradient was not finite, since the run began.
        skipped_in_a_row: The longest unbroken series of them since the last reading.
    """

    loss: float
    error: float
    kl: float
    beta: float
    mean_error: float
    mean_kl: float
    mean_gradient_norm: float
    skipped: int
    skipped_in_a_row: int


# Entries of the book-keeping vector; the sums are in the order of the values they add up.
_LOSS, _ERROR, _KL, _SUM_ERROR, _SUM_KL, _SUM_NORM, _COUNT = range(7)
SKIPPED, _IN_A_ROW, _LONGEST = range(7, 10)


def new_book(device: torch.device) -> Tensor:
    """Returns the book of a run that has made no steps."""
    return torch.zeros(10, dtype=torch.float64, device=device)


def read_book(book: Tensor, *, beta: float) -> Readings:
    """Waits for the device; returns what the book says and begins the next reading."""
    noted = book.tolist()
    count = max(noted[_COUNT], 1)
    book[[_SUM_ERROR, _SUM_KL, _SUM_NORM, _COUNT, _LONGEST]] = 0
    return Readings(
        loss=noted[_LOSS],
        error=noted[_ERROR],
        kl=noted[_KL],
        beta=beta,
        mean_error=noted[_SUM_ERROR] / count,
        mean_kl=noted[_SUM_KL] / count,
        mean_gradient_norm=noted[_SUM_NORM] / count,
        skipped=int(noted[SKIPPED]),
        skipped_in_a_row=int(noted[_LONGEST]),
    )


def judge(
    norm: Tensor, loss: Tensor, error: Tensor, kl: Tensor, book: Tensor
) -> tuple[Tensor, Tensor]:
    """Decides whether a step counts.

    Args:
        norm: Of all gradients together; a scalar, like the next three.
        loss: Of the mean error and the mean KL.
        error: Mean error.
        kl: Mean KL.
        book: What was noted of the steps before.

    Returns:
        Whether the step counts, and the book with this step.
    """
    good = torch.isfinite(norm) & torch.isfinite(loss)
    now = torch.stack([loss, error, kl, error, kl, norm, torch.ones_like(loss)]).double()
    sums = book[_SUM_ERROR:SKIPPED] + now[_SUM_ERROR:]
    in_a_row = book[_IN_A_ROW:_LONGEST] + 1
    counted = [now[:_SUM_ERROR], sums, book[SKIPPED:_IN_A_ROW], in_a_row * 0, book[_LONGEST:]]
    skipped = [book[:SKIPPED], book[SKIPPED:_IN_A_ROW] + 1, in_a_row]
    skipped.append(torch.maximum(book[_LONGEST:], in_a_row))
    noted = torch.where(good, torch.cat(counted), torch.cat(skipped))
    return good, noted

"""Random numbers that are a pure function of a key: no state, no order, no host.

Datasets and environments draw from here, so that image 7 or episode 7 is the same whatever was
drawn before it, in whichever batch, and on whichever device. The generator is SplitMix64 (Steele,
Lea and Flood, 2014) in wrapping int64 arithmetic.
"""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the bits of this uint64."""
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def fold(key: Tensor | int, data: Tensor | int, device: torch.device | str | None = None) -> Tensor:
    """A new key from a key and a number (a split, an index): different numbers, different keys.

    Args:
        key: The old key, or `[B]` of them.
        data: The number, or `[B]` of them.
        device: Where the new key lies; None is where the numbers lie, or else the old key.
    """
    if device is None:
        device = next((v.device for v in (data, key) if isinstance(v, Tensor)), "cpu")
    key, data = (
        value.to(device, torch.int64)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=torch.int64, device=device)  # nothing is sent to a GPU
        for value in (key, data)
    )
    return _mix(_mix(key + _GAMMA) + data * _GAMMA)


def bits(keys: Tensor, draws: int, skip: int = 0) -> Tensor:
    """`[B, draws]` int64 of 64 random bits each, for `[B]` keys, after those that are skipped."""
    counter = torch.arange(skip + 1, skip + draws + 1, device=keys.device)
    return _mix(keys[:, None] + counter * _GAMMA)


def integers(bits: Tensor, high: Tensor | int) -> Tensor:
    """Random bits to integers from 0 to `high` - 1, for `high` up to 2^23.

    A value's probability is off by less than `high` / 2^40 of itself.
    """
    return (_shift_right(bits, 24) * high) >> 40


def without_repeats(draws: Tensor) -> Tensor:
    """Draws with replacement into draws without: what redrawing until it is new would give.

    Args:
        draws: `[B, D]` where column k is uniform over `n - k` numbers.

    Returns:
        `[B, D]` numbers below n, different within a row; column k is uniform over those left.
    """
    chosen = draws[:, :1]
    for k in range(1, draws.shape[1]):
        number = draws[:, k]
        for taken in chosen.sort(dim=1).values.unbind(1):
            number = number + (number >= taken)  # the number-th of those not taken
        chosen = torch.cat([chosen, number[:, None]], dim=1)
    return chosen


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Shifts zeros in from the left; `>>` alone would repeat the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)

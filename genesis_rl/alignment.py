"""Slots that keep their numbers over time: each frame's are permuted to match those before.

GENESIS infers slots from scratch for each frame, so what was in slot 2 may be in slot 3 a frame
later. `SlotAligner` remembers every slot of every environment and gives the slots of the next frame
the numbers under which they differ least from that, over all permutations. It permutes rows and
never changes values.

Shapes: B frames, N environments, K slots, M mask-latent and C component-latent dimensions,
D = M + C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

MAX_SLOTS = 12  # subsets of slots are enumerated


class SlotAligner:
    """The memory of N environments, and the matching of new frames with it.

    Two slots are as far apart as their mask latents (root mean square of the differences) and their
    component latents (likewise, times `what_counts`) together. *Where* a slot was is remembered
    from the last frame, because objects move; *what* was in it fades slowly, because objects stay
    what they are: one that was hidden behind another for some frames gets its number back.

    Args:
        num_slots: K.
        mask_size: M; what follows in a latent is its component latent.
        num_envs: N.
        last_mask_counts: Whether the last slot's mask latent says where it is. That of GENESIS does
            not: the last mask is what the others leave over. It is then left out of all distances,
            and the last slot is told by its component latent.
        kept: Of what a slot looked like, from frame to frame; at 0.9 half is left after seven.
        what_counts: Weight of component latents; a mask latent also moves when others' masks do.

    Attributes:
        order: `[N, K]` which inferred slot each number now means; None before the first frame.

    Raises:
        ValueError: There are more than `MAX_SLOTS` slots.
    """

    def __init__(
        self,
        num_slots: int,
        mask_size: int,
        num_envs: int = 1,
        *,
        last_mask_counts: bool = True,
        kept: float = 0.9,
        what_counts: float = 4.0,
    ):
        if num_slots > MAX_SLOTS:
            raise ValueError(
                f"slots are aligned by trying all permutations of up to {MAX_SLOTS}, but the model "
                f"has {num_slots}; use align=None"
            )
        self.num_slots, self.mask_size, self.num_envs = num_slots, mask_size, num_envs
        self.last_mask_counts, self.kept, self.what_counts = last_mask_counts, kept, what_counts
        self.order: Tensor | None = None
        self._memory = torch.zeros(0)  # [N, K, D]
        self._placed = torch.zeros(0)  # [N, K] bool: whether the mask latent in memory says where

    @torch.no_grad()
    def __call__(
        self,
        latents: Tensor,
        envs: Sequence[int] | None = None,
        begins: Sequence[int] = (),
        final: int = 0,
    ) -> Tensor:
        """Permutes the slots of a batch of frames.

        Args:
            latents: `[B, K, D]`, on the device where the memory is kept from then on.
            envs: Which environment each frame comes from; None is all, in order. But for final
                frames, one frame for each.
            begins: Environments whose episode begins with their frame: it is taken as it is.
            final: So many frames, the first of the batch, end episodes: they are matched with the
                memory of these, and not remembered.

        Returns:
            `[B, K, D]`, on the same device.
        """
        self._prepare(latents)
        device = latents.device
        rows = torch.as_tensor(range(self.num_envs) if envs is None else envs, device=device)
        fresh = torch.zeros(self.num_envs, dtype=torch.bool)
        fresh[list(begins)] = True
        fresh = fresh.to(device)[rows]
        fresh[:final] = False

        memory, placed = self._memory[rows], self._placed[rows]
        order = assign(self._distances(memory, placed, latents))
        as_inferred = torch.arange(self.num_slots, device=device)
        order = torch.where(fresh[:, None], as_inferred, order)
        aligned = latents.gather(1, order[:, :, None].expand_as(latents))
        self._remember(rows[final:], order[final:], aligned[final:], fresh[final:, None])
        return aligned

    def _prepare(self, latents: Tensor) -> None:
        """Makes room at the first frame: no device is touched before."""
        if self.order is not None and self._memory.device == latents.device:
            return
        shape, device = (self.num_envs, self.num_slots), latents.device
        with torch.inference_mode(False):  # it outlives the caller's mode
            self._memory = torch.zeros(*shape, latents.shape[2], device=device)
            self._placed = torch.zeros(shape, dtype=torch.bool, device=device)
            self.order = torch.arange(self.num_slots, device=device).repeat(self.num_envs, 1)

    def _distances(self, memory: Tensor, placed: Tensor, latents: Tensor) -> Tensor:
        """`[B, K, K]`: of what is remembered, row by row, to what is there now."""
        size = self.mask_size
        where = _root_mean_square(memory[..., :size], latents[..., :size])
        what = self.what_counts * _root_mean_square(memory[..., size:], latents[..., size:])
        if self.last_mask_counts:
            return where + what
        # The last slot is nowhere, which makes no difference to which number it gets. A number that
        # was never anywhere is as far from the others as these are from each other on average.
        somewhere = torch.ones_like(placed)
        somewhere[:, -1] = False
        known = placed[:, :, None] & somewhere[:, None]
        mean = (where * known).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)
        where = torch.where(known, where, mean[:, None, None]) * somewhere[:, None]
        return where + what

    def _remember(self, rows: Tensor, order: Tensor, aligned: Tensor, fresh: Tensor) -> None:
        size, memory, placed = self.mask_size, self._memory[rows], self._placed[rows]
        says_where = torch.ones_like(placed)
        if not self.last_mask_counts:
            says_where = order != self.num_slots - 1
        where = torch.where((says_where | fresh)[:, :, None], aligned, memory)
        what = torch.where(fresh[:, :, None], aligned, aligned.lerp(memory, self.kept))
        assert self.order is not None
        self.order[rows] = order
        self._memory[rows] = torch.cat([where[..., :size], what[..., size:]], dim=2)
        self._placed[rows] = says_where | (placed & ~fresh)


def assign(cost: Tensor) -> Tensor:
    """Finds the one-to-one assignment of rows to columns that costs least: exactly, all at once.

    Dynamic programming over the subsets of columns that the first rows have taken (Held and Karp,
    1962): K 2^(K - 1) additions a matrix, 2,304 at K = 9, in some 8 K operations on the whole
    batch. Between equals, rows keep to the diagonal.

    Args:
        cost: `[B, K, K]`.

    Returns:
        `[B, K]` int64: the column of each row.
    """
    count, size, _ = cost.shape
    levels = _levels(size, str(cost.device))
    least = cost.new_zeros(count, 1)  # [B, S] of the rows so far, if they take this subset
    choices = []
    for row, level in enumerate(levels):
        total = least[:, level.before] + cost[:, row][:, level.column]  # [B, S, row + 1]
        least, choice = total.min(dim=2)
        choices.append(choice)

    columns = []
    subset = torch.zeros(count, dtype=torch.long, device=cost.device)  # all columns
    for level, choice in zip(reversed(levels), reversed(choices), strict=True):
        chosen = choice.gather(1, subset[:, None])[:, 0]
        columns.append(level.column[subset, chosen])
        subset = level.before[subset, chosen]
    return torch.stack(columns[::-1], dim=1)


class _Level(NamedTuple):
    """All S subsets of a number k of columns, and the subsets of k - 1 that they grow from.

    Attributes:
        before: `[S, k]` the number of a smaller subset.
        column: `[S, k]` the column that it lacks, from the last to the first.
    """

    before: Tensor
    column: Tensor


@lru_cache(maxsize=16)
def _levels(size: int, device: str) -> tuple[_Level, ...]:
    levels = []
    smaller: dict[tuple[int, ...], int] = {(): 0}
    with torch.inference_mode(False):  # they outlive the caller's mode
        for taken in range(1, size + 1):
            # From the last column to the first, because the first of equal minima is chosen.
            subsets = list(combinations(reversed(range(size)), taken))
            before = [[smaller[s[:i] + s[i + 1 :]] for i in range(taken)] for s in subsets]
            levels.append(
                _Level(*(torch.tensor(table, device=device) for table in (before, subsets)))
            )
            smaller = {subset: number for number, subset in enumerate(subsets)}
    return tuple(levels)


def _root_mean_square(a: Tensor, b: Tensor) -> Tensor:
    """`[B, K, K]` of the differences between the slots of `[B, K, D]` and those of `[B, K, D]`."""
    # Not through a matrix product, whose rounding depends on the batch and the device.
    apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return apart / math.sqrt(max(a.shape[2], 1))

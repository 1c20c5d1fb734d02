"""Several processes that train one model: who is who, and what they tell each other.

torchrun starts the processes and gives each its rank in environment variables. Without those there
is one process, `Ranks()`: it talks to nobody, and nothing in here does anything.
"""

from __future__ import annotations

import gc
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from pretrain.config import Config
from pretrain.machine import stop_with_parent
from pretrain.state import Stop, has_run, load_state, pack, unpack

_TIMEOUT = timedelta(minutes=30)  # for a rank that neither answers nor hangs up


@dataclass(frozen=True)
class Ranks:
    """This process among those that train the same model.

    Every method but `share` has to be called by all of them in the same order. Numbers and bytes
    travel over the host's network, without waiting for the device.

    Attributes:
        rank: Which one this is. Rank 0 alone logs, validates and writes to the run folder.
        world: How many there are.
        local_rank: Which one on its machine this is, and so the GPU it takes; None: nobody says.
    """

    rank: int = 0
    world: int = 1
    local_rank: int | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def launched(self) -> bool:
        """Whether torchrun has started this process, and may do so again."""
        return self.local_rank is not None

    def share(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch that is the same on all ranks: every `world`-th."""
        return rows if self.world == 1 else rows[self.rank :: self.world].contiguous()

    def means(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks of tensors of one dtype, in one message and laid out like these.

        They are parts of that message: nothing is copied back. One process gets its own tensors.
        """
        if self.world == 1:
            return list(tensors)
        # Ragged ones go last: whatever reads the others finds them aligned, four numbers at once.
        order = sorted(range(len(tensors)), key=lambda i: tensors[i].numel() % 4 > 0)
        views = [_channels_last(tensors[i]) for i in order]
        flat = torch.cat([view.reshape(-1) for view in views])
        if flat.device.type == "cuda":  # NCCL divides on the way, gloo cannot
            self._talk(dist.all_reduce, flat, dist.ReduceOp.AVG)
        else:
            self._talk(dist.all_reduce, flat, dist.ReduceOp.SUM)
            flat /= self.world
        parts = flat.split([view.numel() for view in views])
        shaped = [part.view(view.shape) for part, view in zip(parts, views, strict=True)]
        found = dict(zip(order, map(_channels_first, shaped), strict=True))
        return [found[i] for i in range(len(tensors))]

    def largest(self, *numbers: float) -> list[float]:
        """The largest of each number on any rank, on all of them."""
        if self.world == 1:
            return list(numbers)
        told = torch.tensor(numbers, dtype=torch.float64)
        self._talk(dist.all_reduce, told, dist.ReduceOp.MAX)
        return [float(number) for number in told.tolist()]

    def wait(self) -> None:
        """Returns once all ranks have come here."""
        self.largest(0.0)

    def require_same(self, images: Tensor) -> None:
        """Makes sure that all ranks have the same images, `[N, ...]` uint8, in the same order.

        Raises:
            Stop: They have not (status 3).
        """
        if self.world == 1:
            return
        sums = images.flatten(start_dim=1).sum(dim=1, dtype=torch.int64)
        weighted = sums * torch.arange(1, len(sums) + 1, device=sums.device)
        mine = float(int(weighted.sum()) % 2**52)  # whole numbers up to there are exact in double
        highest, lowest = self.largest(mine, -mine)
        if highest != -lowest:
            raise Stop(
                3, f"rank {self.rank}: the ranks read different training images; give all the same"
            )

    def tell(self, data: bytes | None) -> bytes | None:
        """What rank 0 passes in, which is None or at least a byte, on all ranks."""
        if self.world == 1:
            return data
        data = data if self.is_main else None
        count = int(self.largest(len(data) if data else 0)[0])
        if not count:
            return None
        told = torch.frombuffer(bytearray(data or count), dtype=torch.uint8)
        self._talk(dist.broadcast, told, 0)
        return told.numpy().tobytes()

    def settings(self, config: Config) -> Config:
        """Rank 0's settings; what torchrun starts again goes on from the newest state unasked."""
        if self.launched and self.is_main and has_run(config.folder):
            config = replace(config, resume=True)
        told = self.tell(json.dumps(asdict(config)).encode())
        return config if self.world == 1 or told is None else Config(**json.loads(told))

    def newest_state(self, config: Config, say: Any) -> tuple[int, dict[str, Any]] | None:
        """The run's newest sound state as rank 0 reads it, on all ranks."""
        found = None
        if self.is_main:
            found = load_state(config.folder, config=config.fingerprint(), say=say)
        if self.world == 1:
            return found
        told = self.tell(None if found is None else pack({"step": found[0], "state": found[1]}))
        if told is None:
            return None
        unpacked = unpack(told)
        return unpacked["step"], unpacked["state"]

    def leave(self) -> None:
        """Hangs up, at the end of a run that nothing has gone wrong in."""
        if self.world > 1:
            gc.collect()  # a CUDA graph that still held a channel would keep NCCL from closing it
            dist.destroy_process_group()

    def _talk(self, how: Callable[..., Any], tensor: Tensor, *arguments: Any) -> None:
        try:
            how(tensor, *arguments)
        except RuntimeError as error:
            if tensor.device.type == "cuda":  # a capture that fails is tried in another way
                raise
            line = " ".join(str(error).split())[:200]
            raise Stop(1, f"rank {self.rank} has lost another rank ({line})") from error


def join() -> Ranks:
    """Joins the processes that torchrun has started; alone where nobody has started any.

    Raises:
        Stop: The others cannot be reached (status 1).
    """
    if "RANK" not in os.environ:
        return Ranks()
    variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, world, local_rank = (int(os.environ[name]) for name in variables)
    except (KeyError, ValueError) as error:
        found = {name: os.environ.get(name) for name in variables}
        raise Stop(2, f"RANK is set, so these have to be numbers: {found}; use torchrun") from error
    stop_with_parent()
    if world > 1:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", timeout=_TIMEOUT))
            store = meet(store, rank, world)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT
            )
        except (RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise Stop(1, f"rank {rank} cannot reach the others: {line}") from error
    return Ranks(rank, world, local_rank)


def meet(store: dist.Store, rank: int, world: int) -> dist.Store:
    """A part of the store that is for this start of the ranks alone.

    torchrun may keep a store when it starts ranks again (2.13 does), and with it the addresses of
    the dead. Rank 0 makes up a name, and the others take it once it has answered them by it:
    a name that an earlier start has left behind gives no answer to newcomers.
    """
    me = uuid.uuid4().hex
    if rank == 0:
        store.set("meeting", me)
        for other in range(1, world):
            newcomer = store.get(f"{me}/{other}").decode()
            store.set(f"{me}/{other}/{newcomer}", "welcome")
        return dist.PrefixStore(me, store)
    deadline = time.monotonic() + _TIMEOUT.total_seconds()
    while True:
        meeting = store.get("meeting").decode()
        store.set(f"{meeting}/{rank}", me)
        try:
            store.wait([f"{meeting}/{rank}/{me}"], timedelta(seconds=1))
            return dist.PrefixStore(meeting, store)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise


def _channels_last(tensor: Tensor) -> Tensor:
    """A view in the order of the memory: convolutions and their gradients lie channels-last."""
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor


def _channels_first(tensor: Tensor) -> Tensor:
    """The way back: a view of what lies channels-last."""
    return tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor

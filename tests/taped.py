"""CUDA graphs on the CPU: operations are taped, and playing the tape performs them again.

As in a graph, nothing of Python runs again, every tensor stays where it was when it was taped, and
what a graph cannot hold is refused.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from envs.replay import Recording, Replays

# The host waits for the device, or the number of results depends on values.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "item")


def same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Performs operations and remembers them."""

    def __init__(self):
        super().__init__()
        self.entries = []
        self.lifted = []  # tensors made of Python's numbers, which a GPU would have to be sent

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "lift_fresh":
            self.lifted += tensors
        elif name != "fill_" and any(same_memory(a, b) for a in tensors for b in self.lifted):
            raise RuntimeError(f"a CUDA graph cannot hold {name} of what the host sends")
        by_mask = name.startswith("index") and any(one.dtype == torch.bool for one in tensors[1:])
        if name in WAITS or (by_mask and name in ("index", "index_put_", "index_put")):
            raise RuntimeError(f"a CUDA graph cannot hold {name}")
        results = function(*args, **kwargs)
        mine = {one.untyped_storage().data_ptr() for one in tensors}
        fresh = [
            one
            for one in tree_leaves(results)
            if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in mine
        ]
        if fresh or function._schema.is_mutable:  # views need not be taken again
            self.entries.append((function, args, kwargs, results, fresh))
        return results

    def play(self) -> None:
        for function, args, kwargs, before, fresh in self.entries:
            results = function(*args, **kwargs)
            for target, value in zip(tree_leaves(before), tree_leaves(results), strict=True):
                if any(target is one for one in fresh):
                    target.copy_(value)


class TapedReplays(Replays):
    """Replays from tapes, on the CPU. Every instance made is in `made`."""

    made: list[Any] = []

    def __init__(self, device, wanted=True):
        super().__init__(device, wanted)
        self.work = wanted
        self.tapes, self.played = [], 0
        self.made.append(self)

    def _recorded(self, function, inputs):
        for _ in range(2):
            function(*inputs)
        with Tape() as tape:
            results = function(*inputs)
        self.tapes.append(tape)

        def replay():
            self.played += 1
            tape.play()

        return Recording(inputs, results, replay)

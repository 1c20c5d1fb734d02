"""Entries of the authors' release under our names and in our layout, layer by layer.

Three things are stored differently on our side: the two normalisations of a gated convolution are
one of twice the width, and so are two heads on the same features; convolutions as large as their
input are linear layers over (row, column, channel); LSTMs are single cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from genesis_rl.models.masks import strides_for

Weights: TypeAlias = Mapping[str, Tensor]


class Translation:
    """Collects released entries under our names; every method takes ours first, then theirs.

    Args:
        theirs: The released state dict. A `KeyError` says what it lacks.
        image_size: What the caller knows about it, if anything.
    """

    def __init__(self, theirs: Weights, image_size: int | None = None):
        self.theirs = theirs
        self.asked_size = image_size
        self.ours: dict[str, Tensor] = {}

    def shape(self, name: str) -> torch.Size:
        """Shape of one of their entries."""
        return self.theirs[name].shape

    def copy(self, ours: str, theirs: str, suffix: str = "") -> None:
        """Takes a module's entries over, without a suffix of their names."""
        for entry in self._entries(theirs):
            self.ours[f"{ours}.{entry.removesuffix(suffix)}"] = self.theirs[f"{theirs}.{entry}"]

    def join(self, ours: str, *theirs: str) -> None:
        """Makes one layer of several whose outputs lie one after the other."""
        for entry in self._entries(theirs[0]):
            parts = [self.theirs[f"{module}.{entry}"] for module in theirs]
            self.ours[f"{ours}.{entry}"] = torch.cat(parts) if parts[0].ndim else parts[0]

    def gated(self, ours: str, theirs: str) -> None:
        """Takes over a gated convolution, normalised or not."""
        self.copy(f"{ours}.conv", f"{theirs}.conv")
        if any(name.startswith(f"{theirs}.h_norm.") for name in self.theirs):
            self.join(f"{ours}.norm", f"{theirs}.h_norm", f"{theirs}.g_norm")

    def image_encoder(self, ours: str, theirs: str) -> None:
        """Takes over an `ImageEncoder`."""
        for i in range(5):
            self.gated(f"{ours}.{i}", f"{theirs}.{i}")
        weight = self.theirs[f"{theirs}.5.conv.weight"]  # [2 out, in, s, s]
        self.ours[f"{ours}.5.linear.weight"] = weight.permute(0, 2, 3, 1).flatten(start_dim=1)
        self.ours[f"{ours}.5.linear.bias"] = self.theirs[f"{theirs}.5.conv.bias"]

    def gated_decoder(self, ours: str, theirs: str, readout: str) -> None:
        """Takes over a `MaskDecoder`, whose last convolution has another name."""
        weight = self.theirs[f"{theirs}.0.conv.weight"]  # [in, 2 out, s, s]
        self.ours[f"{ours}.0.weight"] = weight.permute(2, 3, 1, 0).flatten(end_dim=2)
        self.ours[f"{ours}.0.bias"] = self.theirs[f"{theirs}.0.conv.bias"]
        for i in range(1, 6):
            self.gated(f"{ours}.{i}", f"{theirs}.{i}")
        self.copy(f"{ours}.6", readout)

    def broadcast_decoder(self, ours: str, theirs: str) -> None:
        """Takes over a `BroadcastDecoder`."""
        self.copy(f"{ours}.first", f"{theirs}.1")
        for i in range(3):
            self.copy(f"{ours}.later.{i}", f"{theirs}.{2 * i + 3}")
        self.copy(f"{ours}.readout", f"{theirs}.9")

    def size_behind(self, linear: str, channels: int) -> int:
        """Image size from a linear layer on maps of `channels`, after four halvings."""
        return self._size(16 * math.isqrt(self.shape(f"{linear}.weight")[1] // channels))

    def size_of_encoder(self, encoder: str) -> int:
        """Image size from a gated encoder; 64 where it may be 128 as well."""
        kernel = self.shape(f"{encoder}.5.conv.weight")[-1]
        sizes = [size for size in (32, 64, 128) if size // math.prod(strides_for(size)) == kernel]
        if not sizes:
            raise ValueError(
                f"a released checkpoint of another architecture: {encoder}.5.conv.weight must be 8 "
                f"or 16 wide, but is {kernel}"
            )
        return self._size(*sizes)

    def _size(self, *possible: int) -> int:
        if self.asked_size in (None, *possible):
            return self.asked_size or possible[0]
        raise ValueError(
            f"image_size {self.asked_size} was asked for, but the released checkpoint is for "
            f"{' or '.join(map(str, possible))}"
        )

    def _entries(self, module: str) -> list[str]:
        """Names of a module's parameters and buffers."""
        start = f"{module}."
        names = [name.removeprefix(start) for name in self.theirs if name.startswith(start)]
        if not names:
            raise KeyError(module)
        return names

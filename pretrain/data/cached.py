"""Datasets that train from the compact form: read at random, or converted when they are opened."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.data.cache import Arrays, CachedImages, cache_folder, fill
from pretrain.data.images import ImageBatch, ImageDataset, Indices

PIECE = 512  # images that are read between two moves of the progress bar


class CachedDataset(ImageDataset):
    """A dataset with random access, kept in the compact form for training.

    A subclass sets the attributes of `ImageDataset` and implements `key` and `read`. What `read`
    returns must depend on the rows and the key alone.

    Args:
        cache_dir: Where to keep the compact form, instead of a folder under `cache_root`.
    """

    def __init__(self, cache_dir: str | Path | None = None):
        self._cache_dir = cache_dir

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """What decides the pixels of an image, its index aside: files, seed, sizes, options."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> Arrays:
        """Images and masks of these rows, from the source."""

    def batch(self, indices: Indices) -> ImageBatch:
        return _on(self.device, self.read(self.checked(indices).cpu().numpy()))

    def all(self, progress: bool = True, device: torch.device | str | None = None) -> ImageBatch:
        kept = fill(
            cache_folder(self.name, self.key(), self._cache_dir),
            self.key(),
            self.size,
            self._pieces,
            label=f"{self.name} {self.split}",
            progress=progress,
        )
        return kept.all(range(self.size), torch.device(device or self.device))

    def _pieces(self, first: int, last: int) -> Iterator[Arrays]:
        for start in range(first, last, PIECE):
            yield self.read(np.arange(start, min(start + PIECE, last)))


class ConvertedDataset(ImageDataset):
    """A dataset whose source can only be read in order, so that it is converted when it is opened.

    A subclass sets the attributes of `ImageDataset` and these two.

    Attributes:
        kept: The compact form.
        first: The row of it that is the dataset's image 0.
    """

    kept: CachedImages
    first: int

    def batch(self, indices: Indices) -> ImageBatch:
        rows = self.checked(indices).cpu().numpy()
        return _on(self.device, self.kept.take(rows + self.first))

    def all(self, progress: bool = True, device: torch.device | str | None = None) -> ImageBatch:
        rows = range(self.first, self.first + self.size)
        return self.kept.all(rows, torch.device(device or self.device))


def at_most(wanted: int | None, there: int, what: str) -> int:
    """How many images a dataset gives: those that were asked for, or all, with a warning if fewer.

    Args:
        wanted: Images that were asked for; None for all.
        there: Images that the files hold.
        what: What the warning and the error call them.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"size needs to be at least 1 image, but got {wanted}.")
    if not there:
        raise ValueError(f"{what}: there are none.")
    if wanted is not None and wanted > there:
        warnings.warn(f"{what}: {wanted} were asked for, {there} are there and used", stacklevel=4)
    return there if wanted is None else min(wanted, there)


def _on(device: torch.device, arrays: Arrays) -> ImageBatch:
    images, masks = (None if a is None else torch.from_numpy(a).to(device) for a in arrays)
    assert images is not None
    return ImageBatch(images, masks)

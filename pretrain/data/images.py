"""What the trainer asks of a dataset: images by index, with instance masks where they exist."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

SPLITS = ("train", "val", "test")

Indices = Tensor | np.ndarray | Sequence[int]


class ImageBatch(NamedTuple):
    """Images and, where the dataset knows them, the object that each pixel belongs to.

    Attributes:
        images: `[B, H, W, 3]` uint8 RGB.
        masks: `[B, H, W]` uint8: 0 is background, equal numbers are one object. None: unknown.
    """

    images: Tensor
    masks: Tensor | None


class ImageDataset(ABC):
    """One split of a dataset. A subclass sets the attributes and implements `batch`.

    Attributes:
        name: Its key in `pretrain.data.DATASETS`.
        source: Where the images come from, in words; it travels into logs and model cards.
        split: "train", "val" or "test".
        size: Number of images.
        image_size: Height and width.
        num_slots: K for models of this dataset: the most objects in an image, and the background.
        device: Where batches are made and returned.
    """

    name: str
    source: str
    split: str
    size: int
    image_size: int
    num_slots: int
    device: torch.device

    def __len__(self) -> int:
        return self.size

    @abstractmethod
    def batch(self, indices: Indices) -> ImageBatch:
        """The images at these indices, in this order, whatever was asked for before."""

    def all(self, progress: bool = True, device: torch.device | str | None = None) -> ImageBatch:
        """The whole split in memory, for training that visits every image many times.

        Args:
            progress: Whether to show a progress bar.
            device: Where to keep it; where it is made unless given. 50,000 images of 64 x 64 pixels
                with masks take 820 MB.
        """
        device = self.device if device is None else torch.device(device)
        shape = (self.size, self.image_size, self.image_size)
        images = torch.empty(*shape, 3, dtype=torch.uint8, device=device)
        masks: Tensor | None = None
        bar = tqdm(
            total=self.size,
            desc=f"{self.name} {self.split} ({self.source})",
            unit=" images",
            disable=not progress,
        )
        with bar:
            for start in range(0, self.size, 1024):
                rows = torch.arange(start, min(start + 1024, self.size))
                part = self.batch(rows)
                images[start : start + len(rows)] = part.images
                if part.masks is not None:
                    if masks is None:
                        masks = torch.empty(shape, dtype=torch.uint8, device=device)
                    masks[start : start + len(rows)] = part.masks
                bar.update(len(rows))
        return ImageBatch(images, masks)

    def checked(self, indices: Indices) -> Tensor:
        """The indices as int64 on the dataset's device; those of another device are trusted."""
        rows = torch.as_tensor(indices)
        if not rows.numel():
            return torch.empty(0, dtype=torch.int64, device=self.device)
        if rows.dtype.is_floating_point or rows.dtype == torch.bool or rows.ndim != 1:
            raise TypeError(
                f"{self.name} needs a list of integer indices, but got {rows.dtype} of shape "
                f"{tuple(rows.shape)}."
            )
        if rows.device.type == "cpu":  # looking at a GPU's numbers would wait
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= self.size:
                raise IndexError(
                    f"{self.name} {self.split} has images 0 to {self.size - 1}, but index "
                    f"{low if low < 0 else high} was asked for."
                )
        return rows.to(self.device, torch.int64, non_blocking=True)


def check_split(split: str) -> None:
    """Raises unless this is a split."""
    if split not in SPLITS:
        raise ValueError(f"split needs to be one of {', '.join(SPLITS)}, but got {split!r}.")

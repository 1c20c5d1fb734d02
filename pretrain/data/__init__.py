"""Datasets by name: one file each, and one line in `DATASETS`."""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.data.images import ImageDataset

# By name rather than by class, so that listing them for `--help` does not import torch.
DATASETS = {
    "multi_dsprites": "pretrain.data.multi_dsprites:MultiDsprites",
}


def load(name: str, split: str = "train", **options: Any) -> "ImageDataset":
    """Opens a split of a dataset.

    Args:
        name: A key of `DATASETS`.
        split: "train", "val" or "test".
        options: What the dataset's class takes.
    """
    if name not in DATASETS:
        close = get_close_matches(str(name), DATASETS, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown dataset {name!r}. {guess}There are: {', '.join(DATASETS)}.")
    module, _, cls = DATASETS[name].partition(":")
    dataset: ImageDataset = getattr(import_module(module), cls)(split, **options)
    return dataset

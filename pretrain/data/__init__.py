"""Datasets by name: one file each, and one line in `DATASETS`."""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretrain.data.images import ImageDataset

# By name rather than by class, so that listing them for `--help` does not import torch.
DATASETS = {
    "multi_dsprites": "pretrain.data.multi_dsprites:MultiDsprites",
    "dm_multi_dsprites": "pretrain.data.dm_multi_dsprites:DmMultiDsprites",
    "gqn": "pretrain.data.gqn:Gqn",
    "shapestacks": "pretrain.data.shapestacks:ShapeStacks",
    "env": "pretrain.data.env_frames:EnvFrames",
}

# Those that are generated where nobody has them, and the variant that is.
GENERATED = {"gqn": "rooms_ring_camera", "shapestacks": "default"}


def parse_name(name: str) -> tuple[str, str | None]:
    """Splits `dataset:variant`, as in `env:CartPole-v1`, and checks the first part.

    Raises:
        ValueError: There is no such dataset, or it has no variants.
    """
    key, colon, variant = str(name).partition(":")
    if key not in DATASETS:
        close = get_close_matches(key, DATASETS, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown dataset {name!r}. {guess}There are: {', '.join(DATASETS)}.")
    if key == "env" and not variant:
        raise ValueError("dataset env needs the id of an environment, as in env:CartPole-v1.")
    if colon and key == "multi_dsprites":
        raise ValueError("multi_dsprites has no variants; leave the colon out.")
    return key, variant or None


def can_generate(name: str) -> bool:
    """Whether `pretrain.data.lookalike` can make a dataset of this name."""
    key, variant = parse_name(name)
    return key in GENERATED and variant in (None, GENERATED[key])


def load(name: str, split: str = "train", **options: Any) -> "ImageDataset":
    """Opens a split of a dataset.

    Args:
        name: A key of `DATASETS`, with a variant after a colon where the dataset has several:
            `gqn:shepard_metzler_5_parts`, `shapestacks:ccs_all`, `env:CartPole-v1`.
        split: "train", "val" or "test".
        options: What the dataset's class takes.
    """
    key, variant = parse_name(name)
    module, _, cls = DATASETS[key].partition(":")
    if variant is not None:
        options["variant"] = variant
    dataset: ImageDataset = getattr(import_module(module), cls)(split, **options)
    return dataset

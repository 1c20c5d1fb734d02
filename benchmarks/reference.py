"""The data that samples are compared with: the first test images, and how far others are from them.

Shapes: B images of a batch, S images of the picture, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import factor_features, inception
from benchmarks.controls import SPOILT
from benchmarks.feature_space import FeatureSpace, describe, factor_space, inception_space
from benchmarks.frechet import Gaussian, frechet_distance
from pretrain import data

SHOWN = 10  # images of a row of the picture: S


@dataclass(frozen=True)
class Reference:
    """The data that samples are compared with, at one image size.

    Attributes:
        space: What distances are measured in.
        gaussian: Of the features of the first test images.
        source: Where the data comes from, in words.
        controls: Distances of images that are known to be close or far.
        shown: `[S, H, W, 3]` uint8, the first test images, for the picture.
    """

    space: FeatureSpace
    gaussian: Gaussian
    source: str
    controls: dict[str, float]
    shown: Tensor


def build_reference(
    args: Any, image_size: int, device: torch.device, weights: Path | None
) -> Reference:
    """Describes the data, in Inception's features if there are weights, else in factor features.

    Args:
        args: Of the command line: dataset, data_dir, images, batch_size, controls.
        image_size: Height and width of the samples.
        device: Where features are computed.
        weights: The file of Inception weights, if there is one.

    Raises:
        ValueError: The split has too few images, or too few are asked for.
    """
    options = {"image_size": image_size}
    if args.data_dir is not None:
        options["data_dir"] = args.data_dir
    test = data.load(args.dataset, split="test", **options)
    check_count(args.images, len(test), weights)
    if weights is None:
        recipe = factor_features.Recipe()
        space = factor_space(args.dataset, options, device, recipe)
    else:
        space = inception_space(weights, device)
    images = dataset_images(test, args.images, args.batch_size)
    gaussian = describe(images, space, device, total=args.images, label="test images")

    controls: dict[str, float] = {}
    if args.controls or (args.controls is None and weights is None):
        val = data.load(args.dataset, split="val", **options)
        for name, batches, count in control_images(test, val, args.images, args.batch_size):
            control = describe(batches, space, device, total=count, label=name)
            controls[name] = round(frechet_distance(control, gaussian), 5)
    shown = next(dataset_images(test, SHOWN, SHOWN)).cpu()
    return Reference(space, gaussian, test.source, controls, shown)


def control_images(
    test: Any, val: Any, count: int, batch_size: int
) -> Iterator[tuple[str, Iterator[Tensor], int]]:
    """Yields the name, the images and the number of each control, from close to far."""
    others = min(count, len(val))
    yield "other true images", dataset_images(val, others, batch_size), others
    for name, spoil in SPOILT.items():
        yield name, dataset_images(test, count, batch_size, spoil), count


def dataset_images(
    dataset: Any,
    count: int,
    batch_size: int,
    spoil: Callable[[Tensor, Tensor], Tensor] = lambda images, rows: images,
) -> Iterator[Tensor]:
    """Yields the first images of a split, unshuffled, `[B, H, W, 3]` uint8.

    Args:
        dataset: The split.
        count: How many.
        batch_size: B.
        spoil: What to do to images, given them and their indices.
    """
    for rows in torch.arange(count).split(batch_size):
        yield spoil(dataset.batch(rows).images, rows)


def check_count(images: int, available: int, weights: Path | None) -> None:
    """Refuses numbers of images that no distance could be taken from.

    Raises:
        ValueError: The split has fewer, or the covariance would be singular.
    """
    if images > available:
        raise ValueError(
            f"--images must be at most {available}, the size of the split; got {images}"
        )
    size = factor_features.FEATURES if weights is None else inception.FEATURES
    if images <= size:
        raise ValueError(
            f"--images must be above {size}, the number of features, because otherwise their "
            f"covariance is singular; got {images}"
        )

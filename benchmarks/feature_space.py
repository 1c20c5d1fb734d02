"""What the images of a Frechet distance are turned into: Inception's features, or factor features.

Which of the two decides what the distance is called; nothing else may name it.

Shapes: B images, H x W pixels, D features.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import factor_features, inception
from benchmarks.frechet import Gaussian, Moments
from genesis_rl.inference.cuda import precision_of
from pretrain import data
from pretrain.evaluation import to_float


@dataclass(frozen=True)
class FeatureSpace:
    """What a distance is measured in.

    Attributes:
        metric: What the distance is called: "FID", or "Frechet distance (factor features)".
        size: D.
        network: Images `[B, 3, H, W]` in [0, 1] to features `[B, D]`.
        origin: What a result line says about the network.
    """

    metric: str
    size: int
    network: Callable[[Tensor], Tensor]
    origin: dict[str, Any]


def inception_space(weights: Path, device: torch.device) -> FeatureSpace:
    """Returns the features of the FID, from the public file of weights."""
    network = inception.load_inception(weights).to(device)
    return FeatureSpace(inception.METRIC, inception.FEATURES, network, {"sha256": inception.SHA256})


def factor_space(
    dataset: str, options: dict[str, Any], device: torch.device, recipe: factor_features.Recipe
) -> FeatureSpace:
    """Returns features that were learnt from a dataset's own factors.

    Args:
        dataset: Its name.
        options: What its class takes.
        device: Where the network is to run; it is always trained on the CPU.
        recipe: How it is trained.
    """
    train, val = (data.load(dataset, split=split, **options) for split in ("train", "val"))
    trained = factor_features.factor_features(train, val, recipe)
    network = trained.network.to(device)
    return FeatureSpace(
        factor_features.METRIC, factor_features.FEATURES, network, trained.summary()
    )


def find_inception(given: Path | None, wanted: str) -> Path | None:
    """Returns the file of Inception weights, or None to do without, saying so on stderr.

    Args:
        given: The path that the user gave, if any.
        wanted: "inception", "factors", or "auto" for Inception's features where there are weights.

    Raises:
        FileNotFoundError: The given file, or any that "inception" could use, is missing.
        ValueError: A path was given, but factor features are wanted.
    """
    if wanted == "factors":
        if given is not None:
            raise ValueError("--features factors has no use for --inception-weights; drop one")
        return None
    found = inception.find_weights(given)
    if found is None:
        where = f"no Inception weights at {inception.cached_path()} (get {inception.URL}, or give "
        where += "--inception-weights)"
        if wanted == "inception":
            raise FileNotFoundError(where)
        print(
            f"{where}: measuring the {factor_features.METRIC} instead, which is not the FID and "
            "cannot be compared with it",
            file=sys.stderr,
        )
    return found


def describe(
    batches: Iterable[Tensor],
    space: FeatureSpace,
    device: torch.device,
    *,
    total: int,
    label: str,
) -> Gaussian:
    """Returns mean and covariance of the features of images, behind a progress bar.

    Args:
        batches: `[B, H, W, 3]` uint8 each.
        space: Which features.
        device: Where its network is; sums are kept there, in float64.
        total: Images in all.
        label: What the progress bar calls them.
    """
    moments = Moments(space.size, device)
    with tqdm(total=total, desc=label, unit=" images", disable=None) as bar:
        for images in batches:
            with torch.no_grad(), precision_of("fp32"):  # cuDNN would take TF32 for granted
                features = space.network(to_float(images.to(device)))
            moments.update(features)
            bar.update(len(images))
    return moments.gaussian()

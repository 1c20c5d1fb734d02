"""Features for comparing sets of images where the Inception weights are absent: factor features.

A small network learns to name a dataset's own factors, such as how many objects there are, or where
the largest is and in which colour. What it knows just before it names them are the features. The
distance in these features is the "Frechet distance (factor features)". It is not the FID: the two
share a formula and no number of one can be compared with a number of the other, nor with that of
factor features learnt elsewhere, unless the networks have the same hash.

Shapes: N images, H x W pixels, D features.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.factors import ABSENT, LabelledImages, only, read_labelled
from envs.counter_rng import bits, fold, integers
from genesis_rl.durable import replace_file
from pretrain.data.cache import cache_root
from pretrain.evaluation import to_float

METRIC = "Frechet distance (factor features)"
FEATURES = 64  # D

FORMAT = 1  # of the cached file; another number makes all networks anew


@dataclass(frozen=True)
class Recipe:
    """How the network is made; with the data, all that decides its weights.

    Attributes:
        images: Training images, the first of the train split.
        steps: Updates.
        batch: Images of an update.
        rate: Peak learning rate of Adam; it falls to 0 along a cosine.
        held_out: Images of the validation split that its accuracy is measured on.
        seed: Of weights and batches.
    """

    images: int = 50_000
    steps: int = 3000
    batch: int = 64
    rate: float = 2e-3
    held_out: int = 2000
    seed: int = 0


class FactorNetwork(nn.Module):
    """Images to features, and features to one guess per factor.

    Args:
        sizes: Number of classes of each factor.

    Example:
        >>> FactorNetwork((4, 3)).eval()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 64])
    """

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((3, 16, 5), (16, 32, 3), (32, 64, 3), (64, 128, 3)):
            conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.narrow = nn.Linear(128 * 4 * 4, FEATURES)
        self.heads = nn.Linear(FEATURES, sum(sizes))
        self.sizes = sizes
        # Of the training images, so that each feature counts alike: set once training is over.
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Returns features `[B, D]` of images `[B, 3, H, W]` in [0, 1]."""
        features: Tensor = self.narrow(self.trunk(images))
        return (features - self.mean) / self.std

    def guesses(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns a score for every class of each factor, `[B, classes]` each."""
        scores: Tensor = self.heads(F.relu(self.narrow(self.trunk(images))))
        return scores.split(self.sizes, dim=1)


@dataclass(frozen=True)
class Trained:
    """A network, and whether to trust it.

    Attributes:
        network: In eval mode.
        accuracy: By factor, on images that it was not trained on.
        chance: The same of always naming the class that is most frequent there.
        sha256: Of the weights: distances are comparable where these are equal.
    """

    network: FactorNetwork
    accuracy: dict[str, float]
    chance: dict[str, float]
    sha256: str

    def summary(self) -> dict[str, Any]:
        """Returns what a result line says about it."""
        return {"sha256": self.sha256, "accuracy": self.accuracy, "chance": self.chance}


def factor_features(
    train: Any, val: Any, recipe: Recipe = Recipe(), cache_dir: Path | None = None
) -> Trained:
    """Returns the network for a dataset: from the cache, or else trained, on the CPU, and kept.

    Args:
        train: The train split.
        val: The validation split.
        recipe: How to train.
        cache_dir: Where networks are kept, instead of a folder under `cache_root`.

    Raises:
        ValueError: The dataset knows no factors.
    """
    key = cache_key(train, recipe)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    folder = cache_root() / "factor-features" if cache_dir is None else cache_dir.expanduser()
    path = folder / f"{train.name}-{digest}.safetensors"
    kept = _read(path, key)
    if kept is not None:
        return kept
    known = read_all(train, min(recipe.images, len(train)), "train")
    # Of generated rooms only validation and test scenes have masks, and so factors of their own.
    held_out = only(read_all(val, min(recipe.held_out, len(val)), "val"), known.names)
    trained = train_network(known, held_out, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, _to_bytes(trained, key))
    return trained


def cache_key(train: Any, recipe: Recipe) -> str:
    """Returns all that the weights depend on, as JSON; the data by a sample of it."""
    sample = read_labelled(train, torch.arange(min(256, len(train))))
    digest = hashlib.sha256(sample.images.numpy().tobytes() + sample.labels.numpy().tobytes())
    key = {
        "format": FORMAT,
        "dataset": train.name,
        "source": train.source,
        "images": len(train),
        "sample": digest.hexdigest(),
        "factors": list(zip(sample.names, sample.sizes, strict=True)),
        "recipe": asdict(recipe),
        "network": str(new_network(sample.sizes, recipe.seed)),
        "torch": torch.__version__,
    }
    return json.dumps(key, sort_keys=True)


def new_network(sizes: tuple[int, ...], seed: int) -> FactorNetwork:
    """Returns an untrained network; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FactorNetwork(sizes)


def read_all(dataset: Any, count: int, label: str) -> LabelledImages:
    """Reads the first images of a dataset with their factors."""
    parts = []
    with tqdm(total=count, desc=f"factors, {label}", unit=" images", disable=None) as bar:
        for start in range(0, count, 500):
            rows = torch.arange(start, min(start + 500, count))
            parts.append(read_labelled(dataset, rows))
            bar.update(len(rows))
    return LabelledImages(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        parts[0].names,
        parts[0].sizes,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread, because several add up gradients in an order of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train_network(train: LabelledImages, val: LabelledImages, recipe: Recipe) -> Trained:
    """Trains a network on the CPU: equal arguments give equal weights on one kind of processor.

    Args:
        train: To learn from.
        val: To measure its accuracy on.
        recipe: How.
    """
    network = new_network(train.sizes, recipe.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    key = fold(recipe.seed, 0)
    bar = tqdm(range(recipe.steps), desc="factor features", unit=" steps", disable=None)
    for step in bar:
        rows = integers(bits(fold(key, step)[None], recipe.batch)[0], len(train.images))
        guesses = network.guesses(to_float(train.images[rows]))
        loss = sum_of_errors(guesses, train.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")

    network.eval().requires_grad_(False)
    features = torch.cat([network(to_float(part)) for part in train.images[:4096].split(256)])
    network.mean.copy_(features.mean(dim=0))
    network.std.copy_(features.std(dim=0).clamp(min=1e-6))
    accuracy, chance = _accuracy(network, val)
    return Trained(network, accuracy, chance, _sha256(network))


def sum_of_errors(guesses: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Returns the cross-entropy of all factors in nats, each the mean over those who have it."""
    errors = [
        # A sum over a count, because the mean over nobody would be NaN.
        F.cross_entropy(guess, label, ignore_index=ABSENT, reduction="sum")
        / (label != ABSENT).sum().clamp(min=1)
        for guess, label in zip(guesses, labels.unbind(1), strict=True)
    ]
    return torch.stack(errors).sum()


def _accuracy(
    network: FactorNetwork, val: LabelledImages
) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of right names by factor, of the network and of the most frequent class."""
    pieces = [network.guesses(to_float(part)) for part in val.images.split(256)]
    accuracy, chance = {}, {}
    for factor, name in enumerate(val.names):
        labels = val.labels[:, factor]
        present = labels != ABSENT
        if not bool(present.any()):
            continue
        guess = torch.cat([piece[factor] for piece in pieces]).argmax(dim=1)
        accuracy[name] = round(float((guess == labels)[present].double().mean()), 4)
        counts = labels[present].bincount()
        chance[name] = round(float(counts.max() / counts.sum()), 4)
    return accuracy, chance


def _sha256(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _to_bytes(trained: Trained, key: str) -> bytes:
    notes = {"accuracy": trained.accuracy, "chance": trained.chance}
    metadata = {"key": key, "notes": json.dumps(notes), "sha256": trained.sha256}
    return safetensors.torch.save(trained.network.state_dict(), metadata)


def _read(path: Path, key: str) -> Trained | None:
    """Returns the kept network; None if there is none, or if it is not sound."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = new_network(tuple(size for _, size in json.loads(key)["factors"]), seed=0)
        network.load_state_dict(weights)
        network.eval().requires_grad_(False)
        if metadata["key"] != key or metadata["sha256"] != _sha256(network):
            raise ValueError("its content is not what was written")
        return Trained(network, **json.loads(metadata["notes"]), sha256=metadata["sha256"])
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        warnings.warn(f"{path} is damaged ({reason}); the network is trained again", stacklevel=3)
        return None

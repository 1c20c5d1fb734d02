"""What the probes see: labelled towers, and their latents as a wrapper would hand them to an agent.

Shapes: N images of S x S pixels, the first of them to train on, the others to test on; D numbers
that an observation has.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

import genesis_rl
from benchmarks.probes import Examples, epoch_order
from genesis_rl.durable import replace_file

if TYPE_CHECKING:
    from genesis_rl.wrappers.latents import LatentObserver

Latents = Literal["mean", "samples", "parity"]

CLASSES = {"stability": 2, "height": 5, "view": 16}
TRAIN = 50_000  # images, in the paper
IMAGE_SIZE = 64
SLOTS = 9  # K of all published models of ShapeStacks
CLIP = 10.0  # the wrappers' default

_NOISE = 0  # seed of the one posterior sample that an image has
_GENUINE = ("jpeg", "offsets", "instability_type", "total_height", "cam_angle")


@dataclass(frozen=True)
class Towers:
    """N labelled images of towers.

    Attributes:
        images: `[N, S, S, 3]` uint8.
        examples: Labels and splits.
        tower: `[N]` int64, equal for views of one tower.
        source: Where they come from, in words.
    """

    images: Tensor
    examples: Examples
    tower: Tensor
    source: str

    def sizes(self) -> tuple[int, int]:
        """How many images each probe is trained and tested on."""
        seed = next(iter(self.examples.train))
        return len(self.examples.train[seed]), len(self.examples.test[seed])

    def tested_towers(self) -> int:
        """How many towers the (first seed's) test images show."""
        return len(self.tower[next(iter(self.examples.test.values()))].unique())


def load_split(
    data_dir: Path | None,
    *,
    tasks: Sequence[str],
    seeds: Sequence[int],
    train: int | None = None,
    test: int | None = None,
    image_size: int = IMAGE_SIZE,
    device: torch.device | str = "cpu",
) -> Towers:
    """Reads ShapeStacks: the same random images of its train and test split for every seed.

    Args:
        data_dir: Where it is on disk; None is the look-alike that pretraining makes itself.
        tasks: Which labels are needed.
        seeds: Of the probes.
        train: Images to train on; None is 50,000, or all if there are fewer.
        test: Images to test on; None is as many as to train on, or all if there are fewer.
        image_size: S.
        device: Where a look-alike is rendered, if it has to be made.

    Raises:
        ValueError: More images were asked for than there are.
    """
    if data_dir is None:
        from pretrain.config import Config
        from pretrain.data.lookalike import provide

        validation = Config.validation_images
        data_dir = provide("shapestacks", train=None, validation=validation, device=device)
    first = _open("train", train, TRAIN, data_dir, image_size)
    second = _open("test", test, len(first), data_dir, image_size)
    parts = [dataset.all(device="cpu").images for dataset in (first, second)]
    names = [_labels(dataset)(range(len(dataset))) for dataset in (first, second)]
    labels = {
        task: torch.cat([getattr(part, task).cpu() for part in names])
        for task in tasks
        if all(hasattr(part, task) for part in names)
    }
    _require(labels, tasks, first.source)
    rows = torch.arange(len(first)), torch.arange(len(first), len(first) + len(second))
    examples = Examples(
        labels,
        {task: CLASSES[task] for task in tasks},
        train=dict.fromkeys(seeds, rows[0]),
        test=dict.fromkeys(seeds, rows[1]),
    )
    return Towers(torch.cat(parts), examples, _towers(first, second), first.source)


def load_genuine(
    path: Path,
    *,
    tasks: Sequence[str],
    seeds: Sequence[int],
    train: int | None = None,
    test: int | None = None,
) -> Towers:
    """Reads genuine labelled frames, split anew by every seed.

    The file has JPEG files end to end (`jpeg[offsets[i]:offsets[i + 1]]`) and the labels of the
    public course subset. Its cameras are only told apart as low and high, so `view` has two
    classes; which images show the same tower is not known.

    Args:
        path: An .npz file.
        tasks: Which labels are needed.
        seeds: Of the probes and of their splits.
        train: Images to train on; None is three quarters.
        test: Images to test on; None is all others.

    Raises:
        FileNotFoundError: It does not exist.
        ValueError: It is something else, or has too few images.
    """
    columns = _read_genuine(path)
    images = _decode(columns["jpeg"], columns["offsets"], path)
    count = len(images)
    train = count * 3 // 4 if train is None else train
    test = count - train if test is None else test
    if train < 1 or test < 1 or train + test > count:
        raise ValueError(
            f"{path} has {count} images to share out, but --train {train} and --test {test} were "
            "asked for; ask for fewer"
        )
    numbers = {
        "stability": (columns["instability_type"] > 0).astype(np.int64),
        "height": columns["total_height"].astype(np.int64) - 2,
        "view": columns["cam_angle"].astype(np.int64) - 1,
    }
    orders = {seed: epoch_order(count, seed, 0) for seed in seeds}  # training counts from epoch 1
    examples = Examples(
        {task: torch.from_numpy(numbers[task]) for task in tasks},
        {task: 2 if task == "view" else CLASSES[task] for task in tasks},
        train={seed: order[:train] for seed, order in orders.items()},
        test={seed: order[train : train + test] for seed, order in orders.items()},
    )
    return Towers(images, examples, torch.arange(count), f"genuine frames of {path.name}")


def open_observer(
    checkpoint: str, latents: Latents, *, image_size: int, device: torch.device
) -> LatentObserver:
    """Returns what turns frames into observations inside a wrapper with these options."""
    from gymnasium import spaces

    from genesis_rl.wrappers.latents import LatentObserver, LatentOptions

    options = LatentOptions(
        stochastic=latents != "mean",
        clip=CLIP,
        parity="official" if latents == "parity" else None,
        device=str(device),
    )
    frames = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    return LatentObserver("probe_shapestacks", checkpoint, options, frames)


def encode(
    observer: LatentObserver,
    images: Tensor,
    *,
    batch_size: int,
    keep: Path | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """Encodes N images once: `[N, D]` float32.

    Posterior samples come from one generator in the order of the images.

    Args:
        observer: Of `open_observer`.
        images: `[N, S, S, 3]` uint8.
        batch_size: Images at once.
        keep: A folder where latents are kept, and found again by the same images and options.
        progress: Called with the number of images of each finished batch.
    """
    path = None if keep is None else keep / f"{_digest(observer, images)}.npy"
    if path is not None and path.is_file():
        found = np.load(path, allow_pickle=False)
        progress(len(images))
        return torch.from_numpy(found)
    observer.seed([_NOISE])
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        parts.append(torch.from_numpy(observer(batch, envs=[0] * len(batch))))
        progress(len(batch))
    values = torch.cat(parts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, values.numpy())
        replace_file(path, buffer.getvalue())
    return values


def _open(split: str, wanted: int | None, default: int, data_dir: Path, size: int) -> Any:
    """Opens a split with as many images as are wanted; a command that asks for more is refused."""
    from pretrain import data

    options: dict[str, Any] = {"split": split, "image_size": size, "data_dir": data_dir}
    dataset = data.load("shapestacks", **options)
    there = len(dataset)
    if wanted is not None and wanted > there:
        raise ValueError(
            f"--{split} must be at most {there}, the images of {dataset.source}; got {wanted}. "
            "python -m pretrain.data generate makes larger sets"
        )
    count = min(default, there) if wanted is None else wanted
    return dataset if count == there else data.load("shapestacks", size=count, **options)


def _labels(dataset: Any) -> Callable[[range], Any]:
    if not hasattr(dataset, "labels"):
        raise ValueError(f"probes need labels, and {dataset.source} has none")
    labels: Callable[[range], Any] = dataset.labels
    return labels


def _require(labels: dict[str, Tensor], tasks: Sequence[str], source: str) -> None:
    lacking = [task for task in tasks if task not in labels]
    if lacking:
        raise ValueError(
            f"{source} has no labels of {', '.join(lacking)}; leave them out (--tasks)"
        )


def _towers(*datasets: Any) -> Tensor:
    """Numbers the towers by the folder that an image's file is in."""
    names = [str(d.path(i).parent) if hasattr(d, "path") else f"{d.split} {i}"
             for d in datasets for i in range(len(d))]  # fmt: skip
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names])


def _read_genuine(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"--genuine needs an .npz file of labelled frames, but {path} is no file"
        )
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in _GENUINE if name in file}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file of plain arrays ({error})") from error
    lacking = [name for name in _GENUINE if name not in columns]
    if lacking:
        raise ValueError(f"{path} has no {', '.join(lacking)}; probes need {', '.join(_GENUINE)}")
    count = len(columns["offsets"]) - 1
    for name in _GENUINE[2:]:
        if len(columns[name]) != count:
            raise ValueError(f"{path} has {count} images, but {len(columns[name])} of {name}")
    return columns


def _decode(jpeg: np.ndarray, offsets: np.ndarray, path: Path) -> Tensor:
    from pretrain.data.pixels import decode_rgb, in_threads

    def one(i: int) -> np.ndarray:
        try:
            return decode_rgb(jpeg[offsets[i] : offsets[i + 1]].tobytes(), IMAGE_SIZE)
        except ValueError as error:
            raise ValueError(f"{path}, image {i}: {error}") from error

    pictures = in_threads(one, list(range(len(offsets) - 1)))
    empty = np.empty((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return torch.from_numpy(np.stack(pictures) if pictures else empty)


def _digest(observer: LatentObserver, images: Tensor) -> str:
    """Names latents by all that decides them."""
    digest = hashlib.sha256(images.contiguous().numpy().data)
    for part in (
        getattr(observer.encoder, "sha256", repr(observer.encoder)),
        repr(observer.options),
        tuple(images.shape),
        _NOISE,
        genesis_rl.__version__,
    ):
        digest.update(f"|{part}".encode())
    return digest.hexdigest()[:32]

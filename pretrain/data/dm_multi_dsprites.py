"""DeepMind's Multi-dSprites (multi_object_datasets): GZIP'ed records, one byte per value.

    <root>/multi_dsprites/multi_dsprites_<variant>.tfrecords

`image` is [64, 64, channels] and `mask` [64, 64, entities, 1] with 0 or 255, entity 0 being the
background. Unlike GENESIS's own recipe, colours are continuous.
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.base import usable_device
from pretrain.data.cache import Arrays, CachedImages, cache_folder, fill
from pretrain.data.cached import PIECE, ConvertedDataset, at_most
from pretrain.data.example import BytesList, parse_example
from pretrain.data.images import check_split
from pretrain.data.tfrecord import Losses, OnCorrupt, Record, RecordError, read_records

_SIDE = 64
_USED = 60_000  # of the million examples in a file, as in the GENESIS release
_HELD_OUT = 10_000  # of these for the test, and as many for validation


class Variant(NamedTuple):
    """How the examples of one file are laid out."""

    channels: int
    entities: int


VARIANTS = {
    "colored_on_colored": Variant(channels=3, entities=5),
    "colored_on_grayscale": Variant(channels=3, entities=6),
    "binarized": Variant(channels=1, entities=4),
}


class DmMultiDsprites(ConvertedDataset):
    """One split of DeepMind's Multi-dSprites.

    As in the authors' release the first 10,000 examples are the test, the next 10,000 for
    validation and the rest of 60,000 for training; of a shorter file each sixth. A GZIP stream can
    only be read from its beginning, so all 60,000 are converted once, whichever split is opened.

    Args:
        split: "train", "val" or "test".
        size: Number of images at most; all there are unless given.
        image_size: 64, the size of the files.
        variant: Which file: colored_on_colored, colored_on_grayscale or binarized.
        data_dir: The folder that holds it, or the one above.
        device: Where batches are returned.
        on_corrupt: "stop" at a damaged record, or "skip" it; more than 0.1 % always stop, and so
            does damage to the compressed stream itself.
        cache_dir: Where the compact form is kept.
    """

    name = "dm_multi_dsprites"

    def __init__(
        self,
        split: str = "train",
        *,
        size: int | None = None,
        image_size: int = _SIDE,
        variant: str = "colored_on_colored",
        data_dir: str | Path | None = None,
        device: Any = "cpu",
        on_corrupt: OnCorrupt = "stop",
        cache_dir: str | Path | None = None,
    ):
        check_split(split)
        if variant not in VARIANTS:
            raise ValueError(f"variant needs to be one of {', '.join(VARIANTS)}, not {variant!r}.")
        if image_size != _SIDE:
            raise ValueError(f"the files hold 64 x 64 images, but image_size is {image_size}.")
        path = find_file(data_dir, variant)
        self.split, self.image_size, self.device = split, image_size, usable_device(device)
        self.num_slots = VARIANTS[variant].entities
        self.source = f"file {path}"
        self.kept = convert(path, variant, on_corrupt, cache_dir)
        rows = split_rows(len(self.kept), split)
        self.first = rows.start
        self.size = at_most(size, len(rows), f"{split} images of {path}")


def find_file(data_dir: str | Path | None, variant: str) -> Path:
    """The records of a variant.

    Raises:
        FileNotFoundError: They are not there; the message says where to get them.
    """
    name = f"multi_dsprites_{variant}.tfrecords"
    root = None if data_dir is None else Path(data_dir).expanduser()
    for folder in () if root is None else (root / "multi_dsprites", root):
        if (folder / name).is_file():
            return folder / name
    place = "no --data-dir was given" if root is None else f"{root} has no such file"
    raise FileNotFoundError(
        f"dm_multi_dsprites needs --data-dir DIR with DIR/multi_dsprites/{name}, but {place}. Get "
        f"it with gsutil cp gs://multi-object-datasets/multi_dsprites/{name} DIR/multi_dsprites/"
    )


def split_rows(count: int, split: str) -> range:
    """Which of the converted examples belong to a split."""
    held_out = min(_HELD_OUT, count // 6)
    return {
        "test": range(held_out),
        "val": range(held_out, 2 * held_out),
        "train": range(2 * held_out, count),
    }[split]


def convert(
    path: Path, variant: str, on_corrupt: OnCorrupt, cache_dir: str | Path | None = None
) -> CachedImages:
    """Sees to it that the first 60,000 examples are in the compact form, and opens it."""
    key = {
        "dataset": DmMultiDsprites.name,
        "variant": variant,
        "file": str(path.resolve()),
        "bytes": path.stat().st_size,
        "image_size": _SIDE,
        "on_corrupt": on_corrupt,
    }
    folder = cache_folder(f"{DmMultiDsprites.name}-{variant}", key, cache_dir)
    records: Iterator[Record] | None = None

    def make(first: int, last: int) -> Iterator[Arrays]:
        nonlocal records
        if records is None:  # behind what an earlier run has converted
            records = islice(read_records(path, Losses(on_corrupt)), first, None)
        for start in range(first, last, PIECE):
            wanted = min(PIECE, last - start)
            yield parse_records(path, islice(records, wanted), VARIANTS[variant])

    progress = sys.stderr.isatty()
    return fill(folder, key, _USED, make, label=f"converting {path.name}", progress=progress)


def parse_records(path: Path, records: Iterable[Record], variant: Variant) -> Arrays:
    """Images `[n, 64, 64, 3]` and masks `[n, 64, 64]`, where k is the k-th entity."""
    images, masks = [], []
    for record in records:
        try:
            image, mask = _parse(record.payload, variant)
        except ValueError as error:
            raise RecordError(path, record.number, record.offset, str(error)) from error
        images.append(image)
        masks.append(mask)
    shape = (len(images), _SIDE, _SIDE)
    return np.array(images, np.uint8).reshape(*shape, 3), np.array(masks, np.uint8).reshape(shape)


def _parse(payload: bytes, variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    features = parse_example(payload)
    arrays = []
    for name, depth in (("image", variant.channels), ("mask", variant.entities)):
        feature = features.get(name)
        if not isinstance(feature, BytesList):
            raise ValueError(f"an example needs {name}, but has {', '.join(features)}")
        octets = feature.octets()
        if len(octets) != _SIDE * _SIDE * depth:
            raise ValueError(
                f"{name} needs {_SIDE * _SIDE * depth} values, but has {len(octets)}; is the file "
                "of another variant?"
            )
        arrays.append(octets.reshape(_SIDE, _SIDE, depth))
    image, entities = arrays
    if (entities + np.uint8(1)).max() > 1:  # 255 becomes 0, 0 becomes 1
        raise ValueError("masks need to be 0 or 255")
    # The entity with the highest number is on top; the background, number 0, is under everything.
    mask = (entities & np.arange(variant.entities, dtype=np.uint8)).max(axis=-1)
    return np.broadcast_to(image, (_SIDE, _SIDE, 3)), mask

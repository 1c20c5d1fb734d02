"""GQN's rooms_ring_camera and its sister sets: TFRecord files of scenes, read and written.

A scene is a `tf.train.Example` of two features: `frames`, one JPEG file per view, and `cameras`,
five float32 per view (x, y, z, yaw, pitch; handed through as they are). GENESIS learns from one
view of each scene; there are no masks.
"""

import hashlib
import io
import json
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch

from envs.base import usable_device
from envs.counter_rng import bits, fold
from genesis_rl.durable import parse_json
from pretrain.data.cache import Arrays
from pretrain.data.cached import CachedDataset, at_most
from pretrain.data.example import BytesList, Feature, build_example, parse_example
from pretrain.data.images import SPLITS, check_split
from pretrain.data.pixels import decode_rgb, in_threads
from pretrain.data.tfrecord import Losses, OnCorrupt, RecordFile, Summary, write_records

_NAME = re.compile(r"(\d+)-of-(\d+)\.tfrecord")
_PUBLISHED = 2160  # train files of rooms_ring_camera, of 5,000 scenes each
_LAST_TRAINING_FILE = 2124  # 2160 // 60 * 59, as in the authors' release
_PIECE = 32  # scenes that a thread decodes in one go


class Scene(NamedTuple):
    """One scene as it is stored.

    Attributes:
        frames: The JPEG file of each view.
        cameras: `[views, 5]` float32: x, y, z, yaw, pitch, in radians.
    """

    frames: list[bytes]
    cameras: np.ndarray


class _Part(NamedTuple):
    """The records of one file that belong to a split: those that remain after the val share."""

    file: RecordFile
    share: str  # "all", or "train" or "val" of a file that holds both

    def span(self) -> range:
        count = len(self.file)
        last = max(1, count // 60)
        return {
            "all": range(count),
            "train": range(count - last),
            "val": range(count - last, count),
        }[self.share]


class Gqn(CachedDataset):
    """One split of a GQN dataset, one random view of every scene.

    The view is a function of seed, split and scene alone. (The authors' release draws one view for
    every 32 scenes; here each scene has its own.) Scenes come in the order of the files, so `size`
    takes the first ones and reads no further.

    Args:
        split: "train", "val" or "test".
        seed: Of the views.
        size: Number of scenes at most; all there are unless given.
        image_size: Height and width; frames of another size take the nearest pixel, as in the
            authors' release.
        variant: Which GQN dataset.
        data_dir: The folder that holds it, or the one above.
        device: Where batches are returned.
        on_corrupt: "stop" at a damaged record, or "skip" it; more than 0.1 % always stop.
        cache_dir: Where the compact form is kept.

    Example:
        >>> Gqn("val", data_dir="/data/gqn").batch([0, 7]).images.shape  # doctest: +SKIP
        torch.Size([2, 64, 64, 3])
    """

    name = "gqn"
    num_slots = 7

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        image_size: int = 64,
        variant: str = "rooms_ring_camera",
        data_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        on_corrupt: OnCorrupt = "stop",
        cache_dir: str | Path | None = None,
    ):
        super().__init__(cache_dir)
        check_split(split)
        self.split, self.seed, self.image_size = split, seed, image_size
        self.device = usable_device(device)
        self._folder = find_folder(data_dir, variant)
        self._variant, self._on_corrupt = variant, on_corrupt
        self._counts = _announced_counts(self._folder)
        self._parts = split_files(self._folder, split, Losses(on_corrupt))
        self._ends: list[int] = []  # scenes up to the end of each part, as far as counted
        self.source = f"files in {self._folder}"
        self.size = self._count_to(size)
        self._key = fold(seed, SPLITS.index(split))

    def key(self) -> dict[str, Any]:
        files = [
            [part.file.path.name, part.file.path.stat().st_size, part.share] for part in self._parts
        ]
        return {
            "dataset": self.name,
            "variant": self._variant,
            "folder": str(self._folder.resolve()),
            "files": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
            "split": self.split,
            "seed": self.seed,
            "image_size": self.image_size,
            "on_corrupt": self._on_corrupt,
        }

    def read(self, rows: np.ndarray) -> Arrays:
        images = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        numbers = bits(fold(self._key, torch.from_numpy(rows.astype(np.int64))), 1)[:, 0].numpy()
        views = numbers.astype(np.uint64) >> np.uint64(40)  # 24 random bits

        def decode(piece: slice) -> None:
            payloads = self._payloads(rows[piece])
            targets = zip(payloads, views[piece].tolist(), images[piece], strict=True)
            for (where, payload), view, target in targets:
                try:
                    frames, _ = _parse(payload)
                    start, stop = frames[view * len(frames) >> 24]
                    picture = decode_rgb(payload[start:stop])
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
                if len(picture) != self.image_size:
                    shape = (self.image_size, self.image_size)
                    picture = cv2.resize(picture, shape, interpolation=cv2.INTER_NEAREST)
                target[...] = picture

        pieces = [slice(k, k + _PIECE) for k in range(0, len(rows), _PIECE)]
        in_threads(decode, pieces)
        return images, None

    def scene(self, index: int) -> Scene:
        """All views of a scene, as they are stored."""
        where, payload = next(self._payloads(self.checked([index]).cpu().numpy()))
        try:
            spans, cameras = _parse(payload)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return Scene([payload[start:stop] for start, stop in spans], cameras)

    def _payloads(self, rows: np.ndarray) -> Iterator[tuple[str, bytes]]:
        """Where each of these scenes is stored, in words, and its record."""
        parts = [bisect_right(self._ends, row) for row in rows.tolist()]
        begin = 0
        while begin < len(rows):
            part, end = parts[begin], begin
            while end < len(rows) and parts[end] == part:
                end += 1
            file, first = self._parts[part].file, self._ends[part - 1] if part else 0
            start = self._parts[part].span().start
            numbers = [row - first + start for row in rows[begin:end].tolist()]
            for number, payload in zip(numbers, file.read(numbers), strict=True):
                yield f"{file.path}: record {number}", payload
            begin = end

    def _count_to(self, size: int | None) -> int:
        """Counts the records of as many files as `size` scenes need."""
        total = 0
        for part in self._parts:
            if size is not None and total >= size:
                break
            self._check_count(part.file)
            total += len(part.span())
            self._ends.append(total)
        return at_most(size, total, f"{self.split} scenes of {self._folder}")

    def _check_count(self, file: RecordFile) -> None:
        """A file that was cut between two records looks sound; only its count tells."""
        path, announced = file.path, self._counts.get(f"{file.path.parent.name}/{file.path.name}")
        if announced is not None and len(file) != announced and self._on_corrupt == "stop":
            raise ValueError(
                f"{path} holds {len(file)} records, but genesis_rl.json announces {announced}; "
                "make or copy the file again."
            )
        published = path.name.endswith((f"-of-{_PUBLISHED}.tfrecord", "-of-240.tfrecord"))
        if announced is None and published and len(file) != 5000:
            warnings.warn(f"{path} holds {len(file)} scenes; published are 5,000", stacklevel=4)


def find_folder(data_dir: str | Path | None, variant: str) -> Path:
    """The folder with `train` and `test` of a GQN dataset.

    Raises:
        FileNotFoundError: There is none; the message says what it looks like and where to get it.
    """
    root = None if data_dir is None else Path(data_dir).expanduser()
    for folder in () if root is None else (root / variant, root):
        if any((folder / split).is_dir() for split in ("train", "test")):
            return folder
    place = "no --data-dir was given" if root is None else f"{root} has no such folder"
    raise FileNotFoundError(
        f"gqn needs --data-dir DIR with DIR/{variant}/train/0001-of-2160.tfrecord and so on and "
        f"DIR/{variant}/test/001-of-240.tfrecord and so on (a few files are enough), but {place}. "
        f"The data are at gs://gqn-dataset/{variant} (250 GB for all of rooms_ring_camera): "
        f"gsutil -m cp -r gs://gqn-dataset/{variant} DIR"
    )


def split_files(folder: Path, split: str, losses: Losses | None = None) -> list[_Part]:
    """The files of a split, in order, and which part of them belongs to it.

    Of 2,160 training files the first 2,124 are for training, as in the authors' release, and each
    file of a partial download stays in its split. In other sets, or if no validation file has
    arrived, the last `max(1, n // 60)` of the files are for validation, or the last 60th of the
    records of a single file.
    """
    losses = losses or Losses()
    where = folder / ("test" if split == "test" else "train")
    paths, total = _list_files(where)

    def opened(paths: Iterable[Path], share: str = "all") -> list[_Part]:
        return [_Part(RecordFile(path, losses), share) for path in paths]

    if split == "test":
        return opened(paths)
    if total == _PUBLISHED:
        late = [path for path in paths if _number(path)[0] > _LAST_TRAINING_FILE]
        if late and len(late) == len(paths) and split == "train":
            raise FileNotFoundError(
                f"{where} holds only files after {_LAST_TRAINING_FILE}, which are for validation; "
                "training needs at least one of the earlier ones."
            )
        if late:
            return opened(late if split == "val" else paths[: -len(late)])
    if len(paths) == 1:
        return opened(paths, split)
    last = max(1, len(paths) // 60)
    return opened(paths[-last:] if split == "val" else paths[:-last])


def write_scenes(path: Path, scenes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Summary:
    """Writes a file of scenes in GQN's format, as TensorFlow itself would.

    Args:
        path: Of the file; `file_name` says how it should be called.
        scenes: For each the frames, `[views, H, W, 3]` uint8, and the cameras, `[views, 5]`.
    """
    return write_records(path, (_scene_example(*scene) for scene in scenes))


def file_name(number: int, total: int) -> str:
    """The published name of the file with this 1-based number."""
    return f"{number:0{len(str(total))}}-of-{total}.tfrecord"


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame as tf.io.encode_jpeg writes it: quality 95, colour at half resolution, 300 dpi."""
    from PIL import Image  # here, because reading does not need it

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=2, dpi=(300, 300))
    return buffer.getvalue()


def _scene_example(frames: np.ndarray, cameras: np.ndarray) -> bytes:
    shapes = frames.shape, cameras.shape
    if frames.ndim != 4 or frames.shape[3] != 3 or cameras.shape != (len(frames), 5):
        raise ValueError(f"a scene is [V, H, W, 3] frames and [V, 5] cameras, but got {shapes}.")
    if frames.dtype != np.uint8 or not np.isfinite(cameras).all():
        raise ValueError(f"frames need to be uint8 (are {frames.dtype}) and cameras finite.")
    return build_example(
        {"cameras": cameras.astype(np.float32), "frames": [encode_jpeg(f) for f in frames]}
    )


def _parse(payload: bytes) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Where in a record each view's JPEG file is, and the cameras."""
    features: dict[str, Feature] = parse_example(payload)
    frames, cameras = features.get("frames"), features.get("cameras")
    if not isinstance(frames, BytesList) or not isinstance(cameras, np.ndarray):
        raise ValueError(f"a scene needs frames and cameras, but has {', '.join(features)}")
    spans = frames.spans()
    if not spans or cameras.dtype != np.float32 or len(cameras) != 5 * len(spans):
        raise ValueError(
            f"{len(spans)} frames need five float32 each of cameras, but there are "
            f"{len(cameras)} of {cameras.dtype}"
        )
    return spans, cameras.reshape(-1, 5)


def _list_files(folder: Path) -> tuple[list[Path], int]:
    """The record files of a folder by number, and how many there should be."""
    paths = [path for path in folder.glob("*.tfrecord") if "gstmp" not in path.name]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .tfrecord files.")
    totals = {_number(path)[1] for path in paths}
    if len(totals) > 1:
        raise ValueError(f"{folder} mixes files of several sets (of {sorted(totals)} files).")
    paths.sort(key=lambda path: (_number(path)[0], path.name))
    total = totals.pop()
    if total and len(paths) != total:
        warnings.warn(f"{folder} holds {len(paths)} of {total} files; those are used", stacklevel=4)
    return paths, total


def _number(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _announced_counts(folder: Path) -> dict[str, int]:
    """Records of each file of a generated set, by `split/name`, if its marker says so."""
    for path in (folder / "genesis_rl.json", folder.parent / "genesis_rl.json"):
        if path.is_file():
            files = parse_json(path.read_bytes(), path).get("files", {})
            prefix = f"{folder.name}/" if path.parent != folder else ""
            entries = cast(dict[str, Any], files if isinstance(files, dict) else {})
            return {
                name.removeprefix(prefix): entry["records"]
                for name, entry in entries.items()
                if name.startswith(prefix) and isinstance(entry, dict) and "records" in entry
            }
    return {}

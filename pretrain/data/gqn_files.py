"""The files of a GQN dataset: where they are, which split they belong to, and how to write them."""

import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pretrain.data.example import build_example
from pretrain.data.manifest import check_complete, find_marker, read_marker
from pretrain.data.record_file import RecordFile
from pretrain.data.tfrecord import Losses, Summary, write_records

PUBLISHED = 2160  # train files of rooms_ring_camera, of 5,000 scenes each
_LAST_TRAINING_FILE = 2124  # 2160 // 60 * 59, as in the authors' release
_DENSITY = struct.pack(">BHH", 1, 300, 300)  # of a JFIF header: dots per inch, both ways
_NAME = re.compile(r"(\d+)-of-(\d+)\.tfrecord")


class Part(NamedTuple):
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


def find_folder(data_dir: str | Path | None, variant: str) -> Path:
    """The folder with `train` and `test` of a GQN dataset.

    Raises:
        FileNotFoundError: There is none; the message says what it looks like and where to get it.
        ValueError: It was generated, but not to its end.
    """
    root = None if data_dir is None else Path(data_dir).expanduser()
    for folder in () if root is None else (root / variant, root):
        if any((folder / split).is_dir() for split in ("train", "test")):
            check_complete(folder)
            return folder
    place = "no --data-dir was given" if root is None else f"{root} has no such folder"
    raise FileNotFoundError(
        f"gqn needs --data-dir DIR with DIR/{variant}/train/0001-of-2160.tfrecord and so on and "
        f"DIR/{variant}/test/001-of-240.tfrecord and so on (a few files are enough), but {place}. "
        f"The data are at gs://gqn-dataset/{variant} (250 GB for all of rooms_ring_camera): "
        f"gsutil -m cp -r gs://gqn-dataset/{variant} DIR"
    )


def split_files(folder: Path, split: str, losses: Losses | None = None) -> list[Part]:
    """The files of a split, in order, and which part of them belongs to it.

    Of 2,160 training files the first 2,124 are for training, as in the authors' release, and each
    file of a partial download stays in its split. In other sets, or if no validation file has
    arrived, the last `max(1, n // 60)` of the files are for validation, or the last 60th of the
    records of a single file.
    """
    losses = losses or Losses()
    where = folder / ("test" if split == "test" else "train")
    paths, total = _list_files(where)

    def opened(paths: Iterable[Path], share: str = "all") -> list[Part]:
        return [Part(RecordFile(path, losses), share) for path in paths]

    if split == "test":
        return opened(paths)
    if total == PUBLISHED:
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
    return write_records(path, (encode_scene(*scene) for scene in scenes))


def file_name(number: int, total: int) -> str:
    """The published name of the file with this 1-based number."""
    return f"{number:0{len(str(total))}}-of-{total}.tfrecord"


def mask_file(path: Path) -> Path:
    """Where the masks of a generated file of scenes lie: beside it, for the format has no room."""
    return path.parent.parent / f"{path.parent.name}_masks" / f"{path.stem}.npz"


def read_masks(path: Path, number: int) -> np.ndarray:
    """`[views, H, W]` uint8 masks of the scene with this number, in a generated file.

    Raises:
        ValueError: They are damaged; the message names file and scene.
    """
    beside = mask_file(path)
    try:
        masks: np.ndarray = _all_masks(beside, beside.stat().st_mtime_ns)[number]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError) as error:
        raise ValueError(f"{beside}: masks of scene {number} are damaged ({error})") from error
    return masks


@lru_cache(maxsize=4)
def _all_masks(beside: Path, changed: int) -> np.ndarray:
    """A file's masks, unpacked at once: 20 MB for 500 scenes of ten views."""
    with np.load(beside, allow_pickle=False) as archive:
        return np.asarray(archive["masks"], dtype=np.uint8)


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame as tf.io.encode_jpeg writes it: quality 95, colour at half resolution, 300 dpi."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality + sampling)
    data = encoded.tobytes()
    return data[:13] + _DENSITY + data[18:]  # OpenCV states no density


def encode_scene(frames: np.ndarray, cameras: np.ndarray) -> bytes:
    """The record of a scene: `[V, H, W, 3]` uint8 frames and `[V, 5]` cameras."""
    shapes = frames.shape, cameras.shape
    if frames.ndim != 4 or frames.shape[3] != 3 or cameras.shape != (len(frames), 5):
        raise ValueError(f"a scene is [V, H, W, 3] frames and [V, 5] cameras, but got {shapes}.")
    if frames.dtype != np.uint8 or not np.isfinite(cameras).all():
        raise ValueError(f"frames need to be uint8 (are {frames.dtype}) and cameras finite.")
    return build_example(
        {"cameras": cameras.astype(np.float32), "frames": [encode_jpeg(f) for f in frames]}
    )


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


def announced_counts(folder: Path) -> dict[str, int]:
    """Records of each file of a generated set, by `split/name`, if its marker says so."""
    path = find_marker(folder)
    if path is None:
        return {}
    prefix = f"{folder.name}/" if path.parent != folder else ""
    return {
        name.removeprefix(prefix): entry["records"]
        for name, entry in read_marker(path)["files"].items()
        if name.startswith(prefix) and "records" in entry
    }

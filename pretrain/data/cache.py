"""The compact form that datasets are converted to once: uint8 pixels, and a manifest of hashes.

A folder holds `images.u8` (`[N, H, W, 3]`), `masks.u8` (`[N, H, W]`, where there are masks) and
`manifest.json`, which counts and hashes consecutive shards of 4,096 images. A shard counts once
the manifest names it: a conversion that was killed goes on behind the last one, and one that turns
out too short is made longer. Training maps the files, or copies them to its device.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from tqdm import tqdm

from genesis_rl.durable import parse_json, replace_file, to_json
from pretrain.data.images import ImageBatch
from pretrain.data.pixels import in_threads
from pretrain.machine import only_process, require_space

SHARD = 4096  # images: 50 MB at 64 x 64 pixels
FORMAT = 1
_ADVICE = "use fewer images, or set GENESIS_RL_CACHE to a folder on another disk"

Arrays = tuple[np.ndarray, np.ndarray | None]  # [n, H, W, 3] uint8; [n, H, W] uint8 or None


class CachedImages:
    """Images in the compact form, mapped from disk.

    A shard's hash is checked before the first of its images is handed out.

    Args:
        folder: Where `fill` put them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        size = self.manifest["image_size"]
        self._counts = [shard["count"] for shard in self.manifest["shards"]]
        self._sound = np.zeros(len(self._counts), dtype=bool)
        self._images = self._map("images", (size, size, 3))
        self._masks = self._map("masks", (size, size)) if self.manifest["masks"] else None

    def __len__(self) -> int:
        return sum(self._counts)

    def take(self, rows: np.ndarray) -> Arrays:
        """The images and masks of these rows, copied."""
        self.verify(np.unique(rows // SHARD).tolist())
        return self._images[rows], None if self._masks is None else self._masks[rows]

    def all(self, rows: range, device: torch.device) -> ImageBatch:
        """Consecutive images. On the CPU they stay on disk, and the system keeps what fits."""
        self.verify(range(rows.start // SHARD, -(-rows.stop // SHARD)))
        arrays = [self._images] + ([] if self._masks is None else [self._masks])
        tensors = []
        for array in arrays:
            mapped = torch.from_numpy(array[rows.start : rows.stop])
            if device.type == "cpu":
                tensors.append(mapped)
                continue
            tensor = torch.empty(mapped.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(rows), SHARD):
                tensor[start : start + SHARD] = mapped[start : start + SHARD].to(device)
            tensors.append(tensor)
        return ImageBatch(tensors[0], tensors[1] if len(tensors) > 1 else None)

    def verify(self, shards: Any = None) -> None:
        """Compares shards, or all, with the manifest's hashes.

        Raises:
            ValueError: One has changed on disk; the message names its images.
        """
        shards = range(len(self._counts)) if shards is None else shards
        in_threads(self._verify, [shard for shard in shards if not self._sound[shard]])

    def _verify(self, shard: int) -> None:
        first, count = shard * SHARD, self._counts[shard]
        for name, array in (("images", self._images), ("masks", self._masks)):
            if array is None:
                continue
            if _hash(array[first : first + count]) != self.manifest["shards"][shard][name]:
                raise ValueError(
                    f"{self.folder / name}.u8: images {first} to {first + count - 1} differ from "
                    "the manifest's hash; the disk has damaged them. Delete the folder: it is made "
                    "again."
                )
        self._sound[shard] = True

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path, count = self.folder / f"{name}.u8", len(self)
        needed = count * int(np.prod(shape))
        found = path.stat().st_size if path.is_file() else 0
        if found < needed:
            raise ValueError(
                f"{path} needs {needed} bytes for {count} images, but has {found}; delete "
                f"{self.folder}: it is made again."
            )
        if not count:
            return np.empty((0, *shape), dtype=np.uint8)
        # Copy on write: torch wants arrays that can be written to, and the file must not change.
        return np.memmap(path, np.uint8, "c", shape=(count, *shape))


def cache_folder(name: str, key: dict[str, Any], given: str | Path | None = None) -> Path:
    """The folder of a compact form: as given, or one under `cache_root` that the key decides."""
    if given is not None:
        return Path(given).expanduser()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    words = [name, key.get("split"), digest]
    return cache_root() / re.sub(r"[^\w.-]+", "-", "-".join(filter(None, words)))


def cache_root() -> Path:
    """The folder of all compact forms: `$GENESIS_RL_CACHE`, or `~/.cache/genesis_rl`."""
    given = os.environ.get("GENESIS_RL_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "genesis_rl"


def fill(
    folder: Path,
    key: dict[str, Any],
    count: int,
    make: Callable[[int, int], Iterable[Arrays]],
    *,
    label: str,
    progress: bool = True,
) -> CachedImages:
    """Sees to it that a folder holds the first `count` images, and opens it.

    Args:
        folder: Made if it does not exist. One process fills it; others wait for that one.
        key: What the images are a function of. A folder keeps to one key.
        count: Images that are needed.
        make: The images from one index up to another, in pieces. Fewer than asked for means that
            there are no more.
        label: What the progress bar calls them.
        progress: Whether to show it.

    Raises:
        ValueError: The folder holds images of another key.
        OSError: The disk is, or would be, full.
    """
    if _holds(_manifest_for(folder, key), count):
        return CachedImages(folder)  # may be on a disk that cannot be written to
    folder.mkdir(parents=True, exist_ok=True)
    with only_process(folder):
        manifest = _manifest_for(folder, key)
        shards = manifest["shards"]
        print(f"{label}: made once, kept in {folder}", file=sys.stderr)
        bar = tqdm(total=count, desc=label, unit=" images", disable=not progress)
        with bar:
            for index, first in enumerate(range(0, count, SHARD)):
                wanted = min(SHARD, count - first)
                have = shards[index]["count"] if index < len(shards) else 0
                if have >= wanted:
                    bar.update(wanted)
                    continue
                arrays = _joined(make(first, first + wanted), bar)
                manifest["ended"] = arrays is None or len(arrays[0]) < wanted
                if arrays is not None:
                    _write_shard(folder, manifest, index, arrays, count)
                if manifest["ended"]:
                    break
        replace_file(folder / "manifest.json", to_json(manifest))
    return CachedImages(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a compact form, checked for what this program relies on.

    Raises:
        ValueError: It is damaged or of another version; FileNotFoundError: there is none.
    """
    path = folder / "manifest.json"
    manifest = parse_json(path.read_bytes(), path)
    shards = manifest.get("shards")
    names = ["images", "masks"] if manifest.get("masks") else ["images"]
    sound = (
        manifest.get("format") == FORMAT
        and isinstance(shards, list)
        and all(isinstance(s, dict) and type(s.get("count")) is int for s in shards)
        and all(0 < s["count"] <= SHARD for s in shards)
        and all(s["count"] == SHARD for s in shards[:-1])
        and all(isinstance(s.get(name), str) for s in shards for name in names)
        and isinstance(manifest.get("masks"), bool)
        and isinstance(manifest.get("ended"), bool)
        and isinstance(manifest.get("image_size"), int)
        and 0 < manifest["image_size"] <= 2048
        and isinstance(manifest.get("key"), dict)
    )
    if not sound:
        raise ValueError(f"{path} is damaged or of another version; delete {folder}.")
    return manifest


def _holds(manifest: dict[str, Any], count: int) -> bool:
    """Whether nothing is left to convert."""
    return manifest["ended"] or sum(shard["count"] for shard in manifest["shards"]) >= count


def _manifest_for(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    key = json.loads(json.dumps(key))  # tuples become lists, as in the file
    if not (folder / "manifest.json").is_file():
        return {"format": FORMAT, "key": key, "ended": False, "shards": []} | {
            "image_size": key["image_size"],
            "masks": False,
        }
    manifest = read_manifest(folder)
    if manifest["key"] != key:
        names = sorted(k for k in {*key, *manifest["key"]} if key.get(k) != manifest["key"].get(k))
        held = ", ".join(f"{name}={manifest['key'].get(name)!r}" for name in names)
        raise ValueError(
            f"{folder} holds images made with {held}, but {', '.join(names)} "
            "is different now; use another folder or delete this one."
        )
    return manifest


def _joined(parts: Iterable[Arrays], bar: "tqdm[NoReturn]") -> Arrays | None:
    """The pieces of a shard in one; None if there are none."""
    images, masks = [], []
    for part in parts:
        images.append(part[0])
        if part[1] is not None:
            masks.append(part[1])
        bar.update(len(part[0]))
    if not sum(map(len, images)):
        return None
    return np.concatenate(images), np.concatenate(masks) if masks else None


def _write_shard(
    folder: Path, manifest: dict[str, Any], index: int, arrays: Arrays, count: int
) -> None:
    """Adds a shard: first its bytes, then, once the disk has them, its entry in the manifest."""
    size, shards = manifest["image_size"], manifest["shards"]
    images, masks = arrays
    expected = (len(images), size, size)
    if images.shape != (*expected, 3) or (masks is not None and masks.shape != expected):
        raise ValueError(f"images need to be {expected}, but are {images.shape}.")
    if index and (masks is not None) != manifest["masks"]:
        raise ValueError("either all images have masks or none, but this changed on the way.")
    manifest["masks"] = masks is not None
    entry: dict[str, Any] = {"count": len(images)}
    for name, array in (("images", images), ("masks", masks)):
        if array is None:
            continue
        path = folder / f"{name}.u8"
        each = array[0].nbytes
        if not path.is_file() or path.stat().st_size < count * each:
            require_space(folder, (count - index * SHARD) * each, _ADVICE)
        with path.open("r+b" if path.is_file() else "w+b") as file:
            file.seek(index * SHARD * each)
            file.write(np.ascontiguousarray(array, dtype=np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        entry[name] = _hash(array)
    shards[index:] = [entry]
    replace_file(folder / "manifest.json", to_json(manifest))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()

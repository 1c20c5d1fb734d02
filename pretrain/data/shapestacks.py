"""ShapeStacks: rendered towers of two to six blocks, stable or about to fall, seen from 16 sides.

    <root>/recordings/env_<scenario>/rgb-w=..-f=..-l=..-c=..-cam_<1..16>-mono-0.png    224 x 224 RGB
    <root>/iseg/env_<scenario>/iseg-...-cam_<1..16>-mono-0.map       or beside the images
    <root>/splits/<default|blocks_all|ccs_all>/{train,eval,test}.txt

A scenario's name says everything about the tower: `ccs-hard-h=3-vcom=2-vpsf=0-v=17`.
"""

import csv
import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.base import usable_device
from envs.counter_rng import bits, fold
from pretrain.data.cache import Arrays
from pretrain.data.cached import CachedDataset, at_most
from pretrain.data.images import SPLITS, Indices, check_split
from pretrain.data.manifest import check_complete, source_of
from pretrain.data.pixels import decode_rgb, in_threads

MaskMode = Literal["nearest", "nearest-exact", "none"]

NATIVE = 224  # pixels of a file
CROP = 196  # of these, in the centre, as in the GENESIS release
MAX_BLOCKS = 6
VIEWS = 16

LISTS = {"train": "train.txt", "val": "eval.txt", "test": "test.txt"}
_SCENARIO = re.compile(r"env_(blocks|ccs)-(easy|hard)-h=([2-6])-vcom=(\d)-vpsf=(\d)-v=(\d+)")
RGB_NAME = re.compile(r"rgb-.*cam_(\d+)-mono-0\.png")
MASK_NAME = re.compile(r"iseg-.*cam_(\d+)-mono-0\.map")
_PIECE = 16  # images that a thread decodes in one go


class Labels(NamedTuple):
    """What is to be read off a tower, for B images. All are `[B]` int64.

    Attributes:
        stability: 0 stable, 1 unstable.
        height: Blocks of the tower minus two: 0 to 4.
        view: Camera minus one: 0 to 15.
        violation: 0 none, 1 a block that does not carry the centre of mass above it, 2 one that
            stands on a curved surface.
        level: Which block, counted from 1 at the bottom, violates; 0 for none.
    """

    stability: Tensor
    height: Tensor
    view: Tensor
    violation: Tensor
    level: Tensor


class LabelledFrames(NamedTuple):
    """Images of the public course subset of ShapeStacks, and its labels by column name."""

    images: Tensor  # [N, S, S, 3] uint8
    labels: dict[str, Tensor]  # [N] int64 each


class ShapeStacks(CachedDataset):
    """One split of ShapeStacks. Images are in a random order, so that the first N are a sample.

    Images are cropped to the central 196 pixels and resized with an antialiased bilinear filter, as
    in the authors' release. Masks are cropped alike and take the nearest pixel: block k, counted
    from the bottom, is k, anything else 0.

    Args:
        split: "train", "val" (the lists call it eval) or "test".
        seed: Of the order.
        size: Number of images at most; all there are unless given.
        image_size: Height and width.
        variant: Which lists: default, blocks_all or ccs_all.
        masks: "nearest" takes the pixels that published scores are based on, half a pixel up and to
            the left of the image's; "nearest-exact" takes those in the middle, which overlap the
            objects better; "none" does without.
        data_dir: The folder with `recordings` and `splits`, or the one above.
        device: Where batches are returned.
        cache_dir: Where the compact form is kept.

    Example:
        >>> ShapeStacks("test", data_dir="/data").labels([0]).height  # doctest: +SKIP
        tensor([3])
    """

    name = "shapestacks"
    num_slots = 9

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        image_size: int = 64,
        variant: str = "default",
        masks: MaskMode = "nearest",
        data_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
        cache_dir: str | Path | None = None,
    ):
        super().__init__(cache_dir)
        check_split(split)
        if masks not in ("nearest", "nearest-exact", "none"):
            raise ValueError(f"masks need to be nearest, nearest-exact or none, but are {masks!r}.")
        self.split, self.seed, self.image_size = split, seed, image_size
        self.device = usable_device(device)
        self.folder = find_folder(data_dir)
        self.scenarios = self._present(read_list(self.folder, variant, split))
        self._views = _listing(self.folder / "recordings", self.scenarios, RGB_NAME)
        self._report_gaps()
        total = sum(map(len, self._views))
        self.size = at_most(size, total, f"{split} images of {self.folder}")
        self._pairs = self._shuffled()[: self.size]
        self._masks = self._find_masks() if masks != "none" else None
        self.mask_mode: MaskMode = masks if self._masks is not None else "none"
        self.source = f"{source_of(self.folder)}, masks {self.mask_mode}"

    def key(self) -> dict[str, Any]:
        listed = "\n".join(self.scenarios) + str([sorted(views) for views in self._views])
        return {
            "dataset": self.name,
            "folder": str(self.folder.resolve()),
            "scenarios": hashlib.sha256(listed.encode()).hexdigest(),
            "split": self.split,
            "seed": self.seed,
            "image_size": self.image_size,
            "mask_mode": self.mask_mode,
        }

    def read(self, rows: np.ndarray) -> Arrays:
        size = self.image_size
        images = np.empty((len(rows), size, size, 3), np.uint8)
        masks = None if self._masks is None else np.empty((len(rows), size, size), np.uint8)
        pick = nearest_indices(size, exact=self.mask_mode == "nearest-exact")

        def decode(piece: slice) -> None:
            for row, at in zip(rows[piece].tolist(), range(*piece.indices(len(rows))), strict=True):
                images[at] = _from_file(self.path(row), lambda d: preprocess(_native(d), size))
                if masks is not None:
                    masks[at] = _from_file(self._mask_path(row), read_mask)[np.ix_(pick, pick)]

        in_threads(decode, [slice(k, k + _PIECE) for k in range(0, len(rows), _PIECE)])
        return images, masks

    def path(self, index: int) -> Path:
        """The file of an image."""
        scenario, view = self._pairs[index].tolist()
        name = self.scenarios[scenario]
        return self.folder / "recordings" / name / self._views[scenario][view]

    def labels(self, indices: Indices) -> Labels:
        """What the names of these images say."""
        rows = self.checked(indices).cpu().numpy()
        values = [
            (*parse_scenario(self.scenarios[scenario]), view)
            for scenario, view in self._pairs[rows].tolist()
        ]
        table = torch.tensor(values, dtype=torch.int64, device=self.device).reshape(-1, 4)
        height, violation, level, view = table.unbind(1)
        return Labels((violation > 0).long(), height - 2, view - 1, violation, level)

    def _mask_path(self, index: int) -> Path:
        scenario, view = self._pairs[index].tolist()
        assert self._masks is not None
        return self._masks[scenario][view]

    def _present(self, listed: list[str]) -> list[str]:
        with os.scandir(self.folder / "recordings") as entries:
            there = {entry.name for entry in entries}
        present = [name for name in listed if name in there]
        if not present:
            raise FileNotFoundError(
                f"{self.folder / 'recordings'} holds none of the {len(listed)} scenarios of "
                f"{self.split}, such as {listed[0]}; unpack the archive of recordings there."
            )
        self._missing = len(listed) - len(present)
        return present

    def _report_gaps(self) -> None:
        partial = sum(len(views) < VIEWS for views in self._views)
        if self._missing or partial:
            warnings.warn(
                f"{self.folder}: of {len(self.scenarios) + self._missing} {self.split} scenarios "
                f"{self._missing} are missing and {partial} lack views; the others are used",
                stacklevel=3,
            )

    def _shuffled(self) -> np.ndarray:
        """`[images, 2]` scenario and camera, in a random order that depends on seed and split."""
        pairs = [(s, view) for s, views in enumerate(self._views) for view in sorted(views)]
        if not pairs:
            raise FileNotFoundError(f"{self.folder / 'recordings'} holds no images (rgb-*.png).")
        key = fold(self.seed, SPLITS.index(self.split))
        numbers = bits(fold(key, torch.arange(len(pairs))), 1)[:, 0]
        return np.array(pairs, dtype=np.int64)[numbers.argsort(stable=True).numpy()]

    def _find_masks(self) -> list[dict[int, Path]] | None:
        """By scenario and camera: every image that is used has a mask, or none has."""
        places = [self.folder / "iseg", self.folder / "recordings"]
        found: list[dict[int, Path]] = [{} for _ in self.scenarios]
        for place in reversed(places):
            names = _listing(place, self.scenarios, MASK_NAME) if place.is_dir() else []
            for masks, scenario, views in zip(found, self.scenarios, names, strict=bool(names)):
                masks |= {view: place / scenario / name for view, name in views.items()}
        if not any(found):
            return None
        lacking = [(s, v) for s, v in self._pairs.tolist() if v not in found[s]]
        if lacking:
            scenario, view = lacking[0]
            raise FileNotFoundError(
                f"{len(lacking)} of {self.size} images have no mask, the first is camera {view} of "
                f"{self.scenarios[scenario]}; complete {places[0]}, or read with masks='none'."
            )
        return found


def find_folder(data_dir: str | Path | None) -> Path:
    """The folder with `recordings` and `splits`.

    Raises:
        FileNotFoundError: There is none; the message says what it looks like and where to get it.
        ValueError: It was generated, but not to its end.
    """
    root = None if data_dir is None else Path(data_dir).expanduser()
    for folder in () if root is None else (root, root / "shapestacks"):
        if (folder / "recordings").is_dir():
            check_complete(folder)
            return folder
    place = "no --data-dir was given" if root is None else f"{root} has no folder recordings"
    raise FileNotFoundError(
        "shapestacks needs --data-dir DIR with DIR/recordings/env_*/rgb-*.png, "
        "DIR/splits/default/{train,eval,test}.txt and, for masks, DIR/iseg/env_*/iseg-*.map, but "
        f"{place}. The archives (rgb 33 GB, iseg 352 MB, meta and splits) are at "
        "https://shapestacks.robots.ox.ac.uk."
    )


def read_list(folder: Path, variant: str, split: str) -> list[str]:
    """The scenarios of a split, whether or not its list ends in a newline."""
    path = folder / "splits" / variant / LISTS[split]
    if not path.is_file():
        raise FileNotFoundError(f"shapestacks needs the list {path}, which is missing.")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    for number, name in enumerate(names, 1):
        if not _SCENARIO.fullmatch(name):
            raise ValueError(f"{path}: entry {number} is no scenario's name: {name[:80]!r}.")
    if not names:
        raise ValueError(f"{path} is empty.")
    return names


def parse_scenario(name: str) -> tuple[int, int, int]:
    """Height, kind of violation (0 none, 1 centre of mass, 2 curved) and the block it is at."""
    match = _SCENARIO.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no scenario's name.")
    height, mass, curved = (int(match[group]) for group in (3, 4, 5))
    if (mass and curved) or max(mass, curved) >= height:
        raise ValueError(f"{name}: a tower has one violation, below its topmost block.")
    return height, 1 if mass else 2 if curved else 0, mass or curved


def preprocess(picture: np.ndarray, size: int = 64) -> np.ndarray:
    """Crops `[224, 224, 3]` to its central 196 pixels, and resizes them as the authors' release."""
    from PIL import Image  # the release's own filter, to the last bit

    offset = (NATIVE - CROP) // 2
    crop = np.ascontiguousarray(picture[offset : offset + CROP, offset : offset + CROP])
    return np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BILINEAR))


def nearest_indices(size: int, exact: bool) -> np.ndarray:
    """Which rows (or columns) of the file a mask of this size takes."""
    places = np.arange(size) + (0.5 if exact else 0.0)
    return np.floor(places * CROP / size).astype(np.int64) + (NATIVE - CROP) // 2


def read_mask(data: bytes) -> np.ndarray:
    """`[224, 224]` uint8 labels of a `.map` file, which is a PNG of 32 times the label."""
    levels = _native(data)[..., 0]
    labels = levels // 32
    if (levels % 32).any() or labels.max() > MAX_BLOCKS:
        wrong = levels[(levels % 32 > 0) | (labels > MAX_BLOCKS)][0]
        raise ValueError(f"grey levels need to be 0, 32 .. {32 * MAX_BLOCKS}, but one is {wrong}")
    return labels


def load_course_subset(folder: Path, image_size: int = 64) -> LabelledFrames:
    """Reads `images/<id>.jpg` and `labels.csv` of the public course subset of ShapeStacks."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [folder / "images" / f"{int(row['id'])}.jpg" for row in rows]
    images = in_threads(
        lambda path: _from_file(path, lambda d: preprocess(_native(d), image_size)), paths
    )
    columns = {name: torch.tensor([int(row[name]) for row in rows]) for name in rows[0]}
    return LabelledFrames(torch.from_numpy(np.stack(images)), columns)


def _native(data: bytes) -> np.ndarray:
    return decode_rgb(data, NATIVE)


def _from_file(path: Path, read: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return read(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _listing(place: Path, scenarios: list[str], pattern: re.Pattern[str]) -> list[dict[int, str]]:
    """For each scenario the file names that match, by camera."""
    found = []
    for scenario in scenarios:
        names: dict[int, str] = {}
        try:
            entries = sorted(os.listdir(place / scenario))
        except FileNotFoundError:
            entries = []
        for name in entries:
            match = pattern.fullmatch(name)
            if match and names.setdefault(int(match[1]), name) != name:
                raise ValueError(f"{place / scenario} holds two files of camera {match[1]}.")
        found.append(names)
    return found

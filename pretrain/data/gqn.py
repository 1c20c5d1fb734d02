"""GQN's rooms_ring_camera and its sister sets, one random view of every scene.

A scene is a `tf.train.Example` of two features: `frames`, one JPEG file per view, and `cameras`,
five float32 per view (x, y, z, yaw, pitch; handed through as they are). GENESIS learns from one
view of each scene. There are no masks, but for the validation and test scenes of generated sets.
"""

import hashlib
import json
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from envs.base import usable_device
from envs.counter_rng import bits, fold
from envs.rooms import Rooms
from pretrain.data.cache import Arrays
from pretrain.data.cached import CachedDataset, at_most
from pretrain.data.gqn_files import (
    PUBLISHED,
    announced_counts,
    find_folder,
    mask_file,
    read_masks,
    split_files,
)
from pretrain.data.images import SPLITS, Indices, check_split
from pretrain.data.manifest import source_of
from pretrain.data.pixels import decode_rgb, in_threads
from pretrain.data.record_file import Block, RecordFile
from pretrain.data.scenes import parse_scenes
from pretrain.data.tfrecord import Losses, OnCorrupt

NATIVE = {  # pixels of a frame's side, of the published sets
    "rooms_ring_camera": 64,
    "rooms_free_camera_no_object_rotations": 64,
    "rooms_free_camera_with_object_rotations": 128,
    "jaco": 64,
    "mazes": 84,
    "shepard_metzler_5_parts": 64,
    "shepard_metzler_7_parts": 64,
}
_PIECE = 32  # scenes that a thread decodes in one go


class Scene(NamedTuple):
    """One scene as it is stored.

    Attributes:
        frames: The JPEG file of each view.
        cameras: `[views, 5]` float32: x, y, z, yaw, pitch, in radians.
    """

    frames: list[bytes]
    cameras: np.ndarray


class Frame(NamedTuple):
    """One view of a scene: its JPEG file and camera, and where they are stored."""

    path: Path
    number: int
    view: int
    camera: np.ndarray
    jpeg: bytes


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
        variant: Which GQN dataset; frames of the published ones need to have the published size.
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
        self._counts = announced_counts(self._folder)
        self._check_presence()
        self._parts = split_files(self._folder, split, Losses(on_corrupt))
        self._ends: list[int] = []  # scenes up to the end of each part, as far as counted
        self._masked = all(mask_file(part.file.path).is_file() for part in self._parts)
        self.source = source_of(self._folder)
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
            "masked": self._masked,
        }

    def read(self, rows: np.ndarray) -> Arrays:
        shape = (len(rows), self.image_size, self.image_size)
        images = np.empty((*shape, 3), np.uint8)
        masks = np.empty(shape, np.uint8) if self._masked else None
        frames = self._frames(rows)

        def decode(piece: slice) -> None:
            for at, frame in zip(range(len(rows))[piece], frames[piece], strict=True):
                try:
                    picture = decode_rgb(frame.jpeg, NATIVE.get(self._variant))
                except ValueError as error:
                    raise ValueError(f"{frame.path}: record {frame.number}: {error}") from error
                images[at] = self._sized(picture)
                if masks is not None:
                    masks[at] = self._sized(read_masks(frame.path, frame.number)[frame.view])

        in_threads(decode, [slice(k, k + _PIECE) for k in range(0, len(rows), _PIECE)])
        return images, masks

    def scene(self, index: int) -> Scene:
        """All views of a scene, as they are stored."""
        scenes = parse_scenes(self._block(index))
        return Scene(scenes.frames(0), scenes.cameras)

    def scene_masks(self, index: int) -> np.ndarray | None:
        """`[views, H, W]` uint8 masks of a generated scene, if it is for validation or testing."""
        block = self._block(index)
        return read_masks(block.path, int(block.numbers[0])) if self._masked else None

    def cameras(self, indices: Indices) -> torch.Tensor:
        """`[N, 5]` float32: the camera of the view that `batch` takes of each scene."""
        frames = self._frames(self.checked(indices).cpu().numpy())
        cameras = np.array([frame.camera for frame in frames], np.float32).reshape(-1, 5)
        return torch.from_numpy(cameras).to(self.device)

    def rooms(self, indices: Indices) -> Rooms:
        """What stands where in these scenes of a generated set.

        Raises:
            ValueError: The set is genuine, or records of it may have been left out.
        """
        from pretrain.data.make_gqn import rooms_of

        if self._on_corrupt != "stop":
            raise ValueError("rooms are known by their numbers; on_corrupt needs to be 'stop'")
        frames = self._frames(self.checked(indices).cpu().numpy())
        numbers = [self._before(frame.path) + frame.number for frame in frames]
        folder = "test" if self.split == "test" else "train"
        return rooms_of(self._folder, folder, torch.tensor(numbers, device=self.device))

    def _before(self, path: Path) -> int:
        """How many scenes the files before this one hold, of a generated set."""
        folder = f"{path.parent.name}/"
        earlier = [n for n in self._counts if n.startswith(folder) and n < folder + path.name]
        return sum(self._counts[name] for name in earlier)  # numbers are padded with zeros

    def _sized(self, picture: np.ndarray) -> np.ndarray:
        """A frame or a mask of another size takes the nearest pixel."""
        pick = np.arange(self.image_size) * len(picture) // self.image_size
        return picture if len(picture) == self.image_size else picture[np.ix_(pick, pick)]

    def _block(self, index: int) -> Block:
        return next(self._blocks(self.checked([index]).cpu().numpy()))

    def _frames(self, rows: np.ndarray) -> list[Frame]:
        """One view of each of these scenes."""
        numbers = bits(fold(self._key, torch.from_numpy(rows.astype(np.int64))), 1)[:, 0].numpy()
        views = numbers.astype(np.uint64) >> np.uint64(40)  # 24 random bits
        frames: list[Frame] = []
        for block in self._blocks(rows):
            scenes = parse_scenes(block)
            for k, number in enumerate(block.numbers.tolist()):
                view = int(views[len(frames)]) * scenes.count(k) >> 24
                camera = scenes.cameras[scenes.first[k] + view]
                frames.append(Frame(block.path, number, view, camera, scenes.frame(k, view)))
        return frames

    def _blocks(self, rows: np.ndarray) -> Iterator[Block]:
        """The records of these scenes, in their order."""
        parts = [bisect_right(self._ends, row) for row in rows.tolist()]
        begin = 0
        while begin < len(rows):
            part, end = parts[begin], begin
            while end < len(rows) and parts[end] == part:
                end += 1
            file, first = self._parts[part].file, self._ends[part - 1] if part else 0
            start = self._parts[part].span().start
            yield from file.blocks(row - first + start for row in rows[begin:end].tolist())
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

    def _check_presence(self) -> None:
        """A partial download is normal, but what was generated is whole."""
        missing = [name for name in self._counts if not (self._folder / name).is_file()]
        if missing and self._on_corrupt == "stop":
            raise FileNotFoundError(
                f"{self._folder / missing[0]} is missing, but genesis_rl.json announces it "
                f"({len(missing)} files in all); make or copy the dataset again."
            )

    def _check_count(self, file: RecordFile) -> None:
        """A file that was cut between two records looks sound; only its count tells."""
        path, announced = file.path, self._counts.get(f"{file.path.parent.name}/{file.path.name}")
        if announced is not None and len(file) != announced and self._on_corrupt == "stop":
            raise ValueError(
                f"{path} holds {len(file)} records, but genesis_rl.json announces {announced}; "
                "make or copy the file again."
            )
        published = path.name.endswith((f"-of-{PUBLISHED}.tfrecord", "-of-240.tfrecord"))
        if announced is None and published and len(file) != 5000:
            warnings.warn(f"{path} holds {len(file)} scenes; published are 5,000", stacklevel=4)

"""Generates rooms_ring_camera: rooms drawn by `envs.rooms`, in the published set's own format.

    rooms_ring_camera/train/001-of-100.tfrecord       scenes of ten views, with cameras
    rooms_ring_camera/test/01-of-20.tfrecord
    rooms_ring_camera/test_masks/01-of-20.npz         `masks`, [scenes, 10, 64, 64] uint8

The published format has no room for masks, so those of the test scenes lie beside it; 0 is the
room, and the others are the objects, numbered from 1 within a scene.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.counter_rng import fold
from envs.raycast import Renderer
from envs.rooms import VIEWS, Rooms, camera_rows, draw_rooms, ring_camera, room_scene, view_angles
from envs.textures import room_textures
from pretrain.data.generate import Written, put_file
from pretrain.data.gqn_files import encode_scene, file_name
from pretrain.data.images import SPLITS
from pretrain.data.manifest import find_marker, read_marker
from pretrain.data.pixels import in_threads
from pretrain.data.tfrecord import write_records

IMAGE_SIZE = 64
_GROUP = 100  # scenes that are rendered together
_REVISION = 2  # goes up whenever the same settings give other bytes


class SceneFile(NamedTuple):
    """What a file holds."""

    split: str
    name: str
    scenes: range


@dataclass(frozen=True)
class GqnRecipe:
    """Rooms of one to three objects, ten views each.

    A scene is a pure function of seed, split and its number within the split, so that a larger set
    begins with the scenes of a smaller one. Validation takes the last 60th of the training files.

    Args:
        train: Scenes for training and validation.
        test: Scenes for testing.
        seed: Another one is another dataset.
        scenes_per_file: The published files have 5,000; small ones lose less when interrupted.
        samples: Rays per pixel in each direction.
        textures: "labmaze" for the genuine ones, "procedural", or "auto" for what is installed.
    """

    train: int = 50_000
    test: int = 10_000
    seed: int = 0
    scenes_per_file: int = 500
    samples: int = 2
    textures: Literal["auto", "labmaze", "procedural"] = "auto"
    name: str = field(default="gqn", init=False)
    bytes_per_image: int = field(default=2600, init=False)

    def __post_init__(self) -> None:
        for what in ("train", "test", "scenes_per_file"):
            if (value := getattr(self, what)) < 1:
                raise ValueError(f"{what} needs to be at least 1 scene, but is {value}.")
        if self.samples not in (1, 2, 3):
            raise ValueError(f"samples is 1, 2 or 3 rays to a pixel's side, but is {self.samples}.")

    @property
    def images(self) -> int:
        """Frames in all."""
        return VIEWS * (self.train + self.test)

    def settings(self) -> dict[str, Any]:
        """What the bytes depend on; the textures by what they turned out to be."""
        given = {name: asdict(self)[name] for name in ("train", "test", "seed", "scenes_per_file")}
        rendered = {"samples": self.samples, "textures": _textures_source(self.textures)}
        return {**given, **rendered, "views": VIEWS, "revision": _REVISION}

    def units(self) -> int:
        """One for each file."""
        return self._files("train") + self._files("test")

    def write(self, unit: int, root: Path, device: torch.device) -> dict[str, Written]:
        """Writes one TFRecord file, and the masks beside it unless it is for training alone."""
        split, name, scenes = self.file(unit)
        path = f"rooms_ring_camera/{split}/{name}.tfrecord"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        masks: list[np.ndarray] = []
        done = write_records(root / path, self._payloads(split, scenes, device, masks))
        files = {path: Written(done.sha256, done.bytes, done.records)}
        if self._is_scored(unit):
            path = f"rooms_ring_camera/{split}_masks/{name}.npz"
            buffer = io.BytesIO()
            np.savez_compressed(buffer, masks=np.concatenate(masks))
            files[path] = put_file(root / path, buffer.getvalue())
        return files

    def finish(self, root: Path, files: Mapping[str, Written]) -> dict[str, Written]:
        """Every file stands for itself: there is nothing to add."""
        return {}

    def key(self, split: str) -> Tensor:
        """The seed of a split's rooms."""
        return fold(self.seed, SPLITS.index(split))

    def _files(self, split: str) -> int:
        return -(-getattr(self, split) // self.scenes_per_file)

    def _is_scored(self, unit: int) -> bool:
        """Whether a file has scenes for testing or, as the reader splits them, for validation."""
        files = self._files("train")
        return unit >= files - max(1, files // 60)

    def file(self, unit: int) -> SceneFile:
        """The file that a unit writes."""
        split = "train" if unit < self._files("train") else "test"
        number, total = unit - (split == "test") * self._files("train"), self._files(split)
        first = number * self.scenes_per_file
        last = min(first + self.scenes_per_file, getattr(self, split))
        stem = file_name(number + 1, total).removesuffix(".tfrecord")
        return SceneFile(split, stem, range(first, last))

    def _payloads(
        self, split: str, scenes: range, device: torch.device, masks: list[np.ndarray]
    ) -> Iterator[bytes]:
        """The records of these scenes; their masks are appended on the way."""
        renderer = _renderer(self.textures, device)
        key = self.key(split).to(device)
        for start in range(scenes.start, scenes.stop, _GROUP):
            index = torch.arange(start, min(start + _GROUP, scenes.stop), device=device)
            frames, cameras, owners = render_views(renderer, key, index, self.samples)
            masks.append(owners.cpu().numpy())
            pairs = list(zip(frames.cpu().numpy(), cameras.cpu().numpy(), strict=True))
            yield from in_threads(lambda pair: encode_scene(*pair), pairs)


def rooms_of(folder: Path, split: str, numbers: Tensor) -> Rooms:
    """What stands where in scenes of a generated folder, drawn again from its settings.

    Args:
        folder: The one with `train` and `test`.
        split: "train" or "test", of the files.
        numbers: `[B]` int64: of the scenes within the split's files.

    Raises:
        ValueError: The folder was not generated, or its scenes were drawn in another way.
    """
    marker = find_marker(folder)
    settings = read_marker(marker)["settings"] if marker else {}
    if settings.get("revision") != _REVISION or not isinstance(settings.get("seed"), int):
        raise ValueError(
            f"{folder} does not say what stands in its rooms; only those that this version of "
            "genesis-rl generated do"
        )
    return draw_rooms(fold(settings["seed"], SPLITS.index(split)), numbers)


class Views(NamedTuple):
    """All views of B scenes.

    Attributes:
        frames: `[B, 10, 64, 64, 3]` uint8 RGB.
        cameras: `[B, 10, 5]` float32, as `envs.rooms.camera_rows` describes them.
        masks: `[B, 10, 64, 64]` uint8: 0 for the room, 1 to 3 for the objects.
    """

    frames: Tensor
    cameras: Tensor
    masks: Tensor


def render_views(renderer: Renderer, key: Tensor | int, index: Tensor, samples: int = 2) -> Views:
    """Draws the scenes with these numbers, `[B]`, from all their cameras."""
    angles = view_angles(key, index)  # [B, 10]
    rooms = Rooms(*(value.repeat_interleave(VIEWS, dim=0) for value in draw_rooms(key, index)))
    scene = room_scene(rooms, ring_camera(angles.flatten()))
    picture = renderer.render(scene, size=IMAGE_SIZE, samples=samples)
    shape = (len(index), VIEWS)
    return Views(
        picture.images.unflatten(0, shape), camera_rows(angles), picture.masks.unflatten(0, shape)
    )


@lru_cache(maxsize=2)
def _renderer(textures: Literal["auto", "labmaze", "procedural"], device: torch.device) -> Renderer:
    return Renderer(room_textures(textures), device)


@lru_cache(maxsize=3)
def _textures_source(textures: Literal["auto", "labmaze", "procedural"]) -> str:
    return room_textures(textures).source

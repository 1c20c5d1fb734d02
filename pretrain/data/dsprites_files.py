"""Reads the genuine files behind Multi-dSprites, where a user has them.

Two kinds: the published array of all 737,280 sprites, and the processed images and masks that the
GENESIS release makes from it. Both are checked for what they should hold before they are used.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from envs.scene import NUM_DSPRITES
from pretrain.data.images import ImageBatch

_PLACES = (".", "processed", "multi_dsprites", "multi_dsprites/processed", "dsprites")
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def _find(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir needs to be a folder, but {folder} is none.")
    return next((p for place in _PLACES if (p := folder / place / name).is_file()), None)


class DspritesArray:
    """All dSprites as bits: 377 MB in memory, instead of the 3 GB that the file unpacks to.

    Args:
        path: The published .npz file. Only its array `imgs` is read, in pieces; nothing is
            unpickled.
        device: Where to keep the sprites.
    """

    FILE: ClassVar = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        self.path = path
        try:
            packed = self._read()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
            raise ValueError(
                f"{path} is not a readable dSprites file ({error}); download it again."
            ) from error
        self._packed = torch.from_numpy(packed).to(device)  # [sprites, 64, 8]
        self._places = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)

    @classmethod
    def find(cls, folder: Path, device: torch.device | str = "cpu") -> "DspritesArray | None":
        """The array in this folder, if it is there."""
        path = _find(folder, cls.FILE)
        return None if path is None else cls(path, device)

    def shapes(self, index: Tensor) -> Tensor:
        """`[..., 64, 64]` bool: the sprites at these positions of the array."""
        octets = self._packed[index]  # [..., 64, 8]
        return ((octets[..., None] >> self._places) & 1).flatten(-2).bool()

    def _read(self) -> np.ndarray:
        with np.load(self.path, allow_pickle=False) as archive:
            if "imgs" not in archive.files:
                raise KeyError("it has no array 'imgs'")
            with archive.zip.open("imgs.npy") as stream:
                return self._pack(stream)

    def _pack(self, stream: Any) -> np.ndarray:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
        if shape != (NUM_DSPRITES, 64, 64) or dtype != np.uint8 or fortran:
            raise ValueError(
                f"{self.path}: `imgs` needs to be uint8 of shape {(NUM_DSPRITES, 64, 64)}, but is "
                f"{dtype} of shape {shape}."
            )
        packed = np.empty((NUM_DSPRITES, 64, 8), dtype=np.uint8)
        piece = 4096  # sprites: 17 MB
        for start in tqdm(range(0, NUM_DSPRITES, piece), desc=f"reading {self.path.name}"):
            count = min(piece, NUM_DSPRITES - start)
            raw = stream.read(count * 4096)
            if len(raw) < count * 4096:
                raise EOFError(f"it ends after {start + len(raw) // 4096} sprites")
            sprites = np.frombuffer(raw, dtype=np.uint8).reshape(count, 64, 64)
            if sprites.max() > 1:
                raise ValueError(
                    f"{self.path}: pixels need to be 0 or 1, but sprites {start} to "
                    f"{start + count - 1} hold {sprites.max()}."
                )
            packed[start : start + count] = np.packbits(sprites, axis=-1)
        return packed


class ProcessedFiles:
    """One split as the GENESIS release stores it: float images and masks, mapped from disk.

    Args:
        images_path: float32 `(N, 64, 64, 3)` in [0, 1].
        masks_path: float64 `(N, 64, 64, 1)`, 0 for background and k for the k-th sprite.
    """

    def __init__(self, images_path: Path, masks_path: Path):
        self.images_path = images_path
        self._images = self._map(images_path, 3, np.float32)
        self._masks = self._map(masks_path, 1, np.float64)
        if len(self._images) != len(self._masks):
            raise ValueError(
                f"{images_path} holds {len(self._images)} images, but {masks_path.name} holds "
                f"{len(self._masks)} masks; they need to be of one run."
            )

    @staticmethod
    def names(split: str, unique: bool) -> tuple[str, str]:
        """The file names of images and masks."""
        kind = "rand4_unique" if unique else "rand4"
        name = _SPLIT_NAMES[split]
        return f"{name}_images_{kind}.npy", f"{name}_masks_{kind}.npy"

    @classmethod
    def find(cls, folder: Path, split: str, unique: bool) -> "ProcessedFiles | None":
        """The files of this split in this folder, if they are there."""
        images, masks = cls.names(split, unique)
        path = _find(folder, images)
        if path is None:
            return None
        if not path.with_name(masks).is_file():
            raise FileNotFoundError(f"{path} needs {masks} beside it, which is missing.")
        return cls(path, path.with_name(masks))

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, rows: Tensor) -> ImageBatch:
        """Images and masks of these rows, as uint8 on the rows' device."""
        where = rows.cpu().numpy()
        images, masks = self._images[where], self._masks[where][..., 0]
        for array, top, path in ((images, 1, self.images_path), (masks, 4, "its masks")):
            if not ((array >= 0) & (array <= top)).all():  # NaN fails too
                raise ValueError(f"{path}: values need to be within 0 and {top} (rows {where}).")
        return ImageBatch(
            torch.from_numpy(np.rint(images * 255).astype(np.uint8)).to(rows.device),
            torch.from_numpy(masks.astype(np.uint8)).to(rows.device),
        )

    @staticmethod
    def _map(path: Path, channels: int, dtype: type) -> np.ndarray:
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a readable array ({error}); copy it again.") from error
        if array.shape[1:] != (64, 64, channels) or array.dtype != dtype:
            raise ValueError(
                f"{path} needs to hold {np.dtype(dtype)} of shape (N, 64, 64, {channels}), but "
                f"holds {array.dtype} of shape {array.shape}."
            )
        return array

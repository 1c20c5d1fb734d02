"""Which datasets lie in a folder, told by the files that their readers look for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """A dataset on disk.

    Attributes:
        name: What `pretrain.data.load` calls it, with the variant; "compact" for a compact form.
        folder: The `data_dir` to give with it.
    """

    name: str
    folder: Path


def datasets_in(folder: Path) -> list[Found]:
    """The datasets in a folder, or right below it.

    Raises:
        FileNotFoundError: There is no such folder, or nothing in it that a reader knows.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} needs to be a folder with a dataset, but is none.")
    found = list(dict.fromkeys(_find(folder)))
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no dataset: neither train/*.tfrecord (gqn), recordings (shapestacks), "
            "multi_dsprites_*.tfrecords, *_images_rand4.npy nor a compact form's manifest.json."
        )
    return found


def _find(folder: Path) -> Iterator[Found]:
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *below):
        if any(any((place / split).glob("*.tfrecord")) for split in ("train", "test")):
            yield Found(f"gqn:{place.name}", place)
        if (place / "recordings").is_dir():
            lists = place / "splits"
            names = {path.name for path in lists.iterdir()} if lists.is_dir() else {"default"}
            for variant in sorted(names, key=lambda name: (name != "default", name)):
                yield Found(f"shapestacks:{variant}", place)
        for path in sorted(place.glob("multi_dsprites_*.tfrecords")):
            yield Found(f"dm_multi_dsprites:{path.stem.removeprefix('multi_dsprites_')}", place)
        if (place / "images.u8").is_file() or (place / "manifest.json").is_file():
            yield Found("compact", place)
    for place in (folder, *below, *(path / "processed" for path in below)):
        if place.is_dir() and any(place.glob("*_images_rand4*.npy")):
            yield Found("multi_dsprites", place)

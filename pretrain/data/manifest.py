"""What a generated folder says of itself: a marker for its readers, and the journal behind it.

genesis_rl.json         generator, settings, whether it is complete, SHA-256 and size of each file
.genesis_rl.journal     a line per finished unit of work, with its files; how it goes on
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from genesis_rl import __version__
from genesis_rl.durable import parse_json, replace_file, to_json

MARKER = "genesis_rl.json"
JOURNAL = ".genesis_rl.journal"


class Written(NamedTuple):
    """What a recipe wrote to a file.

    Attributes:
        sha256: Of the whole file, in hexadecimal.
        bytes: Its size.
        records: Records that a TFRecord file holds; None for other files.
        note: What `Recipe.finish` wants to know of it, such as sums of pixels; anything that JSON
            can hold. Kept in the journal, and not in the marker.
    """

    sha256: str
    bytes: int
    records: int | None = None
    note: Any = None

    def entry(self) -> dict[str, Any]:
        """What the marker says of it."""
        counted = {} if self.records is None else {"records": self.records}
        return {"sha256": self.sha256, "bytes": self.bytes, **counted}


def find_marker(folder: Path) -> Path | None:
    """The marker of a dataset's folder, which lies in it or right above; None for genuine data."""
    places = (folder / MARKER, folder.parent / MARKER)
    return next((path for path in places if path.is_file()), None)


def read_marker(path: Path) -> dict[str, Any]:
    """A marker, checked for what this program relies on; what it leaves out is filled in.

    Raises:
        ValueError: It is damaged.
    """
    state = path.stat()
    return _parse_marker(path, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=2)  # of 300,000 files it takes a second to parse, and is asked for repeatedly
def _parse_marker(path: Path, *_: int) -> dict[str, Any]:
    marker = {"complete": True, "files": {}, "settings": {}, "generator": "unknown"}
    marker |= parse_json(path.read_bytes(), path)
    files = marker["files"]
    sound = (
        isinstance(marker["complete"], bool)
        and isinstance(marker["settings"], dict)
        and isinstance(marker["generator"], str)
        and isinstance(files, dict)
        and all(isinstance(entry, dict) for entry in files.values())
        and all(type(entry.get("records", 0)) is int for entry in files.values())
    )
    if not sound:
        raise ValueError(f"{path} is damaged; make or copy the dataset again.")
    return marker


def check_complete(folder: Path) -> dict[str, Any] | None:
    """The marker of a dataset's folder, None for genuine data.

    Raises:
        ValueError: The dataset is being made, or making it was interrupted.
    """
    path = find_marker(folder)
    marker = None if path is None else read_marker(path)
    if marker is not None and not marker["complete"]:
        raise ValueError(
            f"{folder} is not complete: generating it was interrupted or goes on right now; wait "
            "for it, or run the command again that began it."
        )
    return marker


def source_of(folder: Path) -> str:
    """Where a folder's images come from, in words that go into logs and model cards."""
    marker = check_complete(folder)
    if marker is None:
        return f"files in {folder}"
    textures = marker["settings"].get("textures")
    return f"generated ({marker['generator']}{f', {textures} textures' if textures else ''})"


class Journal:
    """The units of a dataset that are done, on disk as soon as they are.

    Args:
        root: The dataset's folder.
        identity: `dataset`, `settings` and `images` of what is made there; ready for JSON.
    """

    def __init__(self, root: Path, identity: dict[str, Any]):
        self.root = root
        self.identity = json.loads(json.dumps(identity))  # tuples become lists, as in the file
        self.units: dict[int, dict[str, Written]] = {}

    def is_complete(self) -> bool:
        """Whether everything is there, as far as names and sizes tell.

        Raises:
            ValueError: The folder holds something else.
        """
        path = self.root / MARKER
        if not path.is_file():
            self._require_empty()
            return False
        marker = read_marker(path)
        self._require_same(marker)
        if not marker["complete"]:
            return False
        sizes = {name: entry.get("bytes", 0) for name, entry in marker["files"].items()}
        return all(_size(self.root / name) == size for name, size in sizes.items())

    def open(self) -> None:
        """Reads what an earlier process noted, and says on disk that work is going on."""
        path = self.root / JOURNAL
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        sound = [line for line in lines if (note := _parse_line(line)) and self._note(*note)]
        if lines != sound:  # the last one may have been cut short
            replace_file(path, b"".join(sound))
        replace_file(self.root / MARKER, to_json(self._marker(complete=False)))

    def drop(self, units: Iterable[int]) -> None:
        """Forgets these units, so that they are made again."""
        for unit in units:
            self.units.pop(unit, None)

    def damaged(self, unit: int) -> bool:
        """Whether a file of a unit is gone or, after a power cut, not what was noted."""
        return any(
            hash_file(self.root / name) != written.sha256
            for name, written in self.units[unit].items()
        )

    def add(self, unit: int, files: dict[str, Written]) -> None:
        """Notes a unit as done. Its line is on the disk when this returns."""
        with (self.root / JOURNAL).open("ab") as file:
            file.write(_line(unit, files))
            file.flush()
            os.fsync(file.fileno())
        self.units[unit] = files

    def files(self) -> dict[str, Written]:
        """All files by relative path, in the order of the units."""
        return {name: w for unit in sorted(self.units) for name, w in self.units[unit].items()}

    def complete(self) -> None:
        """Says that all is there, once the disk has it."""
        lines = [_line(unit, self.units[unit]) for unit in sorted(self.units)]
        replace_file(self.root / JOURNAL, b"".join(lines))
        os.sync()
        replace_file(self.root / MARKER, to_json(self._marker(complete=True)))

    def _note(self, unit: int, files: dict[str, Written]) -> bool:
        self.units[unit] = files
        return True

    def _marker(self, complete: bool) -> dict[str, Any]:
        files = {name: w.entry() for name, w in self.files().items()} if complete else {}
        generator = f"genesis-rl {__version__}"
        return {"generator": generator, **self.identity, "complete": complete, "files": files}

    def _require_empty(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise ValueError(f"{self.root} needs to be a folder, but is a file; use another one.")
        found = next((p.name for p in self.root.iterdir() if not p.name.startswith(".")), None)
        # Another process may have begun just now; its marker comes before anything else.
        if found is not None and not (self.root / MARKER).is_file():
            raise ValueError(
                f"{self.root} holds {found} and no {MARKER}, so it was not generated; datasets are "
                "generated into a folder of their own, use another one."
            )

    def _require_same(self, marker: dict[str, Any]) -> None:
        held = {"dataset": marker.get("dataset"), "images": marker.get("images")}
        held |= marker["settings"]
        wanted = {"dataset": self.identity["dataset"], "images": self.identity["images"]}
        wanted |= self.identity["settings"]
        names = [n for n in {**wanted, **held} if held.get(n) != wanted.get(n)]
        if names:
            was = ", ".join(f"{name}={held.get(name)!r}" for name in names)
            now = ", ".join(f"{name}={wanted.get(name)!r}" for name in names)
            raise ValueError(
                f"{self.root} was begun with {was}, but {now} is asked for now; use another folder "
                "or delete this one."
            )


def hash_file(path: Path) -> str | None:
    """The SHA-256 of a file in hexadecimal; None if there is no such file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _line(unit: int, files: dict[str, Written]) -> bytes:
    text = json.dumps({"unit": unit, "files": files}, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse_line(line: bytes) -> tuple[int, dict[str, Written]] | None:
    """A line of the journal; None if it is damaged or was cut short."""
    try:
        if not line.endswith(b"\n") or int(line[:8], 16) != zlib.crc32(line[9:-1]):
            return None
        note = json.loads(line[9:])
        return note["unit"], {name: Written(*values) for name, values in note["files"].items()}
    except (ValueError, KeyError, TypeError):
        return None

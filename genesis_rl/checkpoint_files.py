"""The three files of a checkpoint's folder, none of which is trusted before it is checked.

Everything is compared with `manifest.json`, sizes before a byte is read: safetensors has no
checksum itself, and nobody vouches for the length of a file from elsewhere.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genesis_rl.durable import parse_json, to_json

WEIGHTS, CONFIG, MANIFEST = "model.safetensors", "config.json", "manifest.json"

_MAX_JSON_BYTES = 1 << 20
_PIECE = 1 << 20  # bytes


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """Returns the manifest of files: the SHA-256 and the bytes of each."""
    digests = {
        file: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for file, data in files.items()
    }
    return to_json({"files": digests})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns `{file: {"sha256": hexadecimal, "bytes": size}}`, weights and config among them.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "model" / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} is a run; its checkpoint is {folder / 'model'}")
        raise FileNotFoundError(
            f"{folder} is no checkpoint: {MANIFEST} is missing (expected {WEIGHTS}, {CONFIG} and "
            f"{MANIFEST}, as save_checkpoint writes them)"
        )
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_JSON_BYTES} bytes, so it is not read")
    files = parse_json(path.read_bytes(), path).get("files")
    for file in (WEIGHTS, CONFIG):
        line = files.get(file) if isinstance(files, dict) else None
        digest = line.get("sha256") if isinstance(line, dict) else None
        size = line.get("bytes") if isinstance(line, dict) else None
        hexadecimal = isinstance(digest, str) and len(digest) == 64
        if not (hexadecimal and set(str(digest)) <= set("0123456789abcdef") and type(size) is int):
            raise ValueError(f"{path} is damaged: no sha256 and bytes for {file}; copy it again")
    return dict(files)  # type: ignore[arg-type]


def read_checked(
    folder: Path, file: str, manifest: dict[str, Any], limit: int | None = None
) -> bytes:
    """Reads a file whose size and SHA-256 must be the manifest's.

    Args:
        folder: The checkpoint's.
        file: Its name.
        manifest: As `read_manifest` returns it.
        limit: Most bytes to read; of the config no more than any config has.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is damaged, or larger than the limit.
    """
    path, size = folder / file, _check_size(folder, file, manifest)
    limit = _MAX_JSON_BYTES if limit is None and file == CONFIG else limit
    if limit is not None and size > limit:
        raise ValueError(f"{path}: at most {limit} bytes fit its model, but it has {size}")
    data = path.read_bytes()
    _check_hash(path, hashlib.sha256(data).hexdigest(), manifest[file]["sha256"])
    return data


def hash_checked(folder: Path, file: str, manifest: dict[str, Any]) -> bytes:
    """Returns the SHA-256 of a file, checked likewise, but of any size: it is read in pieces."""
    _check_size(folder, file, manifest)
    content = hashlib.sha256()
    with (folder / file).open("rb") as stream:
        while piece := stream.read(_PIECE):
            content.update(piece)
    _check_hash(folder / file, content.hexdigest(), manifest[file]["sha256"])
    return content.digest()


def _check_size(folder: Path, file: str, manifest: dict[str, Any]) -> int:
    """Returns a file's bytes, which must be as many as the manifest says."""
    path, expected = folder / file, manifest[file]["bytes"]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, so the checkpoint is incomplete; copy it again"
        )
    size = path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} is damaged: {size} bytes, not {expected}; copy it again")
    return size


def _check_hash(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the manifest's; copy it again")

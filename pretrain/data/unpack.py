"""Unpacks an archive of data that nobody vouches for: regular files only, inside one folder.

    python -m pretrain.data unpack shapestacks-rgb.tar.gz DIR --sha256 0123...

Takes tar (plain, gzip or bzip2) and zip files. Links, devices, absolute names and names that lead
out of the folder end it, and so does more data than the archive could plausibly hold. A file
appears under its name when it is complete; a second run passes over those that are there already.
"""

from __future__ import annotations

import bz2
import errno
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn, cast

from tqdm import tqdm

MAX_FILES = 5_000_000
MAX_RATIO = 100  # unpacked bytes for every byte of the archive; pictures hardly shrink at all
_ALLOWANCE = 64 << 20  # bytes that even the smallest archive may hold
_MAX_HEADER = 1 << 20  # bytes of a name or an extended header, which are held in memory
_PIECE = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


class Unpacked(NamedTuple):
    """What an archive held.

    Attributes:
        sha256: Of the archive, in hexadecimal.
        files: Regular files in it.
        bytes: Their size.
        kept: How many of them were there already.
    """

    sha256: str
    files: int
    bytes: int
    kept: int


class _Member(NamedTuple):
    name: str
    size: int
    stream: IO[bytes]


def unpack(
    archive: Path, folder: Path, *, sha256: str | None = None, progress: bool = True
) -> Unpacked:
    """Unpacks an archive into a folder, which is made if it does not exist.

    Args:
        archive: A tar or zip file.
        folder: Nothing is written outside of it.
        sha256: What the archive's hash needs to be.
        progress: Whether to show bars.

    Raises:
        ValueError: The archive is damaged, hostile, of another kind or of another hash, or a file
            of another content is in the way. What was unpacked until then is sound.
        OSError: The disk is full.
    """
    size = archive.stat().st_size
    with archive.open("rb") as raw:
        found = _hash(raw, size, progress)
        if sha256 is not None and found != sha256.strip().lower():
            raise ValueError(f"{archive} needs to have SHA-256 {sha256}, but has {found}.")
        folder.mkdir(parents=True, exist_ok=True)
        target = _Target(folder, archive, MAX_RATIO * size + _ALLOWANCE)
        bar = _bar(f"unpacking {archive.name}", size, progress)
        lock = _lock(folder)
        try:
            for member in _members(archive, raw, target.limit):
                target.put(member)
                bar.update(raw.tell() - bar.n)
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # the disk's fault; a wrong offset in a zip file is an invalid argument
            raise ValueError(
                f"{archive} is damaged ({error}); copy it again, and unpack it into a new folder."
            ) from error
        finally:
            bar.close()
            os.close(lock)
    return Unpacked(found, target.files, target.bytes, target.kept)


class _Target:
    """A folder that files are put into, and limits to what it takes."""

    def __init__(self, folder: Path, archive: Path, limit: int):
        self.folder, self._archive, self.limit = folder.resolve(), archive, limit
        self.files = self.bytes = self.kept = 0

    def put(self, member: _Member) -> None:
        """Writes a file, or compares it with the one that is there."""
        name = safe_name(member.name, self._archive)
        path = self.folder / name
        # A link that lies in the folder already could lead out of it.
        if not path.parent.resolve().is_relative_to(self.folder) or path.is_symlink():
            raise ValueError(f"{self._archive}: {name} would be written through a link; refused.")
        self.files, self.bytes = self.files + 1, self.bytes + member.size
        if self.bytes > self.limit or self.files > MAX_FILES:
            raise ValueError(
                f"{self._archive}: {name} would make it {self.bytes} bytes in {self.files} files, "
                f"more than the {self.limit} bytes and {MAX_FILES} files that are plausible."
            )
        if path.exists():
            if not path.is_file() or not _equal(path, member):
                raise ValueError(
                    f"{path} is there already with other content than in {self._archive}; unpack "
                    "into another folder."
                )
            self.kept += 1
            return
        free = shutil.disk_usage(self.folder).free
        if member.size > free:
            raise OSError(errno.ENOSPC, f"{path} needs {member.size} bytes, but {free} are free")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"{path} needs to lie in a folder, but a file is there.") from error
        _write(path, member)


def safe_name(name: str, archive: Path) -> str:
    """A member's name, as a relative path that stays inside of a folder.

    Raises:
        ValueError: It does not.
    """
    parts = PurePosixPath(name).parts
    wrong = (
        not parts
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or (len(parts[0]) > 1 and parts[0][1] == ":")
        or not name.isprintable()
        or any(len(part.encode()) > 200 for part in parts)
        or len(parts) > 32
    )
    if wrong:
        raise ValueError(f"{archive}: a member is called {name[:200]!r}, which is no safe name.")
    return PurePosixPath(*parts).as_posix()


def _members(archive: Path, raw: BinaryIO, limit: int) -> Iterator[_Member]:
    """The regular files of an archive, in its order."""
    start = raw.read(8)
    raw.seek(0)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_members(archive, raw)
    if start[:2] == b"\x1f\x8b":
        return _tar_members(archive, cast(BinaryIO, gzip.GzipFile(fileobj=raw)), limit)
    if start[:3] == b"BZh":
        return _tar_members(archive, cast(BinaryIO, bz2.BZ2File(raw)), limit)
    if start[:6] == b"\xfd7zXZ\x00":
        raise ValueError(f"{archive} is compressed with xz; run xz -d on it first.")
    return _tar_members(archive, raw, limit)


def _zip_members(archive: Path, raw: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(raw) as opened:
        listed = opened.infolist()
        for info in listed:  # all of them before the first is written
            mode = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir():
                safe_name(info.filename, archive)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                raise ValueError(
                    f"{archive}: {info.filename} is a link, a device or encrypted; refused."
                )
        for info in listed:
            if not info.is_dir():
                with opened.open(info) as stream:
                    yield _Member(info.filename, info.file_size, stream)


def _tar_members(archive: Path, stream: BinaryIO, limit: int) -> Iterator[_Member]:
    forward = _Forward(stream, limit + (MAX_FILES << 11))
    with tarfile.open(fileobj=cast(IO[bytes], forward), mode="r:") as opened:
        while (info := opened.next()) is not None:
            cast(Any, opened).members.clear()  # it would keep all of them in memory
            if info.isdir():
                continue  # folders are made for the files in them
            if not info.isreg() or info.issparse():
                raise ValueError(
                    f"{archive}: {info.name[:200]!r} is a link, a device or a sparse file; refused."
                )
            content = opened.extractfile(info)
            assert content is not None  # it is regular
            yield _Member(info.name, info.size, content)
    # A damaged header reads like the end, which has a block of zeros; gzip's sum comes last of all.
    if forward.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("a header is damaged, or its end is missing")
    while forward.read(_PIECE):
        pass


class _Forward(io.RawIOBase):
    """A stream that is read once, in pieces of a bounded size, up to a bounded length.

    `tarfile` reads a name or an extended header, whatever length it announces, in one piece.
    """

    def __init__(self, stream: BinaryIO, limit: int):
        self._stream, self._limit, self._position = stream, limit, 0
        self.last = b""  # what the last call of `read` gave

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header announces {size} bytes")
        pieces = []
        while size and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self._position += len(data)
        self.last = data
        if self._position > self._limit:
            raise tarfile.ReadError("it unpacks to more than is plausible")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("its members do not follow one another")
        while self._position < offset and self.read(min(_PIECE, offset - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _lock(folder: Path) -> int:
    """A lock on the folder itself, held until this is closed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"another process unpacks into {folder}; wait for it.") from None
    return handle


def _pieces(member: _Member) -> Iterator[bytes]:
    """The content of a member, which has to be as long as announced."""
    left = member.size
    while left and (piece := member.stream.read(min(_PIECE, left))):
        left -= len(piece)
        yield piece
    if left or member.stream.read(1):
        raise EOFError(f"{member.name} is not as long as announced")


def _write(path: Path, member: _Member) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # what a killed process left is overwritten
    try:
        with temporary.open("wb") as file:
            for piece in _pieces(member):
                file.write(piece)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _equal(path: Path, member: _Member) -> bool:
    if path.stat().st_size != member.size:
        return False
    with path.open("rb") as file:
        return all(file.read(len(piece)) == piece for piece in _pieces(member))


def _hash(raw: BinaryIO, size: int, progress: bool) -> str:
    digest = hashlib.sha256()
    with _bar("SHA-256", size, progress) as bar:
        while piece := raw.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
    raw.seek(0)
    return digest.hexdigest()


def _bar(label: str, size: int, progress: bool) -> tqdm[NoReturn]:
    return tqdm(total=size, desc=label, unit="B", unit_scale=True, disable=not progress)


def run(archive: str, folder: str, sha256: str | None) -> int:
    """Unpacks, and says what came of it."""
    done = unpack(
        Path(archive).expanduser(),
        Path(folder).expanduser(),
        sha256=sha256,
        progress=sys.stderr.isatty(),
    )
    print(f"SHA-256 {done.sha256}  {archive}")
    there = f", {done.kept} of them there already" if done.kept else ""
    print(f"{folder}: {done.files} files, {done.bytes / 1e9:.2f} GB{there}")
    return 0

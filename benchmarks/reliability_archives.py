"""Archives that try to write where they were not asked to, or more than they seem to hold."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile


def regular(name: str, data: bytes = b"content") -> tuple[tarfile.TarInfo, bytes]:
    """A file as a member of a tar archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A link, a device or a folder as a member of a tar archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(*members: tuple[str, bytes, int]) -> bytes:
    """A zip archive of names, contents and file modes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


HOSTILE = {
    "parent": tar(regular("fine"), regular("../out")),
    "parent within": tar(regular("a/../../out")),
    "absolute": tar(regular("/tmp/genesis-out")),
    "symbolic link": tar(special("link", tarfile.SYMTYPE, ".."), regular("link/out")),
    "hard link": tar(special("link", tarfile.LNKTYPE, "../secret")),
    "fifo": tar(special("fifo", tarfile.FIFOTYPE)),
    "device": tar(special("null", tarfile.CHRTYPE)),
    "drive": tar(regular("C:\\out")),
    "control characters": tar(regular("a\x1b[2Jb")),
    "no name": tar(regular(".")),
    "long name": tar(regular("a" * 300)),
    "zip parent": zipped(("fine", b"", 0), ("../out", b"", 0)),
    "zip absolute": zipped(("/out", b"", 0)),
    "zip symbolic link": zipped(("link", b"..", stat.S_IFLNK)),
    "zip bomb": zipped(("zeros", bytes(80 << 20), 0)),
    "gzip bomb": gzip.compress(tar(regular("zeros", bytes(80 << 20))), 6),
}

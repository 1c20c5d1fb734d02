"""TFRecord files without TensorFlow: framing, checksums, GZIP, and no trust.

A record is a little-endian uint64 length, the masked CRC-32C of these 8 bytes, the payload, and
the masked CRC-32C of the payload. There is no header, footer or index. Every checksum is checked,
and a length is compared with the file's before a byte of it is allocated. Random access is in
`pretrain/data/record_file.py`.
"""

import gzip
import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import google_crc32c

OnCorrupt = Literal["stop", "skip"]

MAX_RECORD = 1 << 26  # bytes; the largest genuine records have 3 MB (300 frames of 84 x 84 pixels)
MAX_LOSS = 0.001  # of all records; more damage than that is no accident to read past

BAD_PAYLOAD = "its payload does not match its checksum; the file is damaged"
HEADER = struct.Struct("<QI")
CRC = struct.Struct("<I")


class RecordError(ValueError):
    """A damaged record, named by file, number and the byte at which it begins."""

    def __init__(self, path: Path, number: int, offset: int, what: str):
        super().__init__(f"{path}: record {number} at byte {offset}: {what}")
        self.path, self.number, self.offset = path, number, offset


class TooManyLostError(ValueError):
    """More records are damaged than may be left out."""


class Record(NamedTuple):
    """One record: its number within the file, the byte at which it begins, and its payload."""

    number: int
    offset: int
    payload: bytes


class Summary(NamedTuple):
    """What was written to a file."""

    records: int
    bytes: int
    sha256: str


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, rotated and shifted."""
    return mask_crc(google_crc32c.value(data))


def mask_crc(crc: Any) -> Any:
    """Rotates and shifts a checksum, or int64 of them."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame_record(payload: bytes) -> bytes:
    """A payload with its length and checksums around it."""
    length = struct.pack("<Q", len(payload))
    ends = CRC.pack(masked_crc32c(length)), CRC.pack(masked_crc32c(payload))
    return length + ends[0] + payload + ends[1]


def write_records(path: Path, payloads: Iterable[bytes]) -> Summary:
    """Writes an uncompressed file, which appears under its name only when it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    digest, count, size = hashlib.sha256(), 0, 0
    try:
        with temporary.open("wb") as file:
            for payload in payloads:
                record = frame_record(payload)
                file.write(record)
                digest.update(record)
                count, size = count + 1, size + len(record)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Summary(count, size, digest.hexdigest())


class Losses:
    """Counts the records that were left out, and gives up when they are too many.

    Args:
        on_corrupt: "stop" raises at the first damaged record; "skip" leaves it out, with a warning
            for every file, as long as at most 0.1 % of all records are damaged.
    """

    def __init__(self, on_corrupt: OnCorrupt = "stop"):
        if on_corrupt not in ("stop", "skip"):
            raise ValueError(f"on_corrupt needs to be 'stop' or 'skip', but is {on_corrupt!r}.")
        self.on_corrupt = on_corrupt
        self.lost = self.seen = 0
        self._first: RecordError | None = None

    def add(self, error: RecordError) -> None:
        """Takes note of a damaged record, or raises it."""
        if self.on_corrupt == "stop":
            raise error
        self.lost += 1
        self._first = self._first or error
        # Not everybody reads to the end of a file: a judgement as if it had 5,000 records.
        self._judge(max(self.seen + error.number + 1, 5000))

    def end_file(self, path: Path, records: int, lost: int) -> None:
        """Takes note of a file's end; raises if too much is damaged by now."""
        self.seen += records
        self._judge(self.seen)
        if lost:
            warnings.warn(
                f"{path}: {lost} of {records} records are damaged and left out", stacklevel=3
            )

    def _judge(self, seen: int) -> None:
        if self.lost > MAX_LOSS * seen:
            raise TooManyLostError(
                f"{self._first}; damaged records: {self.lost}, more than {MAX_LOSS:.1%} of {seen}. "
                "Copy the files again."
            )


def read_records(path: Path, losses: Losses | None = None) -> Iterator[Record]:
    """Reads a plain or GZIP file from its beginning to its end.

    Raises:
        RecordError: A record is damaged. With `on_corrupt="skip"` one with a sound length is left
            out; after a damaged length, or in a damaged GZIP stream, nothing can be found again.
    """
    losses = losses or Losses()
    lost, number, offset = losses.lost, 0, 0
    with path.open("rb", buffering=1 << 20) as raw:
        size = os.fstat(raw.fileno()).st_size
        stream, size = (raw, size) if not _is_gzip(raw) else (gzip.GzipFile(fileobj=raw), 1 << 62)
        try:
            while header := stream.read(HEADER.size):
                length = record_length(header, size - offset)
                payload, crc = stream.read(length), stream.read(4)
                if problem := payload_problem(payload, crc, length):
                    losses.add(RecordError(path, number, offset, problem))
                else:
                    yield Record(number, offset, payload)
                number, offset = number + 1, offset + length + 16
        except (RecordError, TooManyLostError):
            raise
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise RecordError(path, number, offset, str(error)) from error
    losses.end_file(path, number, losses.lost - lost)


def record_length(header: bytes, rest: int) -> int:
    """The length that a header announces, if it can be believed."""
    if len(header) < HEADER.size:
        raise ValueError(f"the file ends within the record's header ({len(header)} of 12 bytes)")
    length: int
    length, crc = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise ValueError("its length does not match its checksum; the file is damaged")
    if length > MAX_RECORD:
        raise ValueError(f"it announces {length} bytes, more than the {MAX_RECORD} allowed")
    if length + 16 > rest:
        raise ValueError(f"it announces {length} bytes, but the file ends {rest} bytes after it")
    return length


def payload_problem(payload: bytes, crc: bytes, length: int) -> str | None:
    """What is wrong with a payload that should have this length and checksum."""
    if len(payload) < length or len(crc) < 4:
        return f"the file ends within its {length} bytes"
    if masked_crc32c(payload) != CRC.unpack(crc)[0]:
        return BAD_PAYLOAD
    return None


def _is_gzip(file: BinaryIO) -> bool:
    """Whether a file is compressed. A sound header wins: a length may begin with GZIP's bytes."""
    start = file.read(HEADER.size)
    file.seek(0)
    if start[:2] != b"\x1f\x8b":
        return False
    return len(start) < 12 or masked_crc32c(start[:8]) != HEADER.unpack(start)[1]

"""Random access to uncompressed TFRecord files, and many neighbouring records in one go."""

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from pretrain.data.tfrecord import (
    BAD_PAYLOAD,
    CRC,
    HEADER,
    Losses,
    RecordError,
    mask_crc,
    payload_problem,
    record_length,
)

_BLOCK = 1 << 24  # bytes of neighbouring records that are handed out together
_GROUP = 32  # records that are read before their checksums: about as many as a CPU's cache holds


class Block(NamedTuple):
    """Neighbouring records of a file, read and checked together.

    Attributes:
        path: The file.
        numbers: `[records]` int64: which they are within the file.
        data: `[bytes]` uint8 that hold all of them.
        starts: `[records]` int64: where in the bytes each payload begins.
        stops: `[records]` int64: where it ends.
    """

    path: Path
    numbers: np.ndarray
    data: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def payloads(self) -> Iterator[bytes]:
        """The payloads one by one."""
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.data[start:stop].tobytes()

    def name(self, k: int) -> str:
        """What to call the record at this place of the block."""
        return f"{self.path}: record {self.numbers[k]}"


class RecordFile:
    """Random access to an uncompressed file, by an index that is made when it is first needed.

    Args:
        path: The file.
        losses: What to do with damage. "skip" reads the whole file to make the index, so that
            numbers count sound records only.
    """

    def __init__(self, path: Path, losses: Losses | None = None):
        self.path, self._losses = path, losses or Losses()
        self._spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def offsets(self) -> np.ndarray:
        """`[records]` int64: the byte at which each record begins."""
        return self.spans[:, 0]

    @property
    def spans(self) -> np.ndarray:
        """`[records, 2]` int64: the bytes at which each record begins and ends."""
        if self._spans is None:
            with self.path.open("rb") as file:
                index = self._skim(file) if self._losses.on_corrupt == "stop" else self._sift(file)
            self._spans = np.array(index, dtype=np.int64).reshape(-1, 2)
        return self._spans

    def read(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The payloads of these records, checked. Safe to call from several threads at once."""
        for block in self.blocks(numbers):
            yield from block.payloads()

    def blocks(self, numbers: Iterable[int]) -> Iterator[Block]:
        """These records, checked, up to 16 MB of neighbours together. Safe in several threads."""
        wanted = np.fromiter(numbers, np.int64)
        begins, ends = self.spans[wanted].T
        apart = begins[1:] != ends[:-1]
        full = np.diff((ends - begins).cumsum() // _BLOCK) > 0
        cuts = [0, *(np.flatnonzero(apart | full) + 1).tolist(), len(wanted)]
        with self.path.open("rb") as file:
            for first, last in pairwise(cuts):
                if first < last:
                    yield self._block(file.fileno(), wanted[first:last])

    def _block(self, handle: int, numbers: np.ndarray) -> Block:
        """Reads neighbours and checks their payloads; the index has checked their lengths."""
        spans = self.spans[numbers]
        first = int(spans[0, 0])
        begins, ends = (spans - first).T.tolist()
        data = np.empty(ends[-1], np.uint8)
        crcs: list[int] = []
        for k in range(0, len(begins), _GROUP):
            group = slice(k, k + _GROUP)
            part = data[begins[k] : ends[group][-1]]
            if os.preadv(handle, [part.data], first + begins[k]) < len(part):
                problem = f"the file ends within {len(part)} bytes that were there before"
                raise RecordError(self.path, int(numbers[k]), first + begins[k], problem)
            for begin, end in zip(begins[group], ends[group], strict=True):
                crcs.append(google_crc32c.value(data[begin + HEADER.size : end - CRC.size]))
        starts, stops = spans[:, 0] - first + HEADER.size, spans[:, 1] - first - CRC.size
        stored = np.ndarray(len(data) - 3, "<u4", data, strides=(1,))[stops]
        if len(wrong := np.flatnonzero(mask_crc(np.array(crcs)) != stored)):
            number, offset = int(numbers[wrong[0]]), int(spans[wrong[0], 0])
            raise RecordError(self.path, number, offset, BAD_PAYLOAD)
        return Block(self.path, numbers, data, starts, stops)

    def _skim(self, file: BinaryIO) -> list[tuple[int, int]]:
        """Hops from header to header; payloads are checked when they are read."""
        handle, offset = file.fileno(), 0
        size = os.fstat(handle).st_size
        index: list[tuple[int, int]] = []
        while offset < size:
            try:
                length = record_length(os.pread(handle, HEADER.size, offset), size - offset)
            except ValueError as error:
                raise RecordError(self.path, len(index), offset, str(error)) from error
            index.append((offset, offset + length + 16))
            offset += length + 16
        self._losses.end_file(self.path, len(index), 0)
        return index

    def _sift(self, file: BinaryIO) -> list[tuple[int, int]]:
        """Reads everything, and leaves out what is damaged."""
        handle, offset, lost = file.fileno(), 0, 0
        size = os.fstat(handle).st_size
        index: list[tuple[int, int]] = []
        while offset < size:
            number, end = len(index) + lost, None
            try:
                header = os.pread(handle, HEADER.size, offset)
                end = offset + record_length(header, size - offset) + 16
                _read_at(handle, offset, size)
                index.append((offset, end))
            except ValueError as error:
                self._losses.add(RecordError(self.path, number, offset, str(error)))
                lost += 1
            offset = end or _next_record(handle, offset, size)
        self._losses.end_file(self.path, len(index) + lost, lost)
        return index


def _read_at(handle: int, offset: int, size: int) -> bytes:
    """The payload of the record at this byte."""
    length = record_length(os.pread(handle, HEADER.size, offset), size - offset)
    payload = os.pread(handle, length, offset + HEADER.size)
    crc = os.pread(handle, 4, offset + HEADER.size + length)
    if problem := payload_problem(payload, crc, length):
        raise ValueError(problem)
    return payload


def _next_record(handle: int, offset: int, size: int) -> int:
    """The nearest byte after a damaged record at which a sound header begins."""
    start = offset + 1
    window = os.pread(handle, 1 << 20, start)
    # The upper half of a length is zero: only there is a checksum worth its time.
    found = window.find(b"\0\0\0\0", 4)
    while found >= 0:
        begin = found - 4
        try:
            record_length(window[begin : begin + HEADER.size], size - start - begin)
        except ValueError:
            found = window.find(b"\0\0\0\0", found + 1)
        else:
            return start + begin
    return size if start + len(window) >= size else start + len(window) - HEADER.size

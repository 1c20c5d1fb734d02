"""`tf.train.Example` messages without protobuf: read, with bounds checked, and written.

    Example { 1: Features { 1: map entry { 1: key, 2: Feature } } }
    Feature = one of { 1: BytesList   2: FloatList   3: Int64List }, each { 1: repeated value }

Any order of features, packed and unpacked numbers, and unknown fields are accepted.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3  # fields of Feature
_VARINT, _FIXED64, _CHUNK, _FIXED32 = 0, 1, 2, 5  # wire types


class BytesList:
    """The values of a bytes feature, cut out only when they are asked for.

    Args:
        data: The whole message.
        start: Where the list begins in it.
        stop: Where it ends.
    """

    def __init__(self, data: bytes, start: int, stop: int):
        self._data, self._start, self._stop = data, start, stop

    def spans(self) -> list[tuple[int, int]]:
        """Where in the message each value begins and ends."""
        return _chunks(self._data, self._start, self._stop)

    def values(self) -> list[bytes]:
        """All values."""
        return [self._data[start:stop] for start, stop in self.spans()]

    def octets(self) -> np.ndarray:
        """The values as uint8, of a list whose values are one byte each.

        DeepMind's multi-object sets store every pixel as a value of its own. Such a list is
        `0a 01 XX` repeated, which three slices see through 40 times faster than a loop.
        """
        raw = np.frombuffer(self._data, np.uint8, self._stop - self._start, self._start)
        if len(raw) % 3 == 0 and (raw[0::3] == 0x0A).all() and (raw[1::3] == 1).all():
            return raw[2::3]
        values = self.values()
        if any(len(value) != 1 for value in values):
            raise ValueError("every value of the list needs to be one byte, but some are not")
        return np.frombuffer(b"".join(values), np.uint8)


Feature = BytesList | np.ndarray


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised example: `BytesList`, float32 or int64 arrays.

    Raises:
        ValueError: The bytes are no such message; the text names the byte.
    """
    features: dict[str, Feature] = {}
    for start, stop in _chunks(data, 0, len(data)):  # Example.features
        for begin, end in _chunks(data, start, stop):  # entries of the map
            key, feature = _entry(data, begin, end)
            if feature is not None:
                features[key] = feature
    return features


def build_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """Serialises features in the order given; numbers are packed."""
    entries = []
    for key, value in features.items():
        if not isinstance(value, np.ndarray):
            kind, body = _BYTES, b"".join(_chunk(1, item) for item in value)
        elif value.dtype.kind == "f":
            kind, body = _FLOATS, _chunk(1, value.astype("<f4").tobytes())
        else:
            kind = _INTEGERS
            body = _chunk(1, b"".join(_to_varint(int(v) % (1 << 64)) for v in value.flat))
        entries.append(_chunk(1, _chunk(1, key.encode()) + _chunk(2, _chunk(kind, body))))
    return _chunk(1, b"".join(entries))


def _entry(data: bytes, start: int, stop: int) -> tuple[str, Feature | None]:
    """Key and value of one entry of the map. A feature of no known kind is None."""
    # What every writer makes: a short key, then one feature of one list. Half the time of below.
    if (
        stop - start > 4
        and data[start] == 0x0A
        and (size := data[start + 1]) < 0x80
        and (end := start + 2 + size) < stop
        and data[end] == 0x12
    ):
        length, begin = _varint(data, end + 1, stop)
        if begin + length == stop and length and (tag := data[begin]) in (0x0A, 0x12, 0x1A):
            length, begin = _varint(data, begin + 1, stop)
            if begin + length == stop:
                return data[start + 2 : end].decode(), _feature(data, tag >> 3, begin, stop)
    key, feature = "", None
    for field, wire, begin, end in _fields(data, start, stop):
        if wire != _CHUNK:
            continue
        if field == 1:
            key = data[begin:end].decode()
        elif field == 2:
            for kind, inner, first, last in _fields(data, begin, end):
                if inner == _CHUNK and kind in (_BYTES, _FLOATS, _INTEGERS):
                    feature = _feature(data, kind, first, last)
    return key, feature


def _feature(data: bytes, kind: int, start: int, stop: int) -> Feature:
    if kind == _BYTES:
        return BytesList(data, start, stop)
    if kind == _FLOATS:
        return _floats(data, start, stop)
    return _integers(data, start, stop)


def _floats(data: bytes, start: int, stop: int) -> np.ndarray:
    if start < stop and data[start] == 0x0A:
        length, begin = _varint(data, start + 1, stop)
        if begin + length == stop and length % 4 == 0:  # all of them in one chunk
            return np.frombuffer(data, "<f4", length // 4, begin)
    parts = []
    for field, wire, begin, end in _fields(data, start, stop):
        if field == 1 and wire in (_CHUNK, _FIXED32):
            if (end - begin) % 4:
                raise ValueError(f"byte {begin}: {end - begin} bytes are no whole float32 numbers")
            parts.append(data[begin:end])
    return np.frombuffer(b"".join(parts), "<f4")


def _integers(data: bytes, start: int, stop: int) -> np.ndarray:
    values = []
    for field, wire, begin, end in _fields(data, start, stop):
        if field == 1 and wire in (_CHUNK, _VARINT):
            while begin < end:
                value, begin = _varint(data, begin, end)
                values.append(value & 0xFFFFFFFFFFFFFFFF)
    return np.array(values, dtype=np.uint64).astype(np.int64)


def _chunks(data: bytes, position: int, stop: int) -> list[tuple[int, int]]:
    """Where each value of field 1 begins and ends, in a span that should hold nothing else."""
    found = []
    while position < stop:
        if data[position] != 0x0A:
            position = next(_fields(data, position, stop))[3]  # the end of an unknown field
            continue
        # Varints of two bytes are written out: with ten JPEG files of 2 kB in every record, this
        # loop decides how fast a file is read.
        if stop - position > 2 and (second := data[position + 2]) < 0x80 <= data[position + 1]:
            length = data[position + 1] & 0x7F | second << 7
            position += 3
        else:
            length, position = _varint(data, position + 1, stop)
        end = position + length
        if end > stop:
            raise ValueError(f"byte {position}: a value of {length} bytes exceeds its list")
        found.append((position, end))
        position = end
    return found


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, and where the value begins and ends, of everything in a span."""
    position = start
    while position < stop:
        tag = data[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _varint(data, position, stop)
        wire = tag & 7
        if wire == _CHUNK:
            length, position = _varint(data, position, stop)
        elif wire == _VARINT:
            length = _varint(data, position, stop)[1] - position
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"byte {position}: wire type {wire} is unknown")
        end = position + length
        if end > stop:
            raise ValueError(f"byte {position}: a field of {length} bytes exceeds its message")
        yield tag >> 3, wire, position, end
        position = end


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and the position after it."""
    value = shift = 0
    while position < stop:
        octet = data[position]
        position += 1
        if octet < 0x80:
            return value | octet << shift, position
        value |= (octet & 0x7F) << shift
        shift += 7
        if shift == 70:
            break
    raise ValueError(f"byte {position}: a number exceeds its message or 10 bytes")


def _to_varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _chunk(field: int, body: bytes) -> bytes:
    return struct.pack("B", field << 3 | _CHUNK) + _to_varint(len(body)) + body

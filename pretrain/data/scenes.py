"""Where the views of GQN scenes lie in their records, found for many records at once.

A scene is a `tf.train.Example` of two features: `frames`, one JPEG file per view, and `cameras`,
five float32 per view (x, y, z, yaw, pitch; handed through as they are). All known writers nest them
alike, so NumPy descends into neighbouring records in lockstep, checking every tag and every length;
records that differ in anything but the order of the two go through the general parser.

Shapes: N records, V views of all of them together.
"""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pretrain.data.example import BytesList, Feature, parse_example
from pretrain.data.record_file import Block

_CAMERAS, _FRAMES = b"\n\x07cameras", b"\n\x06frames"  # the keys as they are stored
_FEW = 32  # records that are parsed faster one by one
_MOST_VIEWS = 1000  # in lockstep; published scenes have at most 300


@dataclass(frozen=True)
class Scenes:
    """Neighbouring scenes as they are stored.

    Attributes:
        data: uint8 that hold all of their JPEG files.
        first: `[N + 1]` int64; the views of scene k are those from `first[k]` to `first[k + 1]`.
        spans: `[V, 2]` int64: where in the bytes the JPEG file of each view begins and ends.
        cameras: `[V, 5]` float32: x, y, z, yaw, pitch, in radians.
    """

    data: np.ndarray
    first: np.ndarray
    spans: np.ndarray
    cameras: np.ndarray

    def count(self, scene: int) -> int:
        """How many views a scene has."""
        return int(self.first[scene + 1] - self.first[scene])

    def frame(self, scene: int, view: int) -> bytes:
        """The JPEG file of one view."""
        begin, end = self.spans[self.first[scene] + view].tolist()
        return self.data[begin:end].tobytes()

    def frames(self, scene: int) -> list[bytes]:
        """The JPEG files of all views of a scene."""
        return [self.frame(scene, view) for view in range(self.count(scene))]


def parse_scenes(block: Block) -> Scenes:
    """Finds the views of all records of a block.

    Raises:
        ValueError: A record is no scene; the message names file and record.
    """
    if len(block.starts) >= _FEW:
        with suppress(_UnusualError, IndexError):
            return _in_lockstep(block)
    return _one_by_one(block)


def parse_scene(payload: bytes) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Where in a record each view's JPEG file is, and the cameras, however they are nested."""
    features: dict[str, Feature] = parse_example(payload)
    frames, cameras = features.get("frames"), features.get("cameras")
    if not isinstance(frames, BytesList) or not isinstance(cameras, np.ndarray):
        raise ValueError(f"a scene needs frames and cameras, but has {', '.join(features)}")
    spans = frames.spans()
    if not spans or cameras.dtype != np.float32 or len(cameras) != 5 * len(spans):
        raise ValueError(
            f"{len(spans)} frames need five float32 each of cameras, but there are "
            f"{len(cameras)} of {cameras.dtype}"
        )
    return spans, cameras.reshape(-1, 5)


class _UnusualError(Exception):
    """A record that is not nested as all known writers nest them."""


def _one_by_one(block: Block) -> Scenes:
    spans, cameras = [], []
    for k, payload in enumerate(block.payloads()):
        try:
            found, poses = parse_scene(payload)
        except ValueError as error:
            raise ValueError(f"{block.name(k)}: {error}") from error
        spans.append(np.array(found) + block.starts[k])
        cameras.append(poses)
    first = np.cumsum([0, *map(len, spans)])
    return Scenes(block.data, first, np.concatenate(spans), np.concatenate(cameras))


def _in_lockstep(block: Block) -> Scenes:
    """The same for records that are all nested alike and have equally many views.

    Raises:
        _UnusualError: They are not, or some are damaged.
        IndexError: Lengths of a damaged record point out of the block.
    """
    size = len(block.data)
    words = np.ndarray(size - 7, "<i8", block.data, strides=(1,))  # the 8 bytes from each byte on
    begin = _descend(words, block.starts, block.stops, b"\n")  # Example.features
    one = np.stack(_enter(words, begin, 0x0A))
    two = np.stack(_enter(words, one[1], 0x0A))
    _require(two[1] == block.stops)
    swapped = words[one[0]] == _word(_FRAMES)
    frames, cameras = np.where(swapped, one, two), np.where(swapped, two, one)

    _require(words[frames[0]] == _word(_FRAMES))
    begin, end = frames[0] + len(_FRAMES), frames[1]
    begin = _descend(words, begin, end, b"\x12\n")  # value, bytes_list
    spans: list[tuple[np.ndarray, np.ndarray]] = []
    while not spans or (begin < end).any():
        spans.append(_enter(words, begin, 0x0A))
        begin = spans[-1][1]
        _require((begin <= end) & (len(spans) <= _MOST_VIEWS))
    views = len(spans)

    _require(words[cameras[0]] == _word(_CAMERAS))
    _require(words[cameras[0] + 1] == _word(_CAMERAS[1:]))
    begin, end = cameras[0] + len(_CAMERAS), cameras[1]
    begin = _descend(words, begin, end, b"\x12\x12\n")  # value, float_list, packed values
    _require(end - begin == 20 * views)
    rows = np.ndarray((size - 20 * views + 1, 20 * views), np.uint8, block.data, strides=(1, 1))
    return Scenes(
        block.data,
        np.arange(len(begin) + 1) * views,
        np.array(spans).transpose(2, 0, 1).reshape(-1, 2),  # [views, 2, N] to [V, 2]
        rows[begin].view("<f4").reshape(-1, 5),
    )


def _descend(words: np.ndarray, at: np.ndarray, stop: np.ndarray, tags: bytes) -> np.ndarray:
    """Where the innermost of nested values begins, each of which fills the one around it."""
    for tag in tags:
        at, end = _enter(words, at, tag)
        _require(end == stop)
    return at


def _enter(words: np.ndarray, at: np.ndarray, tag: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a tag and a length of up to three bytes at each of N positions.

    Returns:
        `[N]` each: where the values begin, and where they end.
    """
    word = words[at]
    last = ~word & 0x80808000  # the bytes of the length that announce no further one
    last &= -last  # the first of them
    _require((word & 0xFF == tag) & (last != 0))
    word &= 2 * last - 1
    begin = at + 2 + (last > 0x8000) + (last > 0x800000)
    return begin, begin + (word >> 8 & 0x7F | word >> 9 & 0x3F80 | word >> 10 & 0x1FC000)


def _word(text: bytes) -> int:
    """The first 8 bytes of a text as they are found in `words`."""
    return int.from_bytes(text[:8], "little")


def _require(fact: np.ndarray) -> None:
    if not fact.all():
        raise _UnusualError

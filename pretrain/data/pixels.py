"""Decodes JPEG and PNG files that nobody vouches for."""

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Read when OpenCV is loaded. Should that have happened already, the check of the header below
# still comes before any allocation.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 22))

import cv2
import numpy as np

from pretrain.machine import available_cores

_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # segments numbered among the frame headers that are none
_PNG = b"\x89PNG\r\n\x1a\n"


def picture_shape(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels that the header of a JPEG or PNG file announces.

    Raises:
        ValueError: It is neither.
    """
    if data[:8] == _PNG and data[12:16] == b"IHDR" and len(data) > 26:
        width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
        return height, width, {2: 3, 6: 4}.get(colour, 1)
    position = 2 if data[:2] == b"\xff\xd8" else len(data)
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            return height, width, channels
        position += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise ValueError("it is no JPEG or PNG file")


def decode_rgb(data: bytes, size: int | None = None) -> np.ndarray:
    """`[H, W, 3]` uint8 RGB of a JPEG or PNG file; opacity is dropped.

    Args:
        data: The file.
        size: The height and width that it needs to have; any square of at most 2,048 unless given.

    Raises:
        ValueError: It is another kind of file, damaged, not RGB, or of another size.
    """
    height, width, channels = picture_shape(data)
    if channels not in (3, 4):
        raise ValueError(f"it needs to be RGB, but has {channels} channels")
    if height != width or (height != size if size else not 0 < height <= 2048):
        needed = f"{size} x {size}" if size else "square and at most 2048 x 2048"
        raise ValueError(f"it needs to be {needed} pixels, but is {height} x {width}")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"it cannot be decoded ({error.err})") from error
    if picture is None or picture.shape != (height, width, 3):
        raise ValueError("it cannot be decoded; the file is damaged")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def in_threads(work: Callable[[Any], Any], pieces: list[Any]) -> list[Any]:
    """Maps pieces of work over as many threads as this process has cores; decoding frees the GIL.

    The first error ends it; pieces that have not begun by then are left.
    """
    cores = available_cores()
    if cores == 1 or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(min(cores, len(pieces), 32)) as pool:
        futures = [pool.submit(work, piece) for piece in pieces]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

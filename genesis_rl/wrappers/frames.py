"""The one place that knows how environments lay out their pixels.

Whatever the layout, the encoder gets uint8 RGB images of its own size. Shapes: N frames of H x W
pixels, C channels, S x S pixels at the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = (3, 1, 4)  # RGB, grey, RGB with an opacity that is ignored


@dataclass(frozen=True)
class FrameFormat:
    """How one environment lays out a frame.

    Frames may be `[H, W, C]`, `[C, H, W]` or `[H, W]`, of uint8 or of floats in [0, 1]. Floats are
    rounded to the 256 levels of uint8, which is what the models have seen; grey is repeated to RGB;
    other sizes than the encoder's are resized by area, without regard to aspect.

    Attributes:
        shape: Of one frame.
        dtype: Of its pixels.
        channels_first: Whether it is `[C, H, W]`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_first: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any, low: float, high: float) -> FrameFormat:
        """Reads the format off an observation space with these bounds.

        Raises:
            ValueError: These are no frames, or their range is not [0, 1]; the message says what to
                do, and is meant to follow a sentence that names the space.
        """
        dtype = np.dtype(dtype)
        if len(shape) not in (2, 3) or (
            len(shape) == 3 and shape[-1] not in CHANNELS and shape[0] not in CHANNELS
        ):
            raise ValueError(
                "If the environment only renders pixels, wrap it in "
                "gymnasium.wrappers.AddRenderObservation first; of stacked frames, pass one."
            )
        if len(shape) == 3 and shape[0] == 4 and shape[-1] not in CHANNELS:
            # Opacity comes last wherever there is any; these are stacks, such as ALE's own.
            raise ValueError("Of four grey frames in a stack pass one (stack_size=1, say).")
        if dtype != np.uint8 and dtype.kind != "f":
            raise ValueError("Convert the frames to uint8.")
        if dtype.kind == "f" and (
            (np.isfinite(low) and low < 0) or (np.isfinite(high) and high > 1)
        ):
            raise ValueError(
                "Float frames must lie in [0, 1]: divide those in [0, 255] by 255 or, better, "
                "convert them to uint8."
            )
        return cls(shape, dtype, len(shape) == 3 and shape[-1] not in CHANNELS)

    def to_images(self, frames: Any, size: int) -> Tensor:
        """Maps a batch of frames, as an array or a tensor, to uint8 images `[N, 3, S, S]`.

        The result may share memory with the frames. Tensors on another device stay there unless
        they have to be resized.

        Raises:
            ValueError: A frame has another shape or dtype than the format, or floats outside
                [0, 1].
        """
        if isinstance(frames, Tensor):
            if frames.device.type != "cpu" and self._height_and_width == (size, size):
                return self._from_device(frames)
            frames = frames.cpu().numpy()
        frames = np.asarray(frames)
        self._check(tuple(frames.shape[1:]), frames.dtype)
        if frames.dtype != np.uint8:
            low, high = (frames.min(), frames.max()) if frames.size else (0, 0)
            self._check_range(float(low), float(high))
            frames = np.rint(frames * frames.dtype.type(255)).astype(np.uint8)
        if self.channels_first and self._height_and_width == (size, size):
            return _from_numpy(_three(frames, axis=1))
        if self.channels_first:
            frames = frames.transpose(0, 2, 3, 1)
        elif frames.ndim == 3:
            frames = frames[..., None]
        if frames.shape[1:3] != (size, size):
            frames = resize(frames[..., :3], size)
        return _from_numpy(_three(frames, axis=3)).permute(0, 3, 1, 2)

    @property
    def _height_and_width(self) -> tuple[int, ...]:
        return self.shape[1:] if self.channels_first else self.shape[:2]

    def _from_device(self, frames: Tensor) -> Tensor:
        self._check(tuple(frames.shape[1:]), np.dtype(str(frames.dtype).removeprefix("torch.")))
        if frames.dtype != torch.uint8:
            self._check_range(*(bound.item() for bound in torch.aminmax(frames)))
            frames = (frames.float() * 255).round().to(torch.uint8)
        if frames.ndim == 3:
            frames = frames[:, None]
        elif not self.channels_first:
            frames = frames.permute(0, 3, 1, 2)
        return frames[:, :3] if frames.shape[1] != 1 else frames.expand(-1, 3, -1, -1)

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if shape != self.shape or dtype != self.dtype:
            other_size = dtype == self.dtype and len(shape) == len(self.shape)
            resized = " (gymnasium.wrappers.ResizeObservation does)" if other_size else ""
            raise ValueError(
                f"the observation space announced frames {list(self.shape)} {self.dtype}, but got "
                f"{list(shape)} {dtype}; make the environment return what it announces{resized}"
            )

    def _check_range(self, low: float, high: float) -> None:
        if not (low >= 0 and high <= 1):  # written so that NaN fails too
            raise ValueError(
                f"float frames must lie in [0, 1], but these span [{low:g}, {high:g}]; divide them "
                "by 255 or, better, convert them to uint8"
            )


def resize(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resizes `[N, H, W, C]` frames to `[N, S, S, C]`, averaging over the pixels that merge."""
    count, _, _, channels = frames.shape
    out = np.empty((count, size, size, channels), np.uint8)
    for frame, target in zip(frames, out, strict=True):
        resized = cv2.resize(
            np.ascontiguousarray(frame), (size, size), interpolation=cv2.INTER_AREA
        )
        target[...] = resized.reshape(target.shape)
    return out


def _three(frames: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    """Makes three channels of one or four."""
    match frames.shape[axis]:
        case 1:
            return np.repeat(frames, 3, axis=axis)
        case 4:
            return np.delete(frames, 3, axis=axis)
    return frames


def _from_numpy(frames: NDArray[np.uint8]) -> Tensor:
    # Flipped or read-only frames (negative strides, shared memory) are more than torch can hold.
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]))

"""Frames of every layout become the same image; what is no frame is refused with the way out.

Check 18 of the wrapper contract.
"""

import cv2
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reliability_wrappers import KINDS, laid_out
from genesis_rl.wrappers.checks import frame_format
from genesis_rl.wrappers.frames import FrameFormat, resize


def pixels(count=3, height=16, width=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 4), dtype=np.uint8)


def images_of(frames, size=16):
    high = 1 if frames.dtype.kind == "f" else 255
    return FrameFormat.of(frames.shape[1:], frames.dtype, 0, high).to_images(frames, size)


def rgb_of(frames):
    return torch.from_numpy(frames[..., :3].transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("kind", ["hwc", "chw", "float", "opaque"])
def test_layouts_of_the_same_picture_are_the_same_image(kind):
    frames = pixels()
    assert torch.equal(images_of(laid_out(frames, kind)), rgb_of(frames))


@pytest.mark.parametrize("kind", ["grey", "flat_grey"])
def test_grey_is_repeated_to_three_equal_channels(kind):
    frames = pixels()
    expected = rgb_of(np.repeat(frames[..., :1], 3, axis=-1))
    assert torch.equal(images_of(laid_out(frames, kind)), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_level_survives_as_a_float(dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    frames = (levels / 255).astype(dtype)
    assert torch.equal(images_of(frames), rgb_of(levels))


@pytest.mark.parametrize("on_device", [False, True])
def test_floats_between_two_levels_go_to_the_nearer(on_device):
    level = np.array([0.4, 0.6, 253.6, 254.4], np.float32).reshape(1, 2, 2, 1).repeat(3, axis=3)
    form = FrameFormat.of((2, 2, 3), np.float32, 0, 1)
    to_images = form._from_device if on_device else lambda tensor: form.to_images(tensor, 2)
    image = to_images(torch.from_numpy(level / 255))
    assert image[0, 0].flatten().tolist() == [0, 1, 254, 254]


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_are_averaged_over_area(kind):
    frames = pixels(height=64, width=48)
    image = images_of(laid_out(frames, kind), size=16)
    assert image.shape == (3, 3, 16, 16)
    rgb = frames[..., :1].repeat(3, axis=-1) if "grey" in kind else frames[..., :3]
    expected = cv2.resize(rgb[1], (16, 16), interpolation=cv2.INTER_AREA)
    assert torch.equal(image[1], torch.from_numpy(expected.transpose(2, 0, 1)))


def test_shrinking_by_two_is_the_mean_of_four_pixels():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames[0, :2, :2, 0] = [[10, 20], [30, 40]]
    assert resize(frames, 2)[0, 0, 0].tolist() == [25, 0, 0]


def test_channels_last_frames_are_not_copied():
    frames = laid_out(pixels(), "hwc")
    image = images_of(frames)
    assert image.data_ptr() == frames.ctypes.data
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_flipped_and_read_only_frames_are_welcome():
    frames = laid_out(pixels(), "hwc")
    flipped = frames[:, ::-1]
    assert torch.equal(images_of(flipped), rgb_of(flipped))
    frames.flags.writeable = False
    assert torch.equal(images_of(frames), rgb_of(frames))


def test_tensors_are_welcome():
    frames = laid_out(pixels(), "hwc")
    form = FrameFormat.of(frames.shape[1:], np.uint8, 0, 255)
    assert torch.equal(form.to_images(torch.from_numpy(frames), 16), rgb_of(frames))


def test_no_frames_are_no_images():
    assert images_of(pixels(count=0)[..., :3]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_in_main_memory_take_the_same_path(kind):
    frames = laid_out(pixels(), kind)
    high = 1 if kind == "float" else 255
    form = FrameFormat.of(frames.shape[1:], frames.dtype, 0, high)
    expected = form.to_images(frames, 16)
    assert torch.equal(form._from_device(torch.from_numpy(frames)), expected)


@pytest.mark.parametrize("value", [-0.1, 1.1, 255.0, np.nan, np.inf])
def test_floats_outside_zero_to_one_are_refused(value):
    frames = np.full((1, 16, 16, 3), value, np.float32)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*divide"):
        images_of(frames)


def test_a_frame_that_is_not_as_announced_is_refused():
    form = FrameFormat.of((16, 16, 3), np.uint8, 0, 255)
    with pytest.raises(
        ValueError, match=r"announced frames \[16, 16, 3\] uint8, but got \[8, 8, 3.*Resize"
    ):
        form.to_images(np.zeros((1, 8, 8, 3), np.uint8), 16)
    with pytest.raises(ValueError, match=r"but got .* float32"):
        form.to_images(np.zeros((1, 16, 16, 3), np.float32), 16)


@pytest.mark.parametrize(
    ("space", "advice"),
    [
        (spaces.Box(-1, 1, (4,)), "AddRenderObservation"),
        (spaces.Box(0, 255, (64, 64, 2), np.uint8), "of stacked frames, pass one"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "four grey frames in a stack pass one"),
        (spaces.Box(0, 255, (64, 64, 3), np.float32), "divide those in"),
        (spaces.Box(-1, 1, (64, 64, 3), np.float32), "must lie in"),
        (spaces.Box(0, 255, (64, 64, 3), np.int32), "Convert the frames to uint8"),
        (spaces.Dict({"pixels": spaces.Box(0, 255, (64, 64, 3), np.uint8)}), r"\['pixels'\]"),
        (spaces.Discrete(3), "one frame at a time"),
    ],
)
def test_spaces_without_frames_are_refused_with_the_way_out(space, advice):
    with pytest.raises(ValueError, match=r"(?s)SomeWrapper needs frames .* but got .*" + advice):
        frame_format(space, "SomeWrapper")


def test_unbounded_float_frames_are_judged_by_their_values():
    form = frame_format(spaces.Box(-np.inf, np.inf, (16, 16, 3), np.float32), "SomeWrapper")
    form.to_images(np.full((1, 16, 16, 3), 0.5, np.float32), 16)
    with pytest.raises(ValueError, match="span"):
        form.to_images(np.full((1, 16, 16, 3), 2, np.float32), 16)


@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(5, 40),
    width=st.integers(5, 40),
    contiguous=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_frame_becomes_an_image_of_the_encoders_size(kind, height, width, contiguous, seed):
    frames = laid_out(pixels(2, height, width, seed), kind)
    if not contiguous:
        frames = frames[:, ::-1]
    image = images_of(frames)
    assert image.shape == (2, 3, 16, 16)
    assert image.dtype == torch.uint8

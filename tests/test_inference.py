"""The parts of the lean encoder: convolutions, kernels, chunks, graph sizes, precision.

Numbers of checks are those of the wrapper contract.
"""

import os
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genesis_rl.inference.cuda import Kind, Planner, plan, precision_of, shares
from genesis_rl.inference.layers import PlainOperations, wide_linear
from genesis_rl.inference.runtime import PlainRuntime
from genesis_rl.inference.winograd import WinogradConv
from toys import frames, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("height", [4, 8, 12, 32])  # less than a tile, one, one and a half, four
def test_winograd_is_the_convolution_to_five_digits(height):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, height, 20, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(24, 16, 5, 5, generator=generator) / 20  # 400 terms: variance 1
    bias = torch.randn(24, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=2)
    winograd = WinogradConv(weight)
    assert (winograd(x, bias) - exact).square().mean().sqrt() < 1e-5
    unbiased = winograd(x) + bias[:, None, None]
    torch.testing.assert_close(unbiased, winograd(x, bias), rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_a_wide_linear_layer_is_a_linear_layer(count):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randint(-8, 8, shape, generator=generator).float()  # sums without rounding
        for shape in ((count, 12), (48, 12), (48,))
    )
    assert torch.equal(wide_linear(x, weight), F.linear(x, weight))
    assert torch.equal(wide_linear(x, weight, bias), F.linear(x, weight, bias))


def test_operations_add_the_bias_before_the_activation():
    x = torch.tensor([[1.0], [2.0]]).reshape(1, 2, 1, 1)
    bias = torch.tensor([3.0, -2.0])
    operations = PlainOperations(add_bias=True)
    assert operations.gate(x, bias).item() == 4 * 0.5  # (1 + 3) * sigmoid(2 - 2)
    assert operations.gate_to_logit(x, bias, torch.tensor([10.0]), torch.tensor([1.0])).item() == 21
    assert operations.elu(x, bias).flatten().tolist() == [4, 0]


def test_slot_images_hold_the_log_mask_and_the_image():
    images = torch.rand(2, 3, 4, 4)
    slots = PlainOperations().slot_images(torch.zeros(2, 2, 4, 4), images)
    masks = slots[:, 0].exp().reshape(2, 3, 4, 4)
    torch.testing.assert_close(masks[0, :, 0, 0], torch.tensor([0.5, 0.25, 0.25]))
    assert torch.equal(
        slots[:, 1:].reshape(2, 3, 3, 4, 4), images[:, None].expand(-1, 3, -1, -1, -1)
    )


def test_too_large_a_batch_is_encoded_in_smaller_chunks():
    runtime = PlainRuntime(tiny_model(), CPU, torch.float32)
    runtime.chunk = 64
    network, sizes = runtime.network, []

    def short_of_memory(images, noise, mask_only):
        sizes.append(len(images))
        if len(images) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(images, noise, mask_only=mask_only)

    runtime.network = short_of_memory
    images = frames(20)
    latents = runtime.encode(images, None, mask_only=False)
    torch.testing.assert_close(latents, network(images), rtol=0, atol=1e-5)
    assert sizes == [20, 10, 10]
    runtime.encode(images, None, mask_only=False)
    assert sizes == [20, 10, 10, 10, 10]  # the chunk that fitted is remembered


@pytest.mark.parametrize(
    "message",
    [
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_libraries_that_lack_memory_say_so_in_words_of_their_own(message):
    runtime = PlainRuntime(tiny_model(), CPU, torch.float32)
    runtime.chunk = 64
    network = runtime.network

    def short_of_memory(images, noise, mask_only):
        if len(images) > 10:
            raise RuntimeError(message)
        return network(images, noise, mask_only=mask_only)

    runtime.network = short_of_memory
    assert runtime.encode(frames(20), None, mask_only=False).shape == (20, 3, 80)
    assert runtime.chunk == 10


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    runtime = PlainRuntime(tiny_model(), CPU, torch.float32)

    def broken(images, noise, mask_only):
        raise RuntimeError("expected scalar type Float")

    runtime.network = broken
    with pytest.raises(RuntimeError, match="expected scalar type Float"):
        runtime.encode(frames(3), None, mask_only=False)


def test_memory_for_not_even_one_image_is_an_error():
    runtime = PlainRuntime(tiny_model(), CPU, torch.float32)

    def no_memory(images, noise, mask_only):
        raise torch.OutOfMemoryError("CUDA out of memory")

    runtime.network = no_memory
    with pytest.raises(RuntimeError, match="not even one image fits"):
        runtime.encode(frames(3), None, mask_only=False)


@pytest.mark.parametrize("usual", [1, 2, 3, 5, 8, 16, 64, 65, 100, 512])
def test_three_graphs_cover_all_batches_from_n_to_2n(usual):  # check 22's bound, without a GPU
    captured = []
    for count in [usual, *np.random.default_rng(0).integers(usual, 2 * usual + 1, 300)]:
        sizes = plan(int(count), captured)
        assert sum(sizes) >= count
        assert sum(sizes) <= max(2 * count, 8)
        captured += [size for size in sizes if size not in captured]
    assert len(captured) <= 3


def test_three_graphs_cover_100_000_steps_of_64_to_128_frames():  # check 22, without a GPU
    captured = []
    for count in [64, *np.random.default_rng(1).integers(64, 129, 100_000).tolist()]:
        sizes = plan(count, captured)
        assert count <= sum(sizes) <= 2 * count
        captured += [size for size in sizes if size not in captured]
    assert len(captured) <= 3


@pytest.mark.parametrize("usual", [1, 5, 16, 33, 64, 256])
@pytest.mark.parametrize("seed", range(20))
def test_three_graphs_are_enough_in_whichever_order_batches_come(usual, seed):  # check 22
    """A size is captured when it is asked for a second time, as `CudaRuntime` does."""
    asked, captured = Counter(), []
    for count in np.random.default_rng(seed).integers(usual, 2 * usual + 1, 600).tolist():
        sizes = plan(count, captured)
        assert count <= sum(sizes) <= max(2 * count, 8)
        asked.update(set(sizes))
        captured += [size for size in set(sizes) if size not in captured and asked[size] > 1]
    assert len(captured) <= 3


def test_a_few_terminal_frames_cost_a_small_replay():
    assert plan(64, []) == [64]
    assert plan(65, [64]) == [64, 8]
    assert plan(72, [64, 8]) == [64, 8]
    assert plan(120, [64, 8]) == [64, 64]
    assert plan(5, []) == [8]


def replays(counts, captured, chunk=512):
    """Plans these calls; a size is captured when it is asked for a second time.

    Returns:
        The sizes of each call, and which calls asked for a size that had no graph yet.
    """
    planner, kind = Planner(), Kind(torch.uint8, False, False)
    asked, planned, new = Counter(), [], []
    for call, count in enumerate(counts):
        planned.append(planner.sizes(count, kind, list(captured), chunk))
        assert count <= sum(planned[-1])
        assert max(planned[-1]) <= max(chunk, 8)
        new += [call] * bool(set(planned[-1]) - set(captured))
        asked.update(planned[-1])
        captured += [size for size in asked if size not in captured and asked[size] > 1]
    return planned, new


def test_a_batch_above_the_chunk_is_encoded_in_equal_shares():
    assert shares(1024, 512) == [512, 512]
    assert shares(1024 + 54, 512) == shares(1024 + 87, 512) == [384] * 3
    assert shares(513, 512) == [288, 288]
    assert shares(20, 10) == [10, 10]
    assert shares(3, 1) == [1, 1, 1]


def test_1024_environments_and_their_terminal_frames_are_captured_in_the_first_step():
    ends = np.random.default_rng(0).binomial(1024, 1 / 15, 1000)  # 43 to 95
    captured = []
    _, new = replays([1024, *(1024 + ends).tolist()], captured)
    assert new == [0, 1]
    assert sorted(captured) == [384, 512]


def test_a_small_tail_that_is_a_habit_is_encoded_with_its_batch():
    counts = [256, 256, *np.random.default_rng(0).integers(265, 282, 100).tolist()]
    planned, new = replays(counts, [])
    assert planned[10] == [256, 32]
    assert planned[-1] == [288]
    assert max(new) < 25


def test_graphs_of_other_batches_do_not_keep_a_habit_from_its_own():
    planned, _ = replays([1090] * 30, [32, 256, 288])
    assert planned[0] == [288] * 4
    assert planned[-1] == [384] * 3


@pytest.mark.parametrize("usual", [64, 200, 256, 600, 1024, 2048])
@pytest.mark.parametrize("seed", range(10))
def test_three_graphs_are_enough_for_batches_below_and_above_the_chunk(usual, seed):  # check 22
    captured = []
    counts = np.random.default_rng(seed).integers(usual, 2 * usual + 1, 2000).tolist()
    replays([usual, *counts], captured)
    assert len(captured) <= 3


def test_the_programs_precision_is_put_back():
    def state():
        return (
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
        )

    before = state()
    for precision in ("fp32", "tf32", "bf16"):
        with precision_of(precision, benchmark=True):
            assert torch.backends.cuda.matmul.fp32_precision in ("tf32", "ieee")
            assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == (precision == "tf32")
        assert state() == before
    torch.set_float32_matmul_precision("high")
    try:
        changed = state()
        with precision_of("fp32"):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert state() == changed
        assert torch.backends.cuda.matmul.allow_tf32  # the older switch agrees
    finally:
        torch.set_float32_matmul_precision("highest")


def interpreted():
    """Whether Triton runs here: on CUDA, or on the CPU with TRITON_INTERPRET=1."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available()


@pytest.mark.skipif(not interpreted(), reason="needs Triton, on CUDA or interpreted")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (3, 12, 5, 7), (2, 32, 16, 16)], ids=str)
def test_kernels_equal_their_definition(dtype, tolerance, shape):
    from genesis_rl.inference.kernels import KernelOperations

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    count, channels, height, width = shape
    plain, fused = PlainOperations(add_bias=True), KernelOperations()
    x = torch.randn(count, 2 * channels, height, width, device=device)
    exact = x.to(dtype).float()
    x = x.to(dtype).to(memory_format=torch.channels_last)
    bias = torch.randn(2 * channels, device=device)
    weight, offset = torch.randn(channels, device=device), torch.randn(1, device=device)
    logits = torch.randn(count, 4, height, width, device=device) * 10
    images = torch.rand(count, 3, height, width, device=device).to(dtype)
    corners = torch.randn(count, 8 * channels, height, width, device=device).to(dtype)
    corners = corners.to(memory_format=torch.channels_last)
    pairs = [
        (fused.gate(x, bias), plain.gate(exact, bias)),
        (fused.gate(corners, bias, phases=True), plain.gate(corners.float(), bias, phases=True)),
        (
            fused.gate_to_logit(x, bias, weight, offset),
            plain.gate_to_logit(exact, bias, weight, offset),
        ),
        (fused.elu(x, bias), plain.elu(exact, bias)),
        (fused.slot_images(logits, images), plain.slot_images(logits, images.float())),
    ]
    for result, expected in pairs:
        assert result.shape == expected.shape
        torch.testing.assert_close(result.float(), expected, rtol=tolerance, atol=tolerance)
    assert pairs[0][0].dtype == dtype
    assert pairs[0][0].is_contiguous(memory_format=torch.channels_last)
    assert pairs[2][0].dtype == torch.float32
    frames = torch.randint(0, 256, (count, 3, height, width), device=device, dtype=torch.uint8)
    white = torch.tensor(255.0, device=device)
    for pixels in (frames, frames.float() / 255):
        scaled = fused.pixels(pixels, white, dtype)
        # The interpreter cuts off the digits that a GPU rounds.
        off = 2**-7 if device == "cpu" and dtype == torch.bfloat16 else 0
        torch.testing.assert_close(scaled, plain.pixels(pixels, white, dtype), rtol=off, atol=0)
        assert scaled.is_contiguous(memory_format=torch.channels_last)

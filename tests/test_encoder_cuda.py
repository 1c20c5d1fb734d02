"""On CUDA the encoder says the same, out of few graphs, and hands out memory of its own.

Numbers of checks are those of the wrapper contract.
"""

import warnings

import numpy as np
import pytest
import torch

from genesis_rl import GenesisEncoder
from toys import frames, gpu, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"))


@gpu
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("tf32", 2e-2), ("bf16", 0.2)])
def test_cuda_equals_cpu(tmp_path, precision, bound):  # check 4
    path = tiny_checkpoint(tmp_path, num_slots=5, image_size=64, width=32)
    images = frames(256, 64)
    expected = GenesisEncoder.from_checkpoint(path, device="cpu").encode(images)
    encoder = GenesisEncoder.from_checkpoint(path, device="cuda", precision=precision)
    for _ in range(3):  # plain, then captured, then replayed
        together = encoder.encode(images).cpu()
        error = (together - expected).abs()
        print(f"{precision}: largest {error.max():.2e}, mean {error.mean():.2e}")
        assert error.max() <= bound
    for i in (0, 100, 255):
        for _ in range(3):
            alone = encoder.encode(images[i : i + 1]).cpu()[0]
            assert (alone - together[i]).abs().max() <= (1e-5 if precision == "fp32" else bound)


@gpu
def test_graphs_are_few_and_equal_plain_execution(checkpoint):  # check 22's bound
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a fallback would make this test void
        encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cuda", precision="fp32")
        expected = encoder.encode(frames(128)).cpu()
        images = frames(128)
        generator = np.random.default_rng(0)
        before = encoder._start().captures
        for count in [64, *generator.integers(64, 129, 500)]:
            latents = encoder.encode(images[:count])
            torch.testing.assert_close(latents.cpu(), expected[:count], rtol=0, atol=1e-5)
        assert 1 <= encoder._start().captures - before <= 3


@gpu
def test_cuda_latents_are_never_handed_out_twice(checkpoint):  # check 16
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cuda")
    images = frames(64).to(memory_format=torch.channels_last)
    kept = [encoder.encode(images[i : i + 8]) for i in range(0, 56)]
    copies = [latents.clone() for latents in kept]
    for i in range(100):
        encoder.encode(images[i % 50 : i % 50 + 8])
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert len({latents.data_ptr() for latents in kept}) == len(kept)


@gpu
def test_frames_may_change_as_soon_as_encode_returns(checkpoint):  # check 16, asynchronous upload
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cuda", precision="fp32")
    images = frames(64)
    expected = encoder.encode(images).cpu()
    for _ in range(20):
        buffer = images.clone(memory_format=torch.channels_last)
        latents = encoder.encode(buffer)
        buffer.zero_()
        torch.testing.assert_close(latents.cpu(), expected, rtol=0, atol=1e-5)


@gpu
def test_cuda_draws_no_random_numbers(checkpoint):  # check 6
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cuda")
    encoder.encode(frames(1))
    before = torch.cuda.get_rng_state()
    for _ in range(4):
        encoder.encode(frames(16))
    assert torch.equal(torch.cuda.get_rng_state(), before)


@gpu
def test_out_of_cuda_memory_is_recovered_from(tmp_path):
    path = tiny_checkpoint(tmp_path, num_slots=5, image_size=64, width=32)
    encoder = GenesisEncoder.from_checkpoint(path, device="cuda", precision="fp32")
    images = frames(256, 64)
    expected = encoder.encode(images).cpu()
    runtime = encoder._start()
    runtime._release()
    total = torch.cuda.mem_get_info()[1]
    used = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((used + 300e6) / total)
    try:
        for _ in range(3):
            latents = encoder.encode(images)
            torch.testing.assert_close(latents.cpu(), expected, rtol=0, atol=1e-5)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert runtime.chunk < 256

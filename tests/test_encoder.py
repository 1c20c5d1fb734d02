"""The frozen encoder equals the model it was made from, whatever the batch, and never changes.

Numbers of checks are those of the wrapper contract.
"""

import copy
import gc
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toys import gpu, mean_colour, tiny_checkpoint, tiny_model

from genesis_rl import GenesisEncoder, save_checkpoint
from genesis_rl.encoder import ObjectEncoder, open_encoder
from genesis_rl.inference.cuda import plan, precision_of
from genesis_rl.inference.layers import PlainOperations
from genesis_rl.inference.network import LeanGenesis
from genesis_rl.inference.runtime import PlainRuntime
from genesis_rl.inference.winograd import WinogradConv, untile
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return GenesisEncoder.from_checkpoint(checkpoint, device="cpu")


def frames(count, size=32, seed=0):
    """Uint8 images with structure at every scale."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.rand(count, 3, size, size, generator=generator)
    mixed = F.interpolate(coarse, size=(size, size)) * 0.8 + 0.2 * fine
    return (mixed * 255).to(torch.uint8)


def digest(encoder):
    parts = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        parts.update(name.encode() + value.float().cpu().numpy().tobytes())
    return parts.hexdigest()


# --- the same numbers as the model ---------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_slots": 2, "width": 16},
        {"num_slots": 7, "image_size": 64},
        {"image_size": 128, "width": 4},
        {"norm": "instance"},
        {"mask_latents": 5, "component_latents": 3},
        {"num_slots": 5, "image_size": 64, "width": 32},
    ],
    ids=str,
)
@torch.no_grad()
def test_lean_encoder_equals_the_model(config):
    model = tiny_model(**config)
    images = frames(3, model.image_size).float() / 255
    noise = torch.randn(3, model.num_slots, model.slot_dim)
    for winograd in (False, True):
        lean = LeanGenesis(model, winograd=winograd)
        torch.testing.assert_close(lean(images), model.encode(images), rtol=0, atol=1e-5)
        samples = model.encode(images, noise)
        torch.testing.assert_close(lean(images, noise), samples, rtol=0, atol=1e-5)
        masks = lean(images, mask_only=True)
        assert torch.equal(masks, lean(images)[..., : model.latent_sizes[0]])


@torch.no_grad()
def test_encoder_equals_the_model(encoder):
    images = frames(5).float() / 255
    expected = tiny_model().encode(images)
    torch.testing.assert_close(encoder.encode(images), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.encode_masks(images), expected[..., :64], rtol=0, atol=1e-5)


def test_bytes_and_their_floats_have_identical_latents(encoder):  # check 18
    images = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    as_floats = torch.from_numpy(images.numpy().astype(np.float32) / np.float32(255))
    assert torch.equal(encoder.encode(images), encoder.encode(as_floats))


def test_winograd_is_as_exact_as_the_direct_convolution():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, 12, 20, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(24, 16, 5, 5, generator=generator) / 20
    bias = torch.randn(24, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=2)
    direct = (F.conv2d(x, weight, bias, padding=2) - exact).abs().max()
    winograd = untile(WinogradConv(weight, bias)(x))
    assert (winograd - exact).abs().max() < max(5 * float(direct), 1e-6)


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


# --- whatever the batch --------------------------------------------------------------------------


def test_a_frames_latents_do_not_depend_on_its_batch(encoder):  # check 4
    images = frames(256)
    together = encoder.encode(images)
    lean = LeanGenesis(tiny_model(), winograd=True)(images)  # in one piece
    for i in (0, 1, 77, 255):
        alone = encoder.encode(images[i : i + 1])[0]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone, lean[i], rtol=0, atol=1e-5)


def test_no_images_have_no_latents(encoder):
    assert encoder.encode(frames(0)).shape == (0, 3, 80)
    assert encoder.encode_masks(frames(0)).shape == (0, 3, 64)


def test_memory_layout_does_not_matter(encoder):
    images = frames(2)
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(encoder.encode(images), encoder.encode(last))


def test_latents_are_fresh_memory_without_gradients(encoder):
    images = frames(2)
    first, second = encoder.encode(images), encoder.encode(images)
    assert first.data_ptr() != second.data_ptr()
    assert not first.requires_grad
    weight = torch.ones(80, requires_grad=True)
    (first @ weight).sum().backward()  # a head may learn on top of them
    assert weight.grad is not None


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


def test_a_few_terminal_frames_cost_a_small_replay():
    assert plan(64, []) == [64]
    assert plan(65, [64]) == [64, 8]
    assert plan(72, [64, 8]) == [64, 8]
    assert plan(120, [64, 8]) == [64, 64]
    assert plan(5, []) == [8]


# --- one instance, frozen ------------------------------------------------------------------------


def test_one_encoder_serves_everybody(checkpoint, encoder):  # check 3
    same = [GenesisEncoder.from_checkpoint(checkpoint, device="cpu") for _ in range(64)]
    assert all(other is encoder for other in same)
    assert copy.deepcopy(encoder) is encoder
    assert pickle.loads(pickle.dumps(encoder)) is encoder
    assert GenesisEncoder.from_checkpoint(checkpoint, device="cpu", precision="bf16") is not encoder


def test_devices_of_two_names_share_their_weights(checkpoint, encoder):
    encoder.encode(frames(1))
    if torch.cuda.is_available():
        pytest.skip("auto is CUDA here")
    auto = GenesisEncoder.from_checkpoint(checkpoint)
    auto.encode(frames(1))
    assert auto is not encoder
    assert auto._start() is encoder._start()


def test_a_checkpoint_that_was_overwritten_is_another_encoder(tmp_path):
    first = GenesisEncoder.from_checkpoint(tiny_checkpoint(tmp_path), device="cpu")
    shutil.rmtree(tmp_path / "tiny_0")
    tiny_checkpoint(tmp_path, seed=1)
    (tmp_path / "tiny_1").rename(tmp_path / "tiny_0")
    second = GenesisEncoder.from_checkpoint(tmp_path / "tiny_0", device="cpu")
    assert second is not first
    assert second.sha256 != first.sha256


def test_encoders_go_when_nobody_holds_them(tmp_path):
    encoder = GenesisEncoder.from_checkpoint(tiny_checkpoint(tmp_path, seed=5), device="cpu")
    encoder.encode(frames(1))
    encoder, runtime = weakref.ref(encoder), weakref.ref(encoder._start())
    gc.collect()
    assert encoder() is None
    assert runtime() is None


def test_train_mode_does_not_exist(encoder):  # check 5
    before, images = digest(encoder), frames(4)
    latents = encoder.encode(images)
    assert encoder.train() is encoder
    assert torch.equal(encoder.encode(images), latents)
    network = encoder._start().network
    torch.nn.Sequential(network).train()  # as a policy would
    assert not any(module.training for module in network.modules())
    assert torch.equal(encoder.encode(images), latents)
    assert not any(value.requires_grad for value in network.state_dict(keep_vars=True).values())
    assert digest(encoder) == before


def test_encoding_draws_no_random_numbers(encoder):  # check 6
    before = torch.get_rng_state()
    encoder.encode(frames(3))
    encoder.encode(frames(3), torch.zeros(3, 3, 80))
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_draws_no_random_numbers(tmp_path):  # check 6
    path = tiny_checkpoint(tmp_path, seed=6)
    before = torch.get_rng_state()
    GenesisEncoder.from_checkpoint(path, device="cpu").encode(frames(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_of_the_caller_does_not_reach_the_encoder(encoder):
    images = frames(2)
    with torch.autocast("cpu", torch.bfloat16):
        latents = encoder.encode(images)
    assert torch.equal(latents, encoder.encode(images))


def test_bfloat16_stays_close(checkpoint, encoder):
    images = frames(16)
    rough = GenesisEncoder.from_checkpoint(checkpoint, device="cpu", precision="bf16")
    error = (rough.encode(images) - encoder.encode(images)).abs().max()
    assert 0 < error < 0.2


# --- nothing happens before the first frame ------------------------------------------------------


def test_nothing_is_loaded_before_the_first_image(tmp_path):  # check 13
    encoder = GenesisEncoder.from_checkpoint(tiny_checkpoint(tmp_path, seed=7), device="cpu")
    assert encoder.device is None
    encoder.encode(frames(1))
    assert encoder.device == CPU


def test_importing_touches_no_device():  # check 13
    code = (
        "import torch, genesis_rl, genesis_rl.encoder, genesis_rl.pictures\n"
        "from genesis_rl.wrappers import observation, sb3, vector\n"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            torch.zeros(1, 3, 16, 16),
            ValueError,
            r"needs images \[B, 3, 32, 32\], but got \[1, 3, 16",
        ),
        (torch.zeros(3, 32, 32), ValueError, "needs images"),
        (torch.zeros(1, 32, 32, 3), ValueError, "needs images"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), TypeError, "uint8 or float"),
        (torch.full((1, 3, 32, 32), 255.0), ValueError, "divide by 255"),
        (torch.full((1, 3, 32, 32), -0.5), ValueError, r"lie in \[0, 1\]"),
        (torch.full((1, 3, 32, 32), float("nan")), ValueError, r"lie in \[0, 1\]"),
    ],
)
def test_images_of_another_kind_are_refused(encoder, images, error, message):
    with pytest.raises(error, match=message):
        encoder.encode(images)


def test_noise_of_another_shape_is_refused(encoder):
    with pytest.raises(ValueError, match=r"noise must be \[2, 3, 80\], but is \[2, 3, 64\]"):
        encoder.encode(frames(2), torch.zeros(2, 3, 64))


def test_a_missing_checkpoint_is_named():
    with pytest.raises(FileNotFoundError, match="no checkpoint 'multi_sprites'"):
        GenesisEncoder.from_checkpoint("multi_sprites")


def test_a_damaged_checkpoint_is_found_before_the_first_frame(tmp_path):
    path = tiny_checkpoint(tmp_path)
    weights = tmp_path / "tiny_0" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        GenesisEncoder.from_checkpoint(path)
    weights.write_bytes(data[:-100])
    with pytest.raises(ValueError, match="damaged"):
        GenesisEncoder.from_checkpoint(path)


def test_unknown_devices_and_precisions_are_refused(checkpoint):
    with pytest.raises(ValueError, match="device must be 'auto'"):
        GenesisEncoder.from_checkpoint(checkpoint, device="gpu")
    with pytest.raises(ValueError, match="precision must be one of"):
        GenesisEncoder.from_checkpoint(checkpoint, precision="fp16")
    with pytest.raises(ValueError, match="on CUDA only"):
        GenesisEncoder.from_checkpoint(checkpoint, device="cpu", precision="tf32").encode(frames(1))


def test_cuda_that_is_absent_is_an_error_not_a_silent_fallback(checkpoint):
    if torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="but there are"):
            GenesisEncoder.from_checkpoint(checkpoint, device="cuda:99").encode(frames(1))
    else:
        with pytest.raises((RuntimeError, ValueError), match="device='cuda' was asked for"):
            GenesisEncoder.from_checkpoint(checkpoint, device="cuda").encode(frames(1))


# --- other models --------------------------------------------------------------------------------


def test_other_models_plug_in_by_name():
    encoder = mean_colour("my_model")
    assert isinstance(encoder, ObjectEncoder)
    assert open_encoder("my_model") is encoder
    assert encoder.encode(torch.full((1, 3, 8, 8), 51, dtype=torch.uint8))[0, 0, 0] == 0.2


def test_genesis_is_an_object_encoder(encoder):
    assert isinstance(encoder, ObjectEncoder)


OTHERS = {
    "genesis_s": lambda: GenesisS(GenesisSConfig(num_slots=3, image_size=32, width=4)),
    "monet": lambda: Monet(MonetConfig(num_slots=3, image_size=32, width=4)),
    "bd_vae": lambda: BdVae(VaeConfig(image_size=32, width=4)),
    "dc_vae": lambda: DcVae(VaeConfig(image_size=32, width=4)),
}


def other_checkpoint(folder, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OTHERS[name]().eval()
    return model, save_checkpoint(folder / name, model)


@pytest.mark.parametrize("name", OTHERS)
def test_the_models_that_genesis_is_compared_with_encode_too(tmp_path, name):
    model, path = other_checkpoint(tmp_path, name)
    encoder = GenesisEncoder.from_checkpoint(path, device="cpu")
    assert encoder.latent_sizes == model.latent_sizes
    assert encoder.num_slots == model.num_slots
    images = frames(5)
    noise = torch.randn(5, model.num_slots, model.slot_dim)
    with torch.no_grad():
        means, samples = (model.encode(images.float() / 255, n) for n in (None, noise))
    torch.testing.assert_close(encoder.encode(images), means, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.encode(images, noise), samples, rtol=0, atol=1e-5)
    masks = encoder.latent_sizes[0]
    torch.testing.assert_close(encoder.encode_masks(images), means[..., :masks], rtol=0, atol=1e-5)
    rough = GenesisEncoder.from_checkpoint(path, device="cpu", precision="bf16").encode(images)
    assert (rough - means).abs().max() < 0.2
    encoder._start().network.train()
    torch.testing.assert_close(encoder.encode(images), means, rtol=0, atol=1e-5)


@gpu
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_run_as_graphs_too(tmp_path, name):
    _, path = other_checkpoint(tmp_path, name)
    images = frames(16)
    expected = GenesisEncoder.from_checkpoint(path, device="cpu").encode(images)
    for precision, bound in (("fp32", 1e-4), ("bf16", 0.2)):
        encoder = GenesisEncoder.from_checkpoint(path, device="cuda", precision=precision)
        for _ in range(3):
            assert (encoder.encode(images).cpu() - expected).abs().max() < bound
        assert encoder._start().captures == 1


# --- CUDA ----------------------------------------------------------------------------------------


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
    pairs = [
        (fused.gate(x, bias), plain.gate(exact, bias)),
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
    assert pairs[1][0].dtype == torch.float32


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

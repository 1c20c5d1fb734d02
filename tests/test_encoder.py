"""The frozen encoder equals the model it was made from, whatever the batch, and never changes.

Numbers of checks are those of the wrapper contract.
"""

import copy
import gc
import hashlib
import pickle
import shutil
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from genesis_rl import GenesisEncoder, save_checkpoint
from genesis_rl.inference.network import LeanGenesis
from toys import frames, tiny_checkpoint, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return GenesisEncoder.from_checkpoint(checkpoint, device="cpu")


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_autocast_of_the_caller_does_not_reach_the_encoder(tmp_path, precision):
    """Neither its passes nor its weights, which are made with the first image."""
    model, images, noise = tiny_model(seed=8), frames(2), torch.randn(2, 3, 80)

    def latents(folder):
        path = save_checkpoint(tmp_path / folder, model)
        encoder = GenesisEncoder.from_checkpoint(path, device="cpu", precision=precision)
        passes = encoder.encode(images), encoder.encode(images, noise), encoder.encode_masks(images)
        return [*passes, *encoder.state_dict().values()]

    with torch.autocast("cpu", torch.bfloat16):
        assert (images[:, 0].float() @ noise[:, 0, :32].T).dtype == torch.bfloat16  # it is on
        inside = latents("inside")
    for one, other in zip(inside, latents("outside"), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


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
        (torch.zeros(1, 32, 32, 3), ValueError, r"permute\(0, 3, 1, 2\)"),
        (np.zeros((1, 3, 32, 32), np.uint8), TypeError, "got ndarray; torch.from_numpy"),
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

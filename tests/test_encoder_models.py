"""The models that GENESIS is compared with, and those of others, encode too.

Numbers of checks are those of the wrapper contract.
"""

import pytest
import torch

from genesis_rl import GenesisEncoder, save_checkpoint
from genesis_rl.encoder import ObjectEncoder, open_encoder
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig
from toys import frames, gpu, mean_colour, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return GenesisEncoder.from_checkpoint(checkpoint, device="cpu")


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


@pytest.mark.parametrize("name", OTHERS)
def test_autocast_of_the_caller_does_not_reach_other_models(tmp_path, name):
    _, path = other_checkpoint(tmp_path, name)
    encoder, images = GenesisEncoder.from_checkpoint(path, device="cpu"), frames(2)
    with torch.autocast("cpu", torch.bfloat16):
        latents = encoder.encode(images)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, encoder.encode(images))


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

import math

import pytest
import torch

from genesis_rl.models.vae import BdVae, DcVae, VaeConfig

TINY = VaeConfig(image_size=32, latents=5, width=4)


@pytest.fixture(params=[BdVae, DcVae])
def tiny(request: pytest.FixtureRequest) -> BdVae | DcVae:
    torch.manual_seed(0)
    return request.param(TINY).eval()


def test_the_one_slot_owns_every_pixel(tiny: BdVae | DcVae):
    output = tiny(torch.rand(2, 3, 32, 32))
    assert torch.equal(output.masks, torch.ones(2, 1, 1, 32, 32))
    assert torch.equal(output.reconstruction, output.components[:, 0])
    assert output.mask_kl.abs().max() == 0


def test_the_error_is_that_of_a_gaussian_around_the_drawing(tiny: BdVae | DcVae):
    images = torch.rand(2, 3, 32, 32)
    output = tiny(images)
    z = (images - output.reconstruction) / 0.7
    nats = 0.5 * z**2 + math.log(0.7) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(output.error, nats.sum(dim=(1, 2, 3)))


def test_no_layer_of_the_gated_stacks_is_normalised(tiny: BdVae | DcVae):
    assert [name for name in tiny.state_dict() if "norm" in name] == []
    images = torch.rand(3, 3, 32, 32)
    alone = torch.cat([tiny.train().encode(image[None]) for image in images])
    torch.testing.assert_close(tiny.encode(images), alone, rtol=1e-4, atol=1e-5)


def test_dreams_draw_standard_normal_latents(tiny: BdVae | DcVae):
    noise = torch.randn(2, 1, 5)
    assert torch.equal(tiny.sample(2, noise).latents, noise)

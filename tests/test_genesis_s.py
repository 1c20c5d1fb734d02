import pytest
import torch

from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig

TINY = GenesisSConfig(num_slots=3, image_size=32, latents=6, width=4)


@pytest.fixture
def tiny() -> GenesisS:
    torch.manual_seed(0)
    return GenesisS(TINY).eval()


def test_the_first_prior_is_standard_normal_and_the_later_ones_are_learnt(tiny: GenesisS):
    prior = tiny(torch.rand(2, 3, 32, 32)).prior
    assert torch.equal(prior.mean[:, 0], torch.zeros(2, 6))
    assert torch.equal(prior.std[:, 0], torch.ones(2, 6))
    assert prior.mean[:, 1:].abs().min() > 0


def test_one_latent_is_charged_once(tiny: GenesisS):
    output = tiny(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(output.kl, output.mask_kl.sum(dim=1))
    density = output.posterior.log_prob(output.latents) - output.prior.log_prob(output.latents)
    torch.testing.assert_close(output.kl, density.sum(dim=(1, 2)))


def test_dreams_without_noise_follow_the_prior_means(tiny: GenesisS):
    dream = tiny.sample(1, torch.zeros(1, 3, 6))
    torch.testing.assert_close(dream.latents, tiny.masks.prior(dream.latents).mean)


def test_the_same_latent_moves_both_mask_and_colour(tiny: GenesisS):
    noise = torch.zeros(1, 3, 6)
    before, after = tiny.sample(1, noise), tiny.sample(1, noise + 1)
    assert (before.masks - after.masks).abs().max() > 0
    assert (before.components - after.components).abs().max() > 0

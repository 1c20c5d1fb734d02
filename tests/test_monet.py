import math

import pytest
import torch

from genesis_rl.models.monet import Monet, MonetConfig, mask_divergence

TINY = MonetConfig(num_slots=4, image_size=32, component_latents=2, width=4)


@pytest.fixture
def tiny() -> Monet:
    torch.manual_seed(0)
    return Monet(TINY).eval()


def masks_of(*shares: float) -> torch.Tensor:
    """Log masks of one image of one pixel."""
    return torch.tensor(shares).view(1, -1, 1, 1, 1).log()


def claim(model: Monet, logit: float) -> None:
    """Makes attention claim the same fraction of whatever is left, everywhere."""
    torch.nn.init.zeros_(model.attention.readout.weight)
    torch.nn.init.constant_(model.attention.readout.bias, logit)


def test_even_claims_halve_what_is_left(tiny: Monet):
    claim(tiny, 0.0)
    masks = tiny(torch.rand(1, 3, 32, 32)).masks[0, :, 0, 5, 5]
    torch.testing.assert_close(masks, torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]))


def test_attention_sees_what_the_slots_before_have_left(tiny: Monet):
    scopes = []
    tiny.attention.register_forward_pre_hook(lambda _, inputs: scopes.append(inputs[1]))
    masks = tiny(torch.rand(1, 3, 32, 32)).masks
    left = [1 - masks[:, :k].sum(dim=1) for k in range(3)]
    for scope, expected in zip(scopes, left, strict=True):  # the last slot needs no attention
        torch.testing.assert_close(scope.exp(), expected)


def test_masks_that_components_ask_for_are_free():
    masks = masks_of(0.5, 0.3, 0.2)
    assert mask_divergence(masks, masks).abs().max() == 0


def test_other_masks_cost_their_divergence():
    cost = mask_divergence(masks_of(0.5, 0.5), masks_of(0.25, 0.75))
    expected = torch.tensor([[0.5 * math.log(2), 0.5 * math.log(2 / 3)]])
    torch.testing.assert_close(cost, expected)


def test_a_mask_that_no_component_asks_for_costs_a_finite_price():
    cost = mask_divergence(masks_of(1.0, 0.0), masks_of(0.0, 1.0)).sum().item()
    assert cost == pytest.approx((1 - 1e-5) * math.log(1e5), rel=1e-5)


def test_dreamt_masks_are_those_that_components_ask_for(tiny: Monet):
    noise = torch.randn(2, 4, 2)
    dream, output = tiny.sample(2, noise), tiny(torch.rand(2, 3, 32, 32), noise)
    asked = tiny.components.draw(output.latents)[:, :, 3:].softmax(dim=1)
    torch.testing.assert_close(output.log_mask_prior.exp(), asked)
    torch.testing.assert_close(dream.latents, noise)
    torch.testing.assert_close(dream.masks, tiny.components.draw(noise)[:, :, 3:].softmax(dim=1))


def test_softmax_masks_do_not_depend_on_the_order_of_slots_but_stick_breaking_does():
    noise, reverse = torch.randn(1, 4, 2), [3, 2, 1, 0]
    for prior, equal in [("softmax", True), ("stick_breaking", False)]:
        torch.manual_seed(0)
        model = Monet(MonetConfig(4, 32, 2, width=4, mask_prior=prior)).eval()
        there, back = model.sample(1, noise).masks, model.sample(1, noise[:, reverse]).masks
        assert torch.allclose(there, back[:, reverse], atol=1e-6) is equal


def test_deviations_of_the_original_are_configuration():
    model = Monet(MonetConfig(std=0.11, first_std=0.09))
    torch.testing.assert_close(model.stds, torch.tensor([0.09, 0.11, 0.11, 0.11, 0.11]))


def test_an_unknown_mask_prior_is_refused():
    with pytest.raises(ValueError, match="mask_prior must be 'softmax' or 'stick_breaking'"):
        MonetConfig(mask_prior="uniform")

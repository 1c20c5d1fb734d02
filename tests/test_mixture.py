"""The three likelihoods: what they agree on, and on what they do not."""

import math

import pytest
import torch

from genesis_rl.losses.mixture import (
    LIKELIHOODS,
    composite_error,
    goal_of,
    mixture_error,
    pixel_mixture_error,
)


@pytest.fixture
def drawn():
    """Images, log masks, components and deviations: B = 2, K = 3, 4 x 4 pixels."""
    torch.manual_seed(0)
    log_masks = torch.randn(2, 3, 1, 4, 4).log_softmax(dim=1)
    return torch.rand(2, 3, 4, 4), log_masks, torch.rand(2, 3, 3, 4, 4), torch.full((3,), 0.7)


@pytest.mark.parametrize("error", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_a_perfect_drawing_costs_the_entropy_of_the_noise(error):
    images = torch.rand(1, 3, 4, 4)
    cost = error(images, torch.zeros(1, 1, 1, 4, 4), images[:, None], torch.tensor([0.7]))
    assert cost.item() / 48 == pytest.approx(0.562264, abs=1e-6)
    assert cost.item() / 48 == pytest.approx(goal_of(0, std=0.7), abs=1e-6)


@pytest.mark.parametrize("error", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_a_single_slot_is_a_gaussian_whatever_the_likelihood(error):
    images = torch.rand(2, 3, 4, 4)
    off = images[:, None] + 0.1  # a mean squared error of 0.01
    cost = error(images, torch.zeros(2, 1, 1, 4, 4), off, torch.tensor([0.3])) / 48
    torch.testing.assert_close(cost, torch.full((2,), goal_of(0.01, std=0.3)))


@pytest.mark.parametrize("error", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_small_deviations_stay_finite(error):
    images, drawing = torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 3, 2, 2)
    cost = error(images, torch.zeros(1, 1, 1, 2, 2), drawing, torch.tensor([0.01]))
    assert cost.item() == pytest.approx(12 * (0.5 * 1e4 - 4.605170 + 0.918939), rel=1e-6)


def test_mixtures_by_hand():
    """One pixel is (1, 0, 0); slot 1 draws white, slot 2 black, half the mask each."""
    image = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    components = torch.stack([torch.ones(3), torch.zeros(3)]).view(1, 2, 3, 1, 1)
    log_masks = torch.full((1, 2, 1, 1, 1), 0.5).log()
    right = -0.5 * math.log(2 * math.pi)  # log N at the mean, deviation 1; off by one costs 1/2
    arguments = image, log_masks, components, torch.ones(2)
    a_channel = math.log(0.5 * math.exp(right) + 0.5 * math.exp(right - 0.5))
    assert mixture_error(*arguments).item() == pytest.approx(-3 * a_channel)
    # White is wrong in two channels, black in one.
    pixel = math.log(0.5 * math.exp(3 * right - 1.0) + 0.5 * math.exp(3 * right - 0.5))
    assert pixel_mixture_error(*arguments).item() == pytest.approx(-pixel)
    # The blend is grey: off by a half in each channel.
    assert composite_error(*arguments).item() == pytest.approx(-3 * (right - 0.125))


@pytest.mark.parametrize("std", [0.7, 0.1])
def test_mixtures_agree_where_slots_do(drawn, std):
    images, log_masks, components, _ = drawn
    alike = components[:, :1].expand(-1, 3, -1, -1, -1)
    arguments = images, log_masks, alike, torch.full((3,), std)
    torch.testing.assert_close(mixture_error(*arguments), pixel_mixture_error(*arguments))


def test_only_a_mixture_per_channel_lets_slots_share_a_pixels_channels():
    white = torch.ones(1, 3, 1, 1)
    red_green_blue = torch.eye(3).view(1, 3, 3, 1, 1)  # each slot is right in one channel
    thirds = torch.full((1, 3, 1, 1, 1), 1 / 3).log()
    arguments = white, thirds, red_green_blue, torch.full((3,), 0.1)
    # Any one slot is off by ten deviations in two channels: 2 x 50 nats, less three times log 3.
    saved = pixel_mixture_error(*arguments) - mixture_error(*arguments)
    assert saved.item() == pytest.approx(100 - 3 * math.log(3), abs=1e-3)


def test_mixtures_nearly_agree_at_the_papers_deviation_and_not_at_a_tenth(drawn):
    images, log_masks, components, _ = drawn

    def gap(std):
        stds = torch.full((3,), std)
        per_channel = mixture_error(images, log_masks, components, stds)
        return ((pixel_mixture_error(images, log_masks, components, stds) - per_channel) / 48).max()

    assert gap(0.7).abs() < 0.02
    assert gap(0.1).abs() > 1


def test_every_slot_has_its_own_deviation_in_a_mixture(drawn):
    images, log_masks, components, _ = drawn
    for error in (mixture_error, pixel_mixture_error):
        wide = error(images, log_masks, components, torch.tensor([5.0, 0.7, 0.7]))
        assert (wide != error(images, log_masks, components, torch.full((3,), 0.7))).all()


@pytest.mark.parametrize("error", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_gradients_reach_masks_and_components(error, drawn):
    images, log_masks, components, std = drawn
    log_masks.requires_grad_(True)
    components.requires_grad_(True)
    error(images, log_masks, components, std).sum().backward()
    assert log_masks.grad.abs().max() > 0
    assert components.grad.abs().max() > 0

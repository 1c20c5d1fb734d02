import pytest
import torch

from genesis_rl import Genesis, GenesisConfig
from genesis_rl.losses.mixture import mixture_error
from genesis_rl.models.layers import BroadcastDecoder, Gaussian, monte_carlo_kl
from genesis_rl.models.masks import stick_breaking

TINY = GenesisConfig(num_slots=3, image_size=32, width=4, mask_latents=6, component_latents=2)


@pytest.fixture
def tiny() -> Genesis:
    torch.manual_seed(0)
    return Genesis(TINY).eval()


@pytest.mark.parametrize("image_size", [32, 64, 128])
@pytest.mark.parametrize("num_slots", [2, 5])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_sizes_and_slots_are_configuration(image_size: int, num_slots: int, norm: str):
    config = GenesisConfig(num_slots, image_size, mask_latents=6, width=4, norm=norm)
    model, images = Genesis(config), torch.rand(2, 3, image_size, image_size)
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert output.latents.shape == (2, num_slots, 6 + 16)
    assert output.error.shape == output.kl.shape == (2,)
    assert model.eval().sample(2).canvases.shape == (2, num_slots, 3, image_size, image_size)


def test_a_certain_first_slot_leaves_nothing_for_the_rest():
    logits = torch.tensor([60.0, 0.0]).view(1, 2, 1, 1, 1)
    masks = stick_breaking(logits).exp().flatten()
    torch.testing.assert_close(masks, torch.tensor([1.0, 0.0, 0.0]))


def test_even_claims_halve_what_is_left():
    masks = stick_breaking(torch.zeros(1, 3, 1, 1, 1)).exp().flatten()
    torch.testing.assert_close(masks, torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8]))


def test_log_masks_stay_finite_where_masks_underflow():
    log_masks = stick_breaking(torch.full((1, 8, 1, 1, 1), 200.0))
    assert log_masks[0, -1].item() == pytest.approx(-1600)


def test_dreams_without_noise_follow_the_prior_means(tiny: Genesis):
    dream = tiny.sample(1, torch.zeros(1, 3, 8))
    prior = tiny.masks.prior(dream.latents[..., :6])
    torch.testing.assert_close(dream.latents[..., :6], prior.mean)
    assert prior.mean.abs().max() < 1  # tanh


def test_the_releases_sampler_differs_only_by_the_missing_tanh(tiny: Genesis):
    noise = torch.zeros(1, 3, 8)
    ours = tiny.sample(1, noise).latents[0, 1, :6]
    theirs = tiny.sample(1, noise, squash_prior_means=False).latents[0, 1, :6]
    torch.testing.assert_close(ours, theirs.tanh())


def test_a_perfect_drawing_costs_the_entropy_of_the_noise():
    images = torch.rand(1, 3, 4, 4)
    log_masks = torch.zeros(1, 1, 1, 4, 4)
    error = mixture_error(images, log_masks, images[:, None], torch.tensor([0.7]))
    assert error.item() / 48 == pytest.approx(0.562264, abs=1e-6)


def test_equal_drawings_cost_the_same_however_the_masks_share_them():
    images, drawing = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 3, 4, 4)
    shared = mixture_error(
        images, torch.full((1, 2, 1, 4, 4), 0.5).log(), drawing.repeat(1, 2, 1, 1, 1), torch.ones(2)
    )
    alone = mixture_error(images, torch.zeros(1, 1, 1, 4, 4), drawing, torch.ones(1))
    torch.testing.assert_close(shared, alone)


def test_the_error_stays_finite_at_deviations_where_plain_exponentials_vanish():
    images, drawing = torch.zeros(1, 3, 2, 2), torch.ones(1, 1, 3, 2, 2)
    error = mixture_error(images, torch.zeros(1, 1, 1, 2, 2), drawing, torch.tensor([0.01]))
    assert error.item() == pytest.approx(12 * (0.5 * 1e4 - 4.605170 + 0.918939), rel=1e-6)


def test_a_posterior_equal_to_its_prior_costs_nothing():
    gaussian = Gaussian(torch.tensor([[0.3, -1.0]]), torch.tensor([[0.5, 2.0]]))
    assert monte_carlo_kl(gaussian, gaussian, torch.randn(1, 2)).item() == 0


def test_the_broadcast_decoder_equals_convolving_the_tiled_latent():
    decoder = BroadcastDecoder(latents=3, channels=3, width=4, image_size=16)
    z = torch.randn(2, 3)
    axis = torch.linspace(-1, 1, 24)
    rows, columns = axis[:, None].expand(24, 24), axis[None].expand(24, 24)
    tiled = z[:, :, None, None].expand(-1, -1, 24, 24)
    x = torch.cat([tiled, torch.stack([rows, columns]).expand(2, -1, -1, -1)], dim=1)
    for conv in (decoder.first, *decoder.later):
        x = torch.nn.functional.elu(conv(x))
    torch.testing.assert_close(decoder(z), decoder.readout(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 48}, "image_size must be one of"),
        ({"num_slots": 1}, "num_slots must be an integer of at least 2"),
        ({"norm": "group"}, "norm must be"),
        ({"std": 0.0}, "std must be positive"),
    ],
)
def test_impossible_configurations_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        GenesisConfig(**options)

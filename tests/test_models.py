"""What every model promises."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from genesis_rl import Genesis, GenesisConfig, load_checkpoint, save_checkpoint
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.slots import SlotModel
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig


@dataclass(frozen=True)
class Case:
    build: Any
    tiny: Any
    parameters: int  # of the release's default model
    latent_sizes: tuple[int, int]  # of the tiny one
    slots: int = 3


VAE = VaeConfig(image_size=32, latents=5, width=4)
CASES = {
    "genesis": Case(Genesis, GenesisConfig(3, 32, 6, 2, width=4), 12_620_548, (6, 2)),
    "genesis_s": Case(GenesisS, GenesisSConfig(3, 32, 6, width=4), 12_207_236, (6, 0)),
    "monet": Case(Monet, MonetConfig(3, 32, 2, width=4), 974_085, (0, 2)),
    "bd_vae": Case(BdVae, VAE, 9_143_747, (0, 5), slots=1),
    "dc_vae": Case(DcVae, VAE, 11_549_091, (0, 5), slots=1),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return CASES[request.param]


@pytest.fixture
def tiny(case: Case) -> SlotModel:
    return case.build(case.tiny).eval()


def is_normalised_bias(name: str, model: SlotModel) -> bool:
    return f"{name.removesuffix('conv.bias')}norm.running_mean" in model.state_dict()


def noise_for(model: SlotModel, count: int) -> torch.Tensor:
    return torch.randn(count, model.num_slots, model.slot_dim)


def test_the_default_model_has_the_parameter_count_of_the_release(case: Case):
    assert sum(p.numel() for p in case.build().parameters()) == case.parameters


def test_a_model_says_how_many_numbers_it_gives(case: Case, tiny: SlotModel):
    assert (tiny.num_slots, tiny.image_size, tiny.latent_sizes) == (
        case.slots,
        32,
        case.latent_sizes,
    )
    assert tiny.encode(torch.rand(2, 3, 32, 32)).shape == (2, case.slots, tiny.slot_dim)


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_image_size_is_configuration(case: Case, image_size: int):
    model = case.build(replace(case.tiny, image_size=image_size))
    images = torch.rand(2, 3, image_size, image_size)
    output = model(images)
    grid = (2, case.slots, 3, image_size, image_size)
    assert output.reconstruction.shape == images.shape
    assert output.latents.shape == (2, case.slots, model.slot_dim)
    assert output.error.shape == output.kl.shape == (2,)
    assert output.mask_kl.shape == output.component_kl.shape == (2, case.slots)
    assert output.canvases.shape == model.eval().sample(2).canvases.shape == grid


def test_masks_share_out_every_pixel(tiny: SlotModel):
    for output in (tiny(torch.rand(2, 3, 32, 32)), tiny.sample(2)):
        torch.testing.assert_close(output.masks.sum(dim=1), torch.ones(2, 1, 32, 32))


def test_encoding_gives_the_latents_that_a_pass_on_means_infers(tiny: SlotModel):
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(tiny.encode(images), tiny.decompose(images).latents)


def test_encoding_means_draws_no_random_numbers(tiny: SlotModel):
    before = torch.get_rng_state()
    tiny.encode(torch.rand(1, 3, 32, 32, generator=torch.Generator()))
    assert torch.equal(before, torch.get_rng_state())


def test_encoding_with_noise_gives_the_sample_that_a_forward_pass_draws(tiny: SlotModel):
    images, noise = torch.rand(2, 3, 32, 32), noise_for(tiny, 2)
    torch.testing.assert_close(tiny.encode(images, noise), tiny(images, noise).latents)


def test_noise_of_another_shape_is_refused_where_broadcasting_would_hide_it(tiny: SlotModel):
    images, noise = torch.rand(2, 3, 32, 32), noise_for(tiny, 2)
    for wrong in (noise[:1], noise[:, :, :1], noise[0], noise_for(tiny, 3)):
        needed = rf"needs noise \[2, {tiny.num_slots}, {tiny.slot_dim}\], but got \["
        for call in (tiny.encode, tiny):
            with pytest.raises(ValueError, match=needed):
                call(images, wrong)
        with pytest.raises(ValueError, match=needed):
            tiny.sample(2, wrong)


def test_dreams_are_a_function_of_their_noise(tiny: SlotModel):
    noise = noise_for(tiny, 2)
    first, again = tiny.sample(2, noise), tiny.sample(2, noise)
    torch.testing.assert_close(first.reconstruction, again.reconstruction)
    assert not torch.equal(first.reconstruction, tiny.sample(2).reconstruction)


def test_the_last_canvas_is_the_reconstruction(tiny: SlotModel):
    output = tiny.sample(2)
    torch.testing.assert_close(output.canvases[:, -1], output.reconstruction)


def test_training_reaches_every_weight(case: Case):
    model = case.build(case.tiny).train()
    output = model(torch.rand(2, 3, 32, 32))
    (output.error.mean() + output.kl.mean()).backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    # Batch normalisation takes the bias before it out again.
    assert unused == {name for name in model.state_dict() if is_normalised_bias(name, model)}


def test_half_precision_is_for_convolutions_only(tiny: SlotModel):
    images, noise = torch.rand(2, 3, 32, 32), noise_for(tiny, 2)
    exact = tiny(images, noise)
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny(images, noise)
    for name in ("error", "mask_kl", "component_kl", "log_masks", "components", "latents"):
        assert getattr(output, name).dtype == torch.float32, name
    torch.testing.assert_close(output.error, exact.error, rtol=0.01, atol=0)


def test_a_checkpoint_gives_the_same_model_back(tiny: SlotModel, tmp_path):
    images = torch.rand(2, 3, 32, 32)
    again = load_checkpoint(save_checkpoint(tmp_path / "model", tiny))
    assert type(again) is type(tiny)
    assert again.config == tiny.config
    torch.testing.assert_close(again.encode(images), tiny.encode(images), rtol=0, atol=0)


def test_images_of_another_size_are_refused_by_name(tiny: SlotModel):
    message = rf"{type(tiny).__name__} needs images \[B, 3, 32, 32\], but got \(1, 3, 64, 64\)"
    with pytest.raises(ValueError, match=message):
        tiny(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 48}, "image_size must be one of"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"std": 0.0}, "std must be positive"),
    ],
)
def test_impossible_configurations_are_refused(case: Case, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(case.tiny, **options)


def test_the_whole_model_compiles_into_one_graph(tiny: SlotModel):
    def losses(images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = tiny(images, noise)
        return output.error.mean(), output.kl.mean()

    inputs = torch.rand(2, 3, 32, 32), noise_for(tiny, 2)
    torch.compiler.reset()  # otherwise dynamo counts these five models as one that keeps changing
    compiled = torch.compile(losses, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), losses(*inputs))

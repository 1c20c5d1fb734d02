"""The loops over slots with gradients of their own: that they are their plain twins."""

import copy

import pytest
import torch
from torch import nn

from genesis_rl.models.genesis import Genesis, GenesisConfig
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.masks import Masks
from pretrain.kernels import recurrence

BATCH, LATENTS, FEATURES = 3, 4, 16


def twins(slots, dtype=torch.float32):
    """A model of masks whose images are their own features, and one with the faster loops."""
    torch.manual_seed(0)
    plain = Masks(num_slots=slots, latents=LATENTS, image_size=32, width=2, norm="none").to(dtype)
    plain.encoder = nn.Identity()
    fast = copy.deepcopy(plain)
    set_loops(fast)
    return plain, fast


def set_loops(masks):
    masks.infer_slots, masks.unroll = recurrence.infer_slots, recurrence.unroll


def results(masks, slots, *, noisy=True, run=None):
    """Posterior, latents, prior, and the gradients of all that goes in, by name."""
    like = masks.first_slot.weight
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like.dtype)

    features = draw(BATCH, FEATURES).requires_grad_()
    noise = draw(BATCH, slots, LATENTS) if noisy else None
    values = (run or infer)(masks, features, noise)
    sum((draw(*value.shape) * value).sum() for value in values).backward()
    names = ("mean", "std", "latents", "prior mean", "prior std")
    found = {name: value.detach() for name, value in zip(names, values, strict=True)}
    found["features"] = features.grad
    for name, parameter in masks.named_parameters():
        # Of two slots, the second starts from no state: the plain loop never sees this weight.
        unused = torch.zeros_like(parameter)
        found[name] = unused if parameter.grad is None else parameter.grad
    return found


def infer(masks, features, noise):
    posterior, latents = masks.posterior(features, noise)
    return *posterior, latents, *masks.prior(latents)


def assert_same(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        scale = value.abs().max().clamp(min=1)
        assert (ours[name] - value).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("slots", [2, 3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_results_and_gradients_are_those_of_the_plain_loops(
    slots, noisy, dtype, tolerance, monkeypatch
):
    if dtype == torch.float64:  # which models round to float32
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    plain, fast = twins(slots, dtype)
    theirs = results(plain, slots, noisy=noisy)
    assert_same(results(fast, slots, noisy=noisy), theirs, tolerance)
    assert theirs["later_slots_head.weight"].any()
    assert theirs["prior_lstm.weight_hh"].any() == (slots > 2)


@pytest.mark.parametrize(("slots", "backend"), [(2, "aot_eager"), (3, "inductor")])
def test_they_compile_as_a_whole(slots, backend):
    plain, fast = twins(slots)
    compiled = torch.compile(infer, fullgraph=True, dynamic=False, backend=backend)
    assert_same(results(fast, slots, run=compiled), results(plain, slots), 1e-5)


def test_they_stay_exact_inside_autocast():
    plain, fast = twins(3)

    def rounded(masks, features, noise):
        with torch.autocast("cpu", torch.bfloat16):
            return infer(masks, features, noise)

    theirs = results(plain, 3)
    assert_same(results(copy.deepcopy(fast), 3, run=rounded), theirs, 1e-5)
    compiled = torch.compile(rounded, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_same(results(fast, 3, run=compiled), theirs, 1e-5)


def test_no_weight_is_multiplied_by_its_gradients_step_by_step():
    """The products of a loop and its gradient: two a slot and way, and one a weight."""
    counts = []
    for slots in (3, 4):
        _, fast = twins(slots)
        with torch.profiler.profile() as profile:
            results(fast, slots)
        events = profile.key_averages()
        counts.append(sum(e.count for e in events if e.key in ("aten::mm", "aten::addmm")))
    assert counts[1] - counts[0] == 4 + 2  # posterior and prior


@pytest.mark.parametrize(
    ("model", "config"), [(Genesis, GenesisConfig), (GenesisS, GenesisSConfig)]
)
def test_a_model_trains_alike(model, config):
    torch.manual_seed(0)
    plain = model(config(num_slots=3, image_size=32, width=8)).train()
    fast = copy.deepcopy(plain)
    set_loops(fast.masks)
    images, noise = torch.rand(2, 3, 32, 32), plain.draw_noise(2)
    for each in (plain, fast):
        output = each(images, noise)
        (output.error + output.kl).sum().backward()
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            scale = theirs.grad.abs().max().clamp(min=1)
            assert (ours.grad - theirs.grad).abs().max() <= 1e-4 * scale, name

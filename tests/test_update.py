"""From gradients to weights: by torch's Adam, and by a kernel that does the same in one pass.

On a GPU the kernel itself runs; elsewhere, if Triton is there, its interpreter runs it.
"""

import pytest
import torch
from torch import nn

from on_triton import run_in_interpreter, starts_the_interpreter, triton_device
from pretrain.update import Update
from test_engine import make, run


@pytest.fixture
def device() -> torch.device:
    return triton_device()


@starts_the_interpreter
def test_the_kernels_agree_in_the_interpreter():
    run_in_interpreter(__file__)


class Learner(nn.Module):
    """Weights of several layouts: images' channels last, longer than a part, 5, and 1 number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        filters = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
        self.filters = nn.Parameter(filters)
        self.long = nn.Parameter(torch.randn(3, 701))
        self.five = nn.Parameter(torch.randn(5))
        self.one = nn.Parameter(torch.randn(()))
        self.idle = nn.Parameter(torch.randn(6))
        self.norm = nn.BatchNorm1d(2, affine=False)


OPTIONS = {"betas": (0.9, 0.999), "clip": 0.0, "average": 0.0}
CASES = [
    {},
    {"average": 0.75},
    {"clip": 3.0, "average": 0.999},
    {"betas": (0.0, 0.99)},
]


def gradients(model, step, scale=1.0):
    """Gives all but one parameter a gradient: some large, some tiny."""
    generator = torch.Generator().manual_seed(step)
    for name, parameter in model.named_parameters():
        if name != "idle":
            size = {"five": 1e-6, "one": 1e3}.get(name, 1.0) * scale
            drawn = size * torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(drawn)


def trained(kind, device, steps=4, bad=(), **options):
    """What is left of a learner and its moments after so many steps, some of which are bad."""
    model = Learner().to(device)
    rate = torch.tensor(0.01, device=device)
    update = kind(model, list(model.parameters()), rate, **OPTIONS | options)
    for step in range(steps):
        gradients(model, step, scale=float("nan") if step in bad else 1.0)
        norm = update.norms().norm()
        update.decide(torch.isfinite(norm), norm)
        model.norm.running_mean += 1  # as a forward pass does
        update.apply()
    state = update.state_dict()
    moments = {f"{i}.{k}": v for i, own in enumerate(state["optimizer"]) for k, v in own.items()}
    return {**model.state_dict(), **state.get("average", {}), **moments, "norm of all": norm}


def one_pass(device):
    from pretrain.kernels import one_pass_update

    return one_pass_update()


@pytest.mark.parametrize("options", CASES)
def test_one_pass_moves_weights_moments_and_averages_as_torch_does(device, options):
    expected = trained(Update, device, **options)
    found = trained(one_pass(device), device, **options)
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"4.step"}:  # all count together, also what never moves
        torch.testing.assert_close(found[name], expected[name], rtol=2e-6, atol=1e-7, msg=name)


def test_a_step_that_does_not_count_moves_nothing(device):
    before = trained(one_pass(device), device, steps=3, average=0.75)
    after = trained(one_pass(device), device, steps=4, bad=[3], average=0.75)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved == ["norm.running_mean", "norm of all"]  # the first is the forward pass's


def test_weights_without_a_gradient_keep_their_values_moments_and_average(device):
    found = trained(one_pass(device), device, average=0.75)
    torch.manual_seed(0)
    assert torch.equal(found["idle"].cpu(), Learner().idle.data)
    assert not found["4.exp_avg"].any()


def test_results_repeat_bit_for_bit(device):
    first, second = (trained(one_pass(device), device, clip=3.0, average=0.9) for _ in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_gradient_that_begins_anywhere_in_memory_is_read_from_there(device):
    model = Learner().to(device)
    update = one_pass(device)(
        model, list(model.parameters()), torch.tensor(0.01, device=device), **OPTIONS
    )
    gradients(model, 0)
    expected = update.norms().norm()
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.dim() == 2:
            shifted = parameter.new_zeros(parameter.numel() + 1)[1:].view_as(parameter)
            parameter.grad = shifted.copy_(parameter.grad)
    assert torch.equal(update.norms().norm(), expected)


def test_normalisation_statistics_are_averaged_beside_the_kernel(device):
    found = trained(one_pass(device), device, steps=1, average=0.75)
    assert found["model.norm.running_mean"].tolist() == [1.0, 1.0]
    assert int(found["steps"]) == 1


def test_weights_of_another_type_are_refused(device):
    model = nn.Linear(3, 2).double().to(device)
    with pytest.raises(TypeError, match=r"float32 for this, but one is torch.float64"):
        one_pass(device)(
            model, list(model.parameters()), torch.tensor(0.01, device=device), **OPTIONS
        )


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"average": 0.9}, {"average": 0.9, "clip": 3.0}])
def test_a_graph_finds_the_gradients_of_its_own(options):
    plain = make("cuda", compile=True, **options)
    fused = make("cuda", compile=True, fused=True, **options)
    losses = run(fused, 20, seed=0)
    assert losses == pytest.approx(run(plain, 20, seed=0), rel=1e-3)
    assert losses[-1] < losses[0]
    ours, theirs = (engine.averaged_model.state_dict() for engine in (fused, plain))
    name = "masks.first_slot.weight"
    assert (ours[name] - theirs[name]).norm() < 0.05 * theirs[name].norm()
    assert not torch.equal(ours[name], fused.model.state_dict()[name])

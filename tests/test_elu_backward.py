"""Gradients through a convolution's bias and ELU: that they are the plain twins', and repeat.

On a GPU the kernels themselves run; elsewhere, if Triton is there, its interpreter runs them.
"""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genesis_rl.models.components import Components, ComponentVae
from on_triton import run_in_interpreter, starts_the_interpreter, triton_device
from pretrain.kernels import use_kernels
from pretrain.kernels.elu import (
    bias_elu,
    elu_backward,
    elu_readout,
    elu_readout_backward,
    spread,
    spread_backward,
)


@pytest.fixture
def device() -> torch.device:
    return triton_device()


@starts_the_interpreter
def test_the_kernels_agree_in_the_interpreter():
    run_in_interpreter(__file__)


def draw(*shape, device, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


class Case:
    """A convolution's output, a bias, weights of sums, and upstream gradients of both."""

    def __init__(self, shape, device, dtype=torch.float32, outputs=3):
        batch, channels, height, width = shape
        self.x = draw(*shape, device=device).to(dtype).to(memory_format=torch.channels_last)
        self.bias = draw(channels, device=device, seed=1)
        self.weight = draw(outputs, channels, 1, 1, device=device, seed=2)
        self.upstream = draw(*shape, device=device, seed=3).to(dtype)
        self.of_sums = draw(batch, outputs, height, width, device=device, seed=4)

    def of_elu(self):
        """Gradients of x and the bias, by the kernels and by plain torch."""
        x, bias = self.x.float().clone().requires_grad_(), self.bias.clone().requires_grad_()
        y = F.elu(x + bias[:, None, None])
        y.backward(self.upstream.float())
        return elu_backward(self.upstream, y.detach().to(self.x.dtype)), (x.grad, bias.grad)

    def of_spread(self):
        """Gradients of what is added up before an ELU: an image, and numbers for every image."""
        grid = self.x[:1].float().clone().requires_grad_()
        latents = self.x[:, :, 0, 0].float().clone().requires_grad_()
        y = F.elu(grid + latents[:, :, None, None])
        y.backward(self.upstream.float())
        found = spread_backward(self.upstream, y.detach().to(self.x.dtype))
        return found, (grid.grad, latents.grad)

    def of_readout(self):
        """The same of the weighted sums, and the gradients of their weights."""
        x, bias = self.x.float().clone().requires_grad_(), self.bias.clone().requires_grad_()
        weight = self.weight.clone().requires_grad_()
        F.conv2d(F.elu(x + bias[:, None, None]), weight).backward(self.of_sums)
        of_x, sums = elu_readout_backward(self.of_sums, self.x, self.bias, self.weight)
        found = of_x, sums[0], sums[1:, :, None, None]
        return found, (x.grad, bias.grad, weight.grad)


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


# One tile; several, the last of them cut short; a number of channels that is no power of two.
SHAPES = [(2, 32, 5, 3), (3, 64, 7, 9), (2, 24, 11, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_plain_twins(shape, device):
    case = Case(shape, device)
    assert_close(*case.of_elu(), 1e-5)
    assert_close(*case.of_spread(), 1e-5)
    assert_close(*case.of_readout(), 1e-5)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_up_to_four_sums_are_read_back(outputs, device):
    assert_close(*Case((2, 32, 5, 3), device, outputs=outputs).of_readout(), 1e-5)


def test_bfloat16_is_rounded_once_at_the_end(device):
    case = Case((2, 32, 9, 9), device, torch.bfloat16)
    # A GPU rounds to the nearest of numbers 2**-7 apart; the interpreter cuts off.
    (of_x, *of_parameters), (expected, *others) = case.of_readout()
    assert of_x.dtype == torch.bfloat16
    assert_close([of_x], [expected], 2**-7)
    assert_close(of_parameters, others, 1e-5)
    assert_close(*case.of_elu(), 2**-7)  # whose result is in bfloat16 as well


@pytest.mark.parametrize("programs", [396, 5])
def test_more_tiles_than_programs_change_nothing(programs, device, monkeypatch):
    from pretrain.kernels import elu_passes

    monkeypatch.setattr(elu_passes, "_ELEMENTS", 256)
    monkeypatch.setattr(elu_passes, "_PROGRAMS", programs)
    case = Case((2, 32, 9, 11), device)  # 25 tiles, the last of them cut short
    assert_close(*case.of_elu(), 1e-5)
    assert_close(*case.of_spread(), 1e-5)
    assert_close(*case.of_readout(), 1e-5)


def test_results_repeat_bit_for_bit(device):
    case = Case((2, 64, 9, 9), device, torch.bfloat16)
    for gradients in (case.of_elu, case.of_spread, case.of_readout):
        first, second = gradients()[0], gradients()[0]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_any_layout_and_type_of_gradient_may_come(device):
    case = Case((2, 32, 5, 7), device)
    expected = case.of_elu()[0]
    case.upstream = case.upstream.to(memory_format=torch.channels_last)
    for ours, theirs in zip(case.of_elu()[0], expected, strict=True):
        assert torch.equal(ours, theirs)
    y = case.x.bfloat16()
    of_x, _ = elu_backward(case.upstream, y)
    assert of_x.dtype == torch.bfloat16
    assert of_x.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_sums_may_lie_channels_last(device):
    case = Case((2, 32, 5, 7), device)
    expected = case.of_readout()[0]
    planes = case.of_sums
    for layout in (planes.to(memory_format=torch.channels_last), planes.mT.contiguous().mT):
        case.of_sums = layout
        for ours, theirs in zip(case.of_readout()[0], expected, strict=True):
            assert torch.equal(ours, theirs)


def test_torch_finds_the_operations_well_formed(device):
    case = Case((2, 8, 3, 3), device)
    torch.library.opcheck(elu_backward, (case.upstream, case.x))
    torch.library.opcheck(spread_backward, (case.upstream, case.x))
    arguments = (case.of_sums, case.x, case.bias, case.weight)
    torch.library.opcheck(elu_readout_backward, arguments)


def test_forward_is_that_of_the_plain_twins_up_to_rounding():
    case = Case((2, 32, 5, 3), torch.device("cpu"), torch.bfloat16)
    grid, latents = case.x[:1], case.x[:, :, 0, 0]
    exact = F.elu(grid.double() + latents.double()[:, :, None, None])
    found = spread(grid, latents, nn.ELU()).double()
    torch.testing.assert_close(found, exact, rtol=2**-8, atol=1e-7)
    readout = nn.Conv2d(32, 3, 1)
    exact = F.elu(case.x.double() + case.bias.double()[:, None, None])
    torch.testing.assert_close(bias_elu(case.x, case.bias).double(), exact, rtol=2**-8, atol=1e-7)
    sums = readout.double()(exact).float()
    readout = readout.float()
    torch.testing.assert_close(elu_readout(case.x, case.bias, readout), sums)


def test_other_types_keep_the_exact_one():
    case = Case((2, 32, 5, 3), torch.device("cpu"))
    exact, readout = F.elu(case.x + case.bias[:, None, None]), nn.Conv2d(32, 3, 1)
    assert torch.equal(bias_elu(case.x, case.bias), exact)
    torch.testing.assert_close(elu_readout(case.x, case.bias, readout), readout(exact))
    grid, latents = case.x[:1], case.x[:, :, 0, 0]
    exact = F.elu(grid + latents[:, :, None, None])
    assert torch.equal(spread(grid, latents, nn.ELU()), exact)


def small(activation) -> ComponentVae:
    torch.manual_seed(0)
    return ComponentVae(latents=3, channels=3, image_size=32, width=4, activation=activation)


def test_weights_are_called_what_they_were():
    names = [f"encoder.{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")]
    names += [f"head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    layers = ("first", "later.0", "later.1", "later.2", "readout")
    names += [f"decoder.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert list(small(nn.ELU).state_dict()) == names


def test_relus_draw_what_they_drew(device):
    model = small(nn.ReLU).to(device)
    latents = draw(2, 2, 3, device=device)
    expected = model.draw(latents)
    use_kernels(model, device, pairs=False)
    assert model.decoder.active_readout is None
    torch.testing.assert_close(model.draw(latents), expected)


def test_every_elu_behind_a_convolution_has_its_bias(device, monkeypatch):
    seen = []

    def counted(x, bias):
        seen.append(len(bias))
        return bias_elu(x, bias)

    monkeypatch.setattr(sys.modules[bias_elu.__module__], "bias_elu", counted)
    model = small(nn.ELU).to(device)
    use_kernels(model, device)
    log_masks = torch.zeros(1, 2, 1, 32, 32, device=device)
    model.draw(model.posterior(torch.zeros(1, 3, 32, 32, device=device), log_masks).mean)
    assert seen == [4, 4, 8, 8, 4, 4]  # the decoder's last goes with the readout


def test_a_component_vae_is_one_graph_and_has_the_plain_gradients(device):
    torch.manual_seed(0)
    options = {"mask_latents": 2, "latents": 3, "image_size": 32, "width": 4}
    plain = Components(**options).to(device)
    fused = copy.deepcopy(plain)
    use_kernels(fused, device)
    assert fused.decoder.active_readout is elu_readout
    images = torch.rand(1, 3, 32, 32, device=device)
    log_masks = torch.full((1, 2, 1, 32, 32), 0.5, device=device).log()

    def loss(model):
        with torch.autocast(device.type, torch.bfloat16):
            drawn = model.decode(model.posterior(images, log_masks).mean)
            return (drawn - images[:, None]).square().sum()

    loss(plain).backward()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(fused).backward()
    for (name, ours), theirs in zip(fused.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).norm() < 0.05 * theirs.grad.norm(), name

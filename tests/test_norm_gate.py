"""The fused normalisation and gate: that it is its plain twin, and what it does not do.

On a GPU the kernels themselves run; elsewhere, if Triton is there, its interpreter runs them.
"""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genesis_rl.inference.paired import interleaved
from genesis_rl.models.gates import batch_norm_gate as plain_gate
from genesis_rl.models.genesis import Genesis, GenesisConfig
from on_triton import INTERPRETED, run_in_interpreter, starts_the_interpreter, triton_device
from pretrain.kernels import use_kernels
from pretrain.kernels.norm_gate import batch_norm_gate, norm_gate
from test_engine import make, run


@pytest.fixture
def device() -> torch.device:
    return triton_device()


@starts_the_interpreter
def test_the_kernels_agree_in_the_interpreter():
    run_in_interpreter(__file__)


class Case:
    """A normalisation, an input that is far from centred, and an upstream gradient."""

    def __init__(self, shape, device, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)

        def draw(*shape):
            return torch.randn(*shape, generator=generator).to(device)

        batch, channels, height, width = shape
        self.norm = nn.BatchNorm2d(channels).to(device)
        for tensor in (self.norm.weight.data, self.norm.bias.data, self.norm.running_mean):
            tensor.copy_(draw(channels))
        x = 3 * draw(*shape) + 10 * draw(channels)[:, None, None]
        self.x = x.to(dtype).to(memory_format=torch.channels_last)
        self.bias = draw(channels)
        self.upstream = draw(batch, channels // 2, height, width).to(dtype)

    def results(self, gate):
        """What a gate returns and leaves behind, by name."""
        norm, x = copy.deepcopy(self.norm), self.x.clone().requires_grad_()
        gated = gate(x, norm, self.bias)
        gated.backward(self.upstream)
        return {
            "gated": gated.detach(),
            "x": x.grad,
            "scale": norm.weight.grad,
            "shift": norm.bias.grad,
            "running_mean": norm.running_mean,
            "running_var": norm.running_var,
        }


def largest_deviations(ours, theirs):
    """Of each result, relative to its largest number."""
    return {
        name: float((ours[name] - value).double().abs().max() / value.double().abs().max())
        for name, value in theirs.items()
    }


# One tile; several, the last of them cut short; a number of channels that is no power of two.
SHAPES = [(2, 8, 5, 7), (1, 64, 11, 13), (3, 24, 7, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_results_gradients_and_statistics_are_those_of_the_plain_twin(shape, device):
    case = Case(shape, device)
    deviations = largest_deviations(case.results(batch_norm_gate), case.results(plain_gate))
    assert max(deviations.values()) < 1e-5, deviations


@pytest.mark.parametrize("shape", [(2, 8, 6, 14), (1, 24, 4, 2)])
def test_corners_of_squares_become_the_gated_image_of_the_interleaved_ones(shape, device):
    case = Case(shape, device)
    image, cornered = case.x, copy.copy(case)
    cornered.x = as_corners(image)
    assert torch.equal(interleaved(cornered.x), image)
    ours = cornered.results(partial(batch_norm_gate, phases=True))
    ours["x"] = interleaved(ours["x"])
    deviations = largest_deviations(ours, case.results(plain_gate))
    assert max(deviations.values()) < 1e-5, deviations


def as_corners(image):
    """Maps `[N, C, 2 H, 2 W]` to `[N, 4 C, H, W]`: by row, column, channel."""
    corners = [image[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.cat(corners, dim=1).contiguous(memory_format=torch.channels_last)


def test_bfloat16_is_rounded_once_at_the_end(device):
    case = Case((2, 16, 9, 9), device, torch.bfloat16)
    ours = case.results(batch_norm_gate)
    assert ours["gated"].dtype == ours["x"].dtype == torch.bfloat16
    exact = copy.copy(case)
    exact.x, exact.upstream = case.x.float(), case.upstream.float()
    for name, deviation in largest_deviations(ours, exact.results(plain_gate)).items():
        # A GPU rounds to the nearest of numbers 2**-7 apart; the interpreter cuts off.
        assert deviation < (2**-7 if name in ("gated", "x") else 1e-5), name


def test_more_tiles_than_programs_change_nothing(device, monkeypatch):
    from pretrain.kernels import norm_gate_passes

    monkeypatch.setattr(norm_gate_passes, "_ELEMENTS", 256)
    case = Case((2, 8, 20, 17), device)  # 22 tiles, the last of them cut short
    expected = case.results(batch_norm_gate)
    monkeypatch.setattr(norm_gate_passes, "_PROGRAMS", 5)
    deviations = largest_deviations(case.results(batch_norm_gate), expected)
    assert max(deviations.values()) < 1e-6, deviations


def test_results_repeat_bit_for_bit(device):
    case = Case((2, 64, 9, 9), device)
    first, second = (case.results(batch_norm_gate) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_channels_far_from_zero_keep_their_variance(device):
    x = 1000 + torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    one, zero = torch.ones(4, device=device), torch.zeros(4, device=device)
    _, _, variance = norm_gate(x, one, zero, 1e-5, False)
    expected = x.double().var(dim=(0, 2, 3), correction=0).float()
    torch.testing.assert_close(variance, expected, rtol=1e-5, atol=0)


def test_memory_is_laid_out_channels_last_whatever_comes(device):
    case = Case((2, 8, 5, 7), device)
    expected = case.results(batch_norm_gate)
    case.x = case.x.contiguous()
    found = case.results(batch_norm_gate)
    assert found["gated"].is_contiguous(memory_format=torch.channels_last)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_nan_spreads_to_its_channel_only(device):
    case = Case((2, 8, 4, 4), device)
    case.x[0, 1, 2, 3] = float("nan")
    gated = case.results(batch_norm_gate)["gated"]
    assert gated.isnan().all(dim=(0, 2, 3)).tolist() == [False, True, False, False]


def test_torch_finds_the_operation_well_formed(device):
    case = Case((2, 8, 3, 3), device)
    x, scale, shift = case.x.requires_grad_(), case.norm.weight, case.norm.bias
    torch.library.opcheck(norm_gate, (x, scale, shift, 1e-5, False))
    torch.library.opcheck(norm_gate, (x, scale[:2], shift[:2], 1e-5, True))


def test_a_model_is_one_graph_around_the_kernels(device):
    torch.manual_seed(0)
    config = GenesisConfig(num_slots=2, image_size=32, mask_latents=4, component_latents=4, width=4)
    plain = Genesis(config).to(device).train()
    fused = copy.deepcopy(plain)
    use_kernels(fused, device)
    images, noise = torch.rand(1, 3, 32, 32, device=device), torch.randn(1, 2, 8, device=device)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    with torch.backends.cudnn.flags(allow_tf32=False):
        for model in (plain, compiled):
            output = model(images, noise)
            (output.error + output.kl).sum().backward()
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(fused.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)
    pairs = zip(fused.parameters(), plain.parameters(), strict=True)
    ours, theirs = zip(*[(a.grad, b.grad) for a, b in pairs if b.grad is not None], strict=True)
    ours, theirs = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, theirs))
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_every_normalised_gate_of_a_model_is_fused():
    calls = []

    def counted(x, norm, bias):
        calls.append(x.shape[1])
        return F.glu(x, dim=1)

    model = Genesis(GenesisConfig(num_slots=2, image_size=32, width=4)).train()
    for layer in model.modules():
        if hasattr(layer, "batch_norm_gate"):
            layer.batch_norm_gate = counted
    model(torch.rand(2, 3, 32, 32))
    assert calls == [8, 8, 16, 16, 16, 16, 8, 8, 8, 8]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter may do it on a CPU")
def test_a_cpu_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"own kernels need a CUDA GPU, but the device is cpu"):
        make(fused=True)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_steps_with_and_without_the_kernels_lose_alike(precision):
    plain = make("cuda", precision=precision, compile=True)
    fused = make("cuda", precision=precision, compile=True, fused=True)
    assert fused.mode == "compiled in one CUDA graph"
    # bfloat16 has 8 digits: where one path rounds up, the other may round down, in every layer.
    tolerance = 1e-3 if precision == "fp32" else 2e-2
    losses = run(fused, 20, seed=0)
    assert losses == pytest.approx(run(plain, 20, seed=0), rel=tolerance)
    assert losses[-1] < losses[0]

"""The training step's ELU of bfloat16 images."""

import torch
import torch.nn.functional as F

from pretrain.kernels.elu import elu


def test_it_is_as_close_to_the_exact_one_as_bfloat16_allows():
    x = torch.linspace(-12, 4, 10_001).bfloat16()
    x[:3] = torch.tensor([0.0, -1e-3, -float("inf")])
    exact = F.elu(x.double())
    # A number rounded to 8 digits is off by at most 2^-8 of itself; -1e-3 has 14 left of exp's 24.
    torch.testing.assert_close(elu(x).double(), exact, rtol=2**-8, atol=1e-7)


def test_its_gradient_is_read_off_its_result():
    x = torch.tensor([2.0, 0.5, -0.25, -3.0]).bfloat16().requires_grad_()
    y = elu(x)
    y.backward(torch.full_like(y, 2.0))
    assert x.grad.dtype == torch.bfloat16
    assert x.grad[:2].tolist() == [2.0, 2.0]
    assert torch.equal(x.grad[2:], (2 * (y[2:].float() + 1)).bfloat16())


def test_other_types_keep_the_exact_one():
    x = torch.linspace(-3, 3, 101)
    assert torch.equal(elu(x), F.elu(x))


def test_it_compiles_as_a_whole():
    x = torch.randn(64).bfloat16().requires_grad_()
    compiled = torch.compile(elu, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), elu(x), rtol=2**-8, atol=0)

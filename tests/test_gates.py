import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genesis_rl.models.gates import batch_norm_gate
from genesis_rl.models.layers import GatedConv, GatedDeconv


@pytest.fixture
def norm() -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    return norm


def test_gating_is_what_normalising_and_halving_give(norm: nn.BatchNorm2d):
    plain, x, bias = copy.deepcopy(norm), torch.randn(4, 6, 5, 5).double(), torch.randn(6).double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    gated = batch_norm_gate(ours, norm, bias)
    expected = F.glu(plain(theirs + bias[:, None, None]), dim=1)
    torch.testing.assert_close(gated, expected)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    upstream = torch.randn_like(gated)
    gated.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad)
    torch.testing.assert_close(norm.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("layer", [GatedConv, GatedDeconv])
def test_after_training_on_one_batch_evaluation_knows_its_statistics(layer: type[GatedConv]):
    torch.manual_seed(0)
    block, x = layer(3, 4, stride=2, norm="batch").double(), torch.randn(8, 3, 8, 8).double()
    block.norm.momentum = 1.0  # the running statistics are those of the last batch
    trained = block(x)
    count = trained.numel() // trained.shape[1]
    block.norm.running_var *= (count - 1) / count  # evaluation without Bessel's correction
    torch.testing.assert_close(block.eval()(x), trained)

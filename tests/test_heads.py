import pytest
import torch
from torch import nn

from genesis_rl.heads import HEADS, make_head

SETS = [name for name in HEADS if name != "mlp"]


@pytest.fixture
def slots():
    return torch.randn(4, 5, 80, generator=torch.Generator().manual_seed(0))


def head_of(name):
    torch.manual_seed(0)
    return make_head(name, num_slots=5, slot_dim=80).eval()


@pytest.mark.parametrize("name", SETS)
def test_a_head_on_sets_does_not_mind_the_order_of_slots(name, slots):
    head = head_of(name)
    shuffled = slots[:, torch.tensor([3, 0, 4, 1, 2])]
    features = head(slots)
    largest = max(1.0, float(features.detach().abs().max()))  # the steps of float32 grow with it
    assert (features - head(shuffled)).abs().max() <= 1e-6 * largest


def test_the_concatenation_does(slots):
    head = head_of("mlp")
    assert (head(slots) - head(slots.flip(1))).abs().max() > 1e-2


@pytest.mark.parametrize("name", SETS)
def test_in_double_precision_not_even_rounding_minds(name, slots):
    head = head_of(name).double()
    shuffled = slots.double()[:, torch.tensor([3, 0, 4, 1, 2])]
    assert (head(slots.double()) - head(shuffled)).abs().max() <= 1e-13


@pytest.mark.parametrize("name", HEADS)
def test_every_slot_reaches_the_features(name, slots):
    slots.requires_grad_()
    features = head_of(name)(slots)
    assert features.shape == (4, head_of(name).features_dim)
    features.square().sum().backward()
    assert (slots.grad.abs().amax(dim=2) > 0).all()


@pytest.mark.parametrize("name", SETS)
def test_a_head_on_sets_takes_any_number_of_slots(name):
    assert head_of(name)(torch.zeros(2, 9, 80)).shape[0] == 2


def test_a_mean_over_slots_by_hand():
    head = make_head("deepsets", 2, 1, slot_widths=(1,), widths=(1,))
    for layer in (head.each[0], head.all[0]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert head(torch.tensor([[[1.0], [-3.0]], [[2.0], [4.0]]])).tolist() == [[0.5], [3.0]]


def test_a_relation_network_sees_every_ordered_pair_by_hand():
    head = make_head("relation", 2, 1, pair_widths=(1,), widths=(1,))
    with torch.no_grad():
        head.first.weight.fill_(1), head.first.bias.zero_(), head.second.weight.fill_(-1)
        head.all[0].weight.fill_(1), head.all[0].bias.zero_()
    # Pairs (3,3) (3,1) (1,3) (1,1): differences 0, 2, -2, 0; after the ReLU their mean is 2 / 4.
    assert head(torch.tensor([[[3.0], [1.0]]])).tolist() == [[0.5]]


def test_an_unknown_head_is_refused():
    with pytest.raises(
        ValueError, match="one of mlp, deepsets, relation, transformer, but got 'gnn'"
    ):
        make_head("gnn", 5, 80)

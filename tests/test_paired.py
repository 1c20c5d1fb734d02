"""Convolutions in groups of neighbouring pixels are the convolutions that they stand for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genesis_rl import Genesis, GenesisConfig
from genesis_rl.inference.network import LeanGenesis
from genesis_rl.inference.paired import (
    Taps,
    grouped,
    interleaved,
    neighbours_for,
    paired_conv2d,
    paired_weight,
    phase_weight,
    ungrouped,
)
from genesis_rl.models.layers import Conv, GatedConv, convolve
from pretrain.kernels.paired import corners, paired

LAST = torch.channels_last
SUITED = [
    (Taps(5, 1, 2), 2),
    (Taps(5, 1, 2), 4),
    (Taps(5, 2, 2), 2),
    (Taps(5, 2, 2), 4),
    (Taps(3, 1, 0), 2),
    (Taps(3, 1, 1), 2),
    (Taps(3, 2, 1), 2),
    (Taps(3, 2, 1), 4),
]


def test_a_filter_of_five_taps_reaches_three_pairs():
    weight = torch.tensor([1.0, 2, 3, 4, 5]).view(1, 1, 1, 5)
    wide = paired_weight(weight, Taps(5, 1, 2), 2)  # [output, input neighbour, 1, pair]
    # Columns from the left: the pair before, the pair itself, the pair after.
    assert wide[0].permute(2, 0, 1).flatten().tolist() == [1, 2, 3, 4, 5, 0]  # of the first pixel
    assert wide[1].permute(2, 0, 1).flatten().tolist() == [0, 1, 2, 3, 4, 5]  # of the second


@pytest.mark.parametrize(("taps", "neighbours"), SUITED)
@pytest.mark.parametrize("columns", [8, 20])
def test_a_convolution_in_groups_gives_the_same_image(taps, neighbours, columns):
    assert taps.suit(neighbours)
    x = torch.randn(2, 3, 9, columns, dtype=torch.float64).contiguous(memory_format=LAST)
    weight = torch.randn(5, 3, taps.width, taps.width, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    expected = F.conv2d(x, weight, bias, taps.stride, taps.padding)
    wide = paired_weight(weight, taps, neighbours)
    found = paired_conv2d(x, wide, bias, taps, neighbours)
    torch.testing.assert_close(found, expected)


def test_a_filter_that_reaches_only_to_the_left_gets_as_many_zeros_to_the_right():
    weight = torch.tensor([1.0, 2, 3]).view(1, 1, 1, 3)
    wide = paired_weight(weight, Taps(3, 2, 1), 2)
    assert wide[0].permute(2, 0, 1).flatten().tolist() == [0, 1, 2, 3, 0, 0]


def test_images_that_shrink_by_less_than_a_group_are_left_out():
    assert not Taps(3, 1, 0).suit(4)


def test_grouping_moves_nothing_in_memory():
    x = torch.randn(2, 4, 6, 8).contiguous(memory_format=LAST)
    pairs = grouped(x, 2)
    assert pairs.shape == (2, 8, 6, 4)
    assert pairs.is_contiguous(memory_format=LAST)
    assert pairs.data_ptr() == ungrouped(pairs, 2).data_ptr() == x.data_ptr()
    assert torch.equal(ungrouped(pairs, 2), x)
    assert torch.equal(pairs[:, 4:, :, 1], x[:, :, :, 3])  # the second neighbour of the second pair


def test_a_transposed_convolution_of_stride_2_makes_the_corners_of_squares():
    conv = nn.ConvTranspose2d(3, 2, 5, stride=2, padding=2, output_padding=1).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    found = F.conv2d(x, phase_weight(conv.weight), conv.bias.repeat(4), padding=1)
    assert torch.equal(interleaved(found)[:, :, 1::2, ::2], found[:, 4:6])  # row 1, column 0
    torch.testing.assert_close(interleaved(found), conv(x))


def test_training_takes_it_as_corners_with_the_same_gradients():
    conv = nn.ConvTranspose2d(8, 6, 5, stride=2, padding=2, output_padding=1).double()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 6, 8, 12, dtype=torch.float64)
    leaves = [x, conv.weight, conv.bias]
    expected, found = conv(x), interleaved(corners(x, conv, conv.bias))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, leaves, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, upstream))


def test_few_channels_are_grouped_and_many_are_not():
    taps = Taps(5, 1, 2)
    assert [neighbours_for(channels, taps) for channels in (3, 4, 32, 64)] == [4, 4, 2, 1]
    assert neighbours_for(8, Taps(1, 1, 0)) == 1  # nothing but zeros would be added
    assert neighbours_for(8, Taps(3, 2, 1)) == 1  # three of six columns would be zeros
    assert neighbours_for(4, Taps(3, 2, 1)) == 4  # cheap all the same


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, 5, padding=2),
        nn.Conv2d(8, 6, 5, stride=2, padding=2),
        nn.Conv2d(8, 6, 3),
        nn.Conv2d(33, 2, 5, padding=2),  # enough channels
        nn.ConvTranspose2d(8, 6, 5, padding=2),
        nn.ConvTranspose2d(8, 6, 5, stride=2, padding=2, output_padding=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("columns", [12, 11])  # an odd image has no pairs
@pytest.mark.parametrize("biased", [True, False])
def test_training_gets_the_same_image_and_gradients(conv, columns, biased):
    conv = copy.deepcopy(conv).double()
    x = torch.randn(2, conv.in_channels, 12, columns, dtype=torch.float64)
    x = x.contiguous(memory_format=LAST).requires_grad_()
    bias = conv.bias if biased else None
    leaves = [x, conv.weight, *([bias] if biased else [])]
    expected = convolve(x, conv, bias)
    upstream = torch.randn_like(expected)
    found = paired(x, conv, bias)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, leaves, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, upstream))


def test_a_lean_encoder_in_pairs_gives_the_same_latents():
    torch.manual_seed(0)
    config = GenesisConfig(num_slots=3, image_size=32, mask_latents=8, component_latents=4, width=8)
    model = Genesis(config).eval()
    lean = LeanGenesis(model, paired=True)
    groups = [layer.conv.neighbours for layer in [*lean.encoder, *lean.decoder]]
    assert groups == [4, 2, 2, 2, 2, 2, 1, 2, 1, 2]  # stride-2 transposed ones stay
    assert [conv.neighbours for conv in lean.component_convs] == [4, 1, 1, 1]
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(lean(images), LeanGenesis(model)(images), rtol=1e-4, atol=1e-5)


def test_a_lean_encoder_of_full_width_pairs_only_where_channels_are_few():
    model = Genesis(GenesisConfig(num_slots=2)).eval()
    lean = LeanGenesis(model, paired=True)
    groups = [layer.conv.neighbours for layer in [*lean.encoder, *lean.decoder]]
    assert groups == [4, 2, 2, 1, 1, 1, 1, 2, 1, 2]
    assert [conv.neighbours for conv in lean.component_convs] == [4, 1, 1, 1]
    assert [layer.conv.phases for layer in lean.decoder] == [False, False, False, True, False]
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(lean(images), LeanGenesis(model)(images), rtol=1e-4, atol=1e-5)


def test_no_image_of_a_training_pass_is_copied_to_be_grouped():
    model = Genesis(GenesisConfig(num_slots=2, image_size=32, width=8)).train()
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=LAST)
    seen = []

    def watched(x, conv, bias):
        seen.append(x.is_contiguous(memory_format=LAST))
        return paired(x, conv, bias)

    for layer in model.modules():
        if isinstance(layer, Conv | GatedConv):
            layer.convolve = watched
    model(torch.rand(2, 32, 32, 3).permute(0, 3, 1, 2))
    assert seen == [True] * 19

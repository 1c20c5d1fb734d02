"""Which convolutions a training step is made of, and how they are timed."""

import json

import torch

from benchmarks.step_parts import Convolution, convolutions, main
from genesis_rl.inference.paired import phase_weight
from pretrain.assembly import build_model
from pretrain.config import build


def test_convolutions_of_a_step_are_found_with_their_shapes():
    model = build_model(build({"num_slots": 3, "image_size": 32, "width": 8}))
    found = convolutions(model, batch=4, size=32)
    # The first layer of the mask encoder sees the images, that of the component encoder every slot.
    assert found[Convolution((4, 3, 32, 32), (16, 3, 5, 5), (1, 1), (2, 2), False)] == 1
    assert found[Convolution((12, 4, 32, 32), (8, 4, 3, 3), (2, 2), (1, 1), False)] == 1


def test_a_transposed_convolution_of_stride_1_is_one_with_flipped_weights():
    conv = Convolution((1, 2, 6, 6), (2, 3, 5, 5), (1, 1), (2, 2), True)
    x, weight = torch.randn(conv.image), torch.randn(conv.weight)
    flipped = weight.flip(2, 3).transpose(0, 1)
    assert tuple(flipped.shape) == conv.flipped().weight
    torch.testing.assert_close(
        torch.nn.functional.conv2d(x, flipped, padding=conv.flipped().padding),
        torch.nn.functional.conv_transpose2d(x, weight, padding=conv.padding),
    )


def test_a_transposed_convolution_of_stride_2_is_timed_as_corners_of_squares_too():
    conv = Convolution((1, 2, 6, 6), (2, 3, 5, 5), (2, 2), (2, 2), True)
    x, weight = torch.randn(conv.image), phase_weight(torch.randn(conv.weight))
    assert tuple(weight.shape) == conv.cornered().weight
    corners = torch.nn.functional.conv2d(x, weight, padding=conv.cornered().padding)
    assert corners.shape == (1, 4 * 3, 6, 6)


def test_convolutions_of_few_channels_are_timed_in_groups_of_pixels_too():
    model = build_model(build({"num_slots": 3, "width": 32}))
    found = {conv: conv.paired() for conv in convolutions(model, batch=4, size=64)}
    last_of_the_masks = Convolution((12, 32, 64, 64), (32, 64, 5, 5), (1, 1), (2, 2), True)
    pairs = Convolution((12, 64, 64, 32), (128, 64, 5, 3), (1, 1), (2, 1), False)
    assert found[last_of_the_masks] == pairs
    for conv, other in found.items():
        if conv != other:
            x = torch.empty(other.image)
            out = torch.conv2d(x, torch.empty(other.weight), None, other.stride, other.padding)
            assert out.numel() == torch.empty(out_shape(conv)).numel()
    assert sum(conv != other for conv, other in found.items()) == 9  # readouts have one tap


def out_shape(conv):
    x, weight = torch.empty(conv.image), torch.empty(conv.weight)
    if conv.transposed:
        args = conv.stride, conv.padding, conv.output_padding
        return torch.conv_transpose2d(x, weight, None, *args).shape
    return torch.conv2d(x, weight, None, conv.stride, conv.padding).shape


def test_every_convolution_gets_its_three_times(tmp_path, capsys):
    sizes = ["--slots", "2", "--batch", "1", "--image-size", "32", "--seconds", "0.001"]
    main([*sizes, "--device", "cpu", "--threads", "1", "--results-dir", str(tmp_path)])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    times = ("forward_ms", "of_image_ms", "of_weight_ms")
    assert len(rows) > 10
    assert all(row[name] > 0 for row in rows for name in times)

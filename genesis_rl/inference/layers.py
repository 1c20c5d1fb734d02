"""Frozen layers of the lean encoder, and the operations between its convolutions.

Layers hold buffers only: there is nothing to train.

Shapes: N images, C channels, H x W pixels; or B images of K slots, where masks meet images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genesis_rl.inference.paired import (
    Taps,
    interleaved,
    neighbours_for,
    ordinary,
    paired_conv2d,
    paired_weight,
    phase_weight,
    suits_phases,
)
from genesis_rl.inference.winograd import WinogradConv
from genesis_rl.models.layers import GatedConv, lstm_step, posterior_gaussian
from genesis_rl.models.masks import stick_breaking

CHANNELS_LAST = torch.channels_last


class Operations(Protocol):
    """What happens between two convolutions. `PlainOperations` defines it; kernels do it faster.

    Attributes:
        add_bias: Whether they add the convolution's bias too, or find it already added.
    """

    add_bias: bool

    def pixels(self, images: Tensor, white: Tensor, dtype: torch.dtype) -> Tensor:
        """Maps `[B, 3, S, S]` images to channels-last ones of a type; uint8 is divided by white."""

    def gate(self, x: Tensor, bias: Tensor, *, phases: bool = False) -> Tensor:
        """Maps `[N, 2 C, H, W]` (h, then g) to `(h + b_h) * sigmoid(g + b_g)`, `[N, C, H, W]`.

        With phases, it is `[N, 4 x 2 C, H, W]` that are to be interleaved to `[N, C, 2 H, 2 W]`.
        """

    def gate_to_logit(self, x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """Gates, then contracts channels with `weight` `[C]`: float32 `[N, H, W]`."""

    def elu(self, x: Tensor, bias: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to `elu(x + bias)`."""

    def slot_images(self, logits: Tensor, images: Tensor) -> Tensor:
        """Breaks the sticks and puts each slot's log mask before the image it belongs to.

        Maps `[B, K - 1, H, W]` logits and `[B, 3, H, W]` images to `[B * K, 4, H, W]`.
        """


class PlainOperations:
    """The operations in torch alone.

    Args:
        add_bias: True is what the CUDA kernels do; False is faster where convolutions add their
            bias for free, as on the CPU.
    """

    def __init__(self, *, add_bias: bool = False):
        self.add_bias = add_bias

    def pixels(self, images: Tensor, white: Tensor, dtype: torch.dtype) -> Tensor:
        """One step after the other."""
        return unit_scale(images, white).to(dtype).contiguous(memory_format=CHANNELS_LAST)

    def gate(self, x: Tensor, bias: Tensor, *, phases: bool = False) -> Tensor:
        """`F.glu` after the bias."""
        return F.glu(self._biased(interleaved(x) if phases else x, bias), dim=1)

    def gate_to_logit(self, x: Tensor, bias: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """A 1x1 convolution to one channel, as a matrix product."""
        return torch.matmul(self.gate(x, bias).float().permute(0, 2, 3, 1), weight) + offset

    def elu(self, x: Tensor, bias: Tensor) -> Tensor:
        """`F.elu` after the bias."""
        return F.elu(self._biased(x, bias))

    def slot_images(self, logits: Tensor, images: Tensor) -> Tensor:
        """`stick_breaking` in float32, then as precise as the images."""
        log_masks = stick_breaking(logits.float()[:, :, None])  # [B, K, 1, H, W]
        seen = images[:, None].expand(-1, log_masks.shape[1], -1, -1, -1)
        x = torch.cat([log_masks.to(images.dtype), seen], dim=2).flatten(end_dim=1)
        return x.contiguous(memory_format=CHANNELS_LAST)

    def _biased(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + bias.to(x.dtype)[:, None, None] if self.add_bias else x


def unit_scale(images: Tensor, white: Tensor) -> Tensor:
    """Maps images to float32 in [0, 1]; those of uint8 are divided by `white`, which is 255.

    CUDA divides by a Python number by multiplying with its reciprocal. Dividing by a tensor is
    exact, so a uint8 frame and its float twin have the same latents.
    """
    x = images.float()
    return x / white if images.dtype == torch.uint8 else x


def as_rows(x: Tensor) -> Tensor:
    """`[N, C, H, W]` as rows of channels, `[N, H, W, C]`; a copy only if not channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


class LeanConv(nn.Module):
    """A convolution that leaves its bias to the operation after it, if that wants to add it.

    Args:
        conv: Whose geometry, and unless given apart whose numbers, to take.
        dtype: What to compute in.
        weight: Folded weight.
        bias: Folded bias.
        paired: Whether neighbours count as one pixel where channels are few (`paired`).
        phases: Whether what enlarges such an image by two may leave its output to be interleaved.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        dtype: torch.dtype,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        paired: bool = False,
        phases: bool = False,
    ):
        super().__init__()
        weight = conv.weight if weight is None else weight
        bias = conv.bias if bias is None else bias
        assert bias is not None
        self.taps = Taps.of(conv)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        if self.transposed and self.taps.stride == 1:
            weight, self.taps, self.transposed = *ordinary(weight, self.taps), False
        self.phases = phases and paired and suits_phases(conv)
        if self.phases:
            weight, self.taps, self.transposed = phase_weight(weight), Taps(3, 1, 1), False
        self.neighbours = 1
        if paired and not self.transposed and not self.phases:
            self.neighbours = neighbours_for(weight.shape[1], self.taps)
        if self.neighbours > 1:
            weight = paired_weight(weight, self.taps, self.neighbours)
        weight = weight.detach().to(dtype).clone(memory_format=CHANNELS_LAST)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.detach().float().clone())

    def forward(self, x: Tensor, operations: Operations) -> Tensor:
        """Maps `[N, in, H, W]` to `[N, out, H', W']`, or with `phases` to `[N, 4 out, H, W]`."""
        bias = None if operations.add_bias else self.bias.to(x.dtype)
        if bias is not None and self.phases:
            bias = bias.repeat(4)
        _, stride, padding = self.taps
        if self.transposed:
            return F.conv_transpose2d(x, self.weight, bias, stride, padding, stride - 1)
        if self.neighbours > 1:
            return paired_conv2d(x, self.weight, bias, self.taps, self.neighbours)
        return F.conv2d(x, self.weight, bias, stride, padding)

    @property
    def suits_winograd(self) -> bool:
        """Whether that is faster: with few channels its overhead outweighs what it saves."""
        channels, *kernel = self.weight.shape[1:]
        return kernel == [5, 5] and self.taps.stride == 1 and not self.transposed and channels >= 16


class LeanGatedConv(nn.Module):
    """`GatedConv` with its batch norm folded in; an instance norm cannot be folded and stays."""

    def __init__(self, layer: GatedConv, dtype: torch.dtype, *, winograd: bool, paired: bool):
        super().__init__()
        self.instance_norm: nn.InstanceNorm2d | None = None
        weight, bias = None, None
        if isinstance(layer.norm, nn.BatchNorm2d):
            weight, bias = fold_batch_norm(layer.conv, layer.norm)
        elif isinstance(layer.norm, nn.InstanceNorm2d):
            self.instance_norm = copy.deepcopy(layer.norm).requires_grad_(False)
        phases = self.instance_norm is None
        self.conv = LeanConv(layer.conv, dtype, weight, bias, paired=paired, phases=phases)
        self.winograd: WinogradConv | None = None
        if winograd and self.instance_norm is None and self.conv.suits_winograd:
            self.winograd = WinogradConv(self.conv.weight)

    def forward(self, x: Tensor, operations: Operations) -> Tensor:
        """Maps `[N, in, H, W]` to `[N, out, H', W']`."""
        if self.instance_norm is not None:
            return F.glu(self._normalised(x), dim=1).contiguous(memory_format=CHANNELS_LAST)
        convolved = self._convolved(x, operations)
        return operations.gate(convolved, self.conv.bias, phases=self.conv.phases)

    def to_logit(self, x: Tensor, operations: Operations, weight: Tensor, offset: Tensor) -> Tensor:
        """The same, with the channels contracted at once: float32 `[N, H', W']`."""
        if self.instance_norm is not None:
            gated = F.glu(self._normalised(x), dim=1)
            return torch.matmul(gated.float().permute(0, 2, 3, 1), weight) + offset
        convolved = self._convolved(x, operations)
        return operations.gate_to_logit(convolved, self.conv.bias, weight, offset)

    def _convolved(self, x: Tensor, operations: Operations) -> Tensor:
        if self.winograd is None:
            return self.conv(x, operations)
        return self.winograd(x, None if operations.add_bias else self.conv.bias)

    def _normalised(self, x: Tensor) -> Tensor:
        assert self.instance_norm is not None
        convolved = self.conv(x, PlainOperations())
        return self.instance_norm(convolved.float()).to(x.dtype)


class LeanLinear(nn.Module):
    """A linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype).clone())
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., in]` to `[..., out]`."""
        return F.linear(x, self.weight, self.bias)


class WideLinear(LeanLinear):
    """A linear layer whose matrix is far larger than the batches that it meets."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, in]` to `[N, out]`."""
        return wide_linear(x, self.weight, self.bias)


class LeanSlots(nn.Module):
    """The mask latents of all slots but the first: an LSTM and a linear head, slot after slot.

    What the features add to the gates is the same for all slots, so it is computed once. Of means
    the next gates are linear in the hidden state, because a mean is; one small product a slot is
    left, and the head takes all slots at once.
    """

    def __init__(self, cell: nn.LSTMCell, head: nn.Linear):
        super().__init__()
        latents = head.out_features // 2
        hidden = cell.weight_hh.double()
        features, latent = cell.weight_ih.double().split([cell.input_size - latents, latents], 1)
        weight, bias = (part.double()[:latents] for part in (head.weight, head.bias))
        self.features = LeanLinear(features, cell.bias_ih + cell.bias_hh)
        self.latent, self.hidden = LeanLinear(latent), LeanLinear(hidden)
        self.mean_and_hidden = LeanLinear(latent @ weight + hidden, latent @ bias)
        self.head = LeanLinear(head.weight, head.bias)

    def forward(self, features: Tensor, first: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """Returns `[B, len(noise), M]` latents.

        Args:
            features: `[B, F]` of the image.
            first: The first slot's latents, `[B, M]`.
            noise: Of each slot `[B, M]`, for a sample; None takes the mean, of all or of none.
        """
        driven = self.features(features)
        gates, cell = self.latent(first), driven.new_zeros(len(driven), driven.shape[1] // 4)
        states, samples = [], []
        for own in noise:
            state, cell = _lstm(driven, gates, cell)
            states.append(state)
            if own is None:
                gates = self.mean_and_hidden(state)
            else:
                samples.append(draw(self.head(state), own))
                gates = self.latent(samples[-1]) + self.hidden(state)
        return torch.stack(samples, 1) if samples else draw(self.head(torch.stack(states, 1)))


def _lstm(driven: Tensor, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Makes a step of an LSTM from two summands of its gates; returns hidden and cell state."""
    if driven.device.type == "cuda":  # in one kernel, the one of `torch.lstm_cell`
        state, cell, _ = torch.ops.aten._thnn_fused_lstm_cell(driven, gates, cell)
        return state, cell
    return lstm_step(driven + gates, cell)


def draw(parameters: Tensor, noise: Tensor | None = None) -> Tensor:
    """Returns samples of the posterior that `[..., 2 L]` parameters describe, or its mean.

    Deviations, half of a recurrent step's operations, are computed for samples alone.
    """
    if noise is None:
        return parameters[..., : parameters.shape[-1] // 2].float()
    return posterior_gaussian(parameters).sample(noise)


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` for few rows `[N, in]` and a large matrix `[out, in]`; 16 has to divide `out`.

    Reading the matrix is what takes the time. On the CPU, one thread would read it all for so flat
    a product, but each takes its share of sixteen.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    products = torch.bmm(x.expand(16, -1, -1), weight.unflatten(0, (16, -1)).mT)
    y = products.transpose(0, 1).flatten(start_dim=1)
    return y if bias is None else y + bias


def fold_batch_norm(
    conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of the convolution that equals `norm(conv(x))` in eval mode."""
    assert conv.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():  # in float64, so that folding adds no error of its own
        scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
        weight = conv.weight.double() * scale.view(shape)
        bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    return weight.float(), bias.float()

"""Kernels of the training step for CUDA; plain torch defines what they compute."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from genesis_rl.inference.paired import suits_phases
from genesis_rl.models.components import ComponentVae
from genesis_rl.models.layers import BroadcastDecoder, Conv, GatedConv, Readout
from genesis_rl.models.masks import Masks
from pretrain.kernels.elu import MOST_SUMS, activated, elu, elu_readout, spread
from pretrain.kernels.norm_gate import batch_norm_gate, norm_gate
from pretrain.kernels.paired import corners, paired
from pretrain.kernels.readout import weighted_sums
from pretrain.kernels.recurrence import infer_slots, unroll
from pretrain.update import Update


def why_not(device: torch.device) -> str:
    """Says in a line why our kernels cannot run on a device; nothing, if they can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # on a CPU, to test them
    if device.type != "cuda" and not interpreted:
        return f"own kernels need a CUDA GPU, but the device is {device}"
    if find_spec("triton") is None:
        return "own kernels need Triton, which CUDA builds of torch bring along"
    try:  # compiles one; that needs a C compiler, among other things
        x, ones = torch.zeros(1, 2, 1, 1, device=device), torch.ones(2, device=device)
        norm_gate(x, ones, ones, 1e-5, False)
    except Exception as error:  # anything may be missing on a foreign machine
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"Triton cannot compile own kernels here: {reason}"
    return ""


def use_kernels(model: nn.Module, device: torch.device, *, pairs: bool = True) -> None:
    """Lets a model's training pass run on kernels of our own where there are any.

    Args:
        model: Whose layers are changed.
        device: Where it trains.
        pairs: Whether convolutions of few channels work on pairs of pixels, which pays where there
            are matrix units for their type.

    Raises:
        ValueError: If they cannot run on that device.
    """
    if reason := why_not(device):
        raise ValueError(reason)
    for layer in model.modules():
        if pairs and isinstance(layer, GatedConv | Conv):
            layer.convolve = paired
        if isinstance(layer, GatedConv) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.batch_norm_gate = batch_norm_gate
            if pairs and suits_phases(layer.conv):
                layer.convolve, layer.batch_norm_gate = (
                    corners,
                    partial(batch_norm_gate, phases=True),
                )
        if isinstance(layer, Readout):
            layer.convolve = weighted_sums
        if isinstance(layer, Masks):
            layer.infer_slots, layer.unroll = infer_slots, unroll
        if isinstance(layer, BroadcastDecoder | ComponentVae):
            layer.activated = activated
        if isinstance(layer, BroadcastDecoder):
            layer.spread = spread
            if reads_elu(layer):
                layer.active_readout = elu_readout
        if isinstance(layer, nn.ELU):
            layer.forward = elu  # type: ignore[assignment, method-assign]


def one_pass_update() -> type[Update]:
    """Returns what updates weights by a kernel of our own, wherever `use_kernels` can."""
    from pretrain.kernels.update import OnePassUpdate  # needs Triton

    return OnePassUpdate


def reads_elu(decoder: BroadcastDecoder) -> bool:
    """Returns whether what a decoder draws are few enough sums of ELUs for `elu_readout`."""
    return isinstance(decoder.activation, nn.ELU) and decoder.readout.out_channels <= MOST_SUMS

"""Imports checkpoints of the authors' own GENESIS release.

Only their parameter names and shapes are known here. Three things are stored differently on our
side: the two normalisations of a gated convolution are one of twice the width; convolutions as
large as their input are linear layers over (row, column, channel); LSTMs are single cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_rl.models.genesis import Genesis, GenesisConfig

_CORE = "att_process.core"
_COMPONENT_ENCODER = "comp_vae.encoder_module.module"
_COMPONENT_DECODER = "comp_vae.decoder_module.seq"


def load_released_checkpoint(source: str | Path | Mapping[str, Any]) -> Genesis:
    """Returns a `Genesis` in eval mode that computes what the release's model computes.

    Args:
        source: Path of a checkpoint file, or its content: either the state dict or a dict that
            holds it under `model_state_dict`. K, image size and latent sizes are read off the
            shapes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the content is not a GENESIS checkpoint, naming the first entry that misfits.
    """
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise FileNotFoundError(
                f"no released checkpoint at {source}; give the file that the release saved"
            )
        content: Mapping[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    else:
        content = source
    theirs = dict(content.get("model_state_dict", content))
    try:
        model = Genesis(_config(theirs))
        model.load_state_dict(_translate(theirs))
    except KeyError as error:
        raise ValueError(
            f"not a released GENESIS checkpoint: it lacks {error}; give the release's default "
            "GENESIS, not a variant of it"
        ) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a released checkpoint of another architecture: {reason}") from None
    return model.eval()


def _config(theirs: Mapping[str, Tensor]) -> GenesisConfig:
    stds = theirs["std"].flatten().tolist()
    width = theirs[f"{_CORE}.q_z_nn.0.conv.weight"].shape[0] // 2
    flat = theirs[f"{_COMPONENT_ENCODER}.9.weight"].shape[1]  # 2 width (image size / 16)^2
    return GenesisConfig(
        num_slots=len(stds),
        image_size=16 * math.isqrt(flat // (2 * width)),
        mask_latents=theirs[f"{_CORE}.q_z_mean.weight"].shape[0],
        component_latents=theirs[f"{_COMPONENT_ENCODER}.11.weight"].shape[0] // 2,
        width=width,
        norm="batch" if f"{_CORE}.q_z_nn.0.h_norm.running_mean" in theirs else "instance",
        std=round(stds[-1], 6),
        first_std=None if stds[0] == stds[-1] else round(stds[0], 6),
    )


def _translate(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the same numbers under our names and in our layout."""
    ours: dict[str, Tensor] = {}

    def copy(our_module: str, their_module: str, suffix: str = "") -> None:
        for entry in _entries(theirs, their_module):
            ours[f"{our_module}.{entry.removesuffix(suffix)}"] = theirs[f"{their_module}.{entry}"]

    def copy_gated(our_module: str, their_module: str) -> None:
        copy(f"{our_module}.conv", f"{their_module}.conv")
        for entry in _entries(theirs, f"{their_module}.h_norm"):
            halves = [theirs[f"{their_module}.{half}_norm.{entry}"] for half in "hg"]
            merged = torch.cat(halves) if halves[0].ndim else halves[0]  # a count has no halves
            ours[f"{our_module}.norm.{entry}"] = merged

    for i in range(5):
        copy_gated(f"masks.encoder.{i}", f"{_CORE}.q_z_nn.{i}")
        copy_gated(f"masks.decoder.{i + 1}", f"{_CORE}.p_x_nn.{i + 1}")
    weight = theirs[f"{_CORE}.q_z_nn.5.conv.weight"]  # [2 out, in, s, s]
    ours["masks.encoder.5.linear.weight"] = weight.permute(0, 2, 3, 1).flatten(start_dim=1)
    ours["masks.encoder.5.linear.bias"] = theirs[f"{_CORE}.q_z_nn.5.conv.bias"]
    weight = theirs[f"{_CORE}.p_x_nn.0.conv.weight"]  # [in, 2 out, s, s]
    ours["masks.decoder.0.weight"] = weight.permute(2, 3, 1, 0).flatten(end_dim=2)
    ours["masks.decoder.0.bias"] = theirs[f"{_CORE}.p_x_nn.0.conv.bias"]
    copy("masks.decoder.6", f"{_CORE}.p_x_mean")

    for entry in ("weight", "bias"):
        halves = [theirs[f"{_CORE}.{half}.{entry}"] for half in ("q_z_mean", "q_z_var.0")]
        ours[f"masks.first_slot.{entry}"] = torch.cat(halves)
    copy("masks.later_slots", "att_process.lstm", suffix="_l0")
    copy("masks.later_slots_head", "att_process.linear")
    copy("masks.prior_lstm", "prior_lstm", suffix="_l0")
    copy("masks.prior_head", "prior_linear")

    for i in range(4):
        copy(f"components.encoder.{2 * i}", f"{_COMPONENT_ENCODER}.{2 * i}")
    copy("components.decoder.first", f"{_COMPONENT_DECODER}.1")
    for i in range(3):
        copy(f"components.decoder.later.{i}", f"{_COMPONENT_DECODER}.{2 * i + 3}")
    copy("components.decoder.readout", f"{_COMPONENT_DECODER}.9")
    for i in (0, 2):
        copy(f"components.head.{i}", f"{_COMPONENT_ENCODER}.{i + 9}")
    for i in (0, 2, 4):
        copy(f"components.prior_mlp.{i}", f"prior_mlp.{i}")
    return ours


def _entries(theirs: Mapping[str, Tensor], module: str) -> list[str]:
    """Returns the names of a module's parameters and buffers."""
    names = [name.removeprefix(f"{module}.") for name in theirs if name.startswith(f"{module}.")]
    if not names:
        raise KeyError(module)
    return names

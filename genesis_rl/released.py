"""Imports checkpoints of the authors' own release of GENESIS and of the models it came with.

Only their parameter names and shapes are known here; `translation.py` says what is stored
differently on our side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_rl.models.genesis import Genesis, GenesisConfig
from genesis_rl.models.genesis_s import GenesisS, GenesisSConfig
from genesis_rl.models.layers import Norm
from genesis_rl.models.monet import Monet, MonetConfig
from genesis_rl.models.slots import SlotModel
from genesis_rl.models.vae import BdVae, DcVae, VaeConfig
from genesis_rl.translation import Translation, Weights

_CORE = "att_process.core"


def load_released_checkpoint(
    source: str | Path | Mapping[str, Any], *, image_size: int | None = None
) -> Any:
    """Returns a model in eval mode that computes what the release's model computes.

    The entries tell which model it is: `Genesis`, `GenesisS`, `Monet`, `BdVae` or `DcVae`.

    Args:
        source: Path of a checkpoint file, or its content: either the state dict or a dict that
            holds it under `model_state_dict`. K, image size and latent sizes are read off the
            shapes.
        image_size: Needed for GENESIS-S and the VAEs at 128 pixels only, whose weights have the
            same shapes as at 64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the content is not one of these models, naming the first entry that misfits.
    """
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise FileNotFoundError(
                f"no released checkpoint at {source}; give the file that the release saved"
            )
        try:
            content: Mapping[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no such file may raise anything
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{source} cannot be read as weights ({type(error).__name__}: {reason}); give the "
                "file that the release saved"
            ) from error
    else:
        content = source
    try:
        model, weights = translate(content.get("model_state_dict", content), image_size=image_size)
        model.load_state_dict(weights)
    except KeyError as error:
        raise ValueError(
            f"not a released checkpoint: it lacks {error}; give one of the release's GENESIS, "
            "GENESIS-S, MONet, BD-VAE or DC-VAE with default layers"
        ) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a released checkpoint of another architecture: {reason}") from None
    return model.eval()


def translate(
    theirs: Weights, *, image_size: int | None = None
) -> tuple[SlotModel, dict[str, Tensor]]:
    """Recognises the model of a released state dict.

    Returns:
        That model with fresh weights, and the released numbers under its names and in its layout.

    Raises:
        KeyError: An entry is missing.
    """
    for marker, read in _READERS:
        if any(marker in name for name in theirs):
            return read(Translation(theirs, image_size))
    raise KeyError(" or ".join(f"{marker}*" for marker, _ in _READERS))


def _genesis(t: Translation) -> tuple[SlotModel, dict[str, Tensor]]:
    width = t.shape(f"{_CORE}.q_z_nn.0.conv.weight")[0] // 2
    encoder = "comp_vae.encoder_module.module"
    config = GenesisConfig(
        image_size=t.size_behind(f"{encoder}.9", 2 * width),
        mask_latents=t.shape(f"{_CORE}.q_z_mean.weight")[0],
        component_latents=t.shape(f"{encoder}.11.weight")[0] // 2,
        width=width,
        norm=_norm(t),
        **_slots(t),
    )
    _masks(t)
    _component_vae(t)
    for i in (0, 2, 4):
        t.copy(f"components.prior_mlp.{i}", f"prior_mlp.{i}")
    return Genesis(config), t.ours


def _genesis_s(t: Translation) -> tuple[SlotModel, dict[str, Tensor]]:
    config = GenesisSConfig(
        image_size=t.size_of_encoder(f"{_CORE}.q_z_nn"),
        latents=t.shape(f"{_CORE}.q_z_mean.weight")[0],
        width=t.shape(f"{_CORE}.q_z_nn.0.conv.weight")[0] // 2,
        norm=_norm(t),
        **_slots(t),
    )
    _masks(t)
    t.broadcast_decoder("decoder", "decoder.seq")
    return GenesisS(config), t.ours


def _monet(t: Translation) -> tuple[SlotModel, dict[str, Tensor]]:
    width = t.shape(f"{_CORE}.down.0.0.weight")[0]
    config = MonetConfig(
        image_size=t.size_behind(f"{_CORE}.mlp.1", 2 * width),
        component_latents=t.shape("comp_vae.encoder_module.module.11.weight")[0] // 2,
        width=width,
        **_slots(t),
    )
    for side in ("down", "up"):
        for i in range(5):
            t.copy(f"attention.{side}.{i}", f"{_CORE}.{side}.{i}")
    for i in (0, 2, 4):
        t.copy(f"attention.mlp.{i}", f"{_CORE}.mlp.{i + 1}")
    t.copy("attention.readout", f"{_CORE}.final_conv")
    _component_vae(t)
    return Monet(config), t.ours


def _vae(t: Translation) -> VaeConfig:
    t.image_encoder("encoder", "vae.q_z_nn")
    t.join("head", "vae.q_z_mean", "vae.q_z_var.0")
    return VaeConfig(
        image_size=t.size_of_encoder("vae.q_z_nn"),
        latents=t.shape("vae.q_z_mean.weight")[0],
        width=t.shape("vae.q_z_nn.0.conv.weight")[0] // 2,
    )


def _dc_vae(t: Translation) -> tuple[SlotModel, dict[str, Tensor]]:
    t.gated_decoder("decoder", "vae.p_x_nn", "vae.p_x_mean")
    return DcVae(_vae(t)), t.ours


def _bd_vae(t: Translation) -> tuple[SlotModel, dict[str, Tensor]]:
    t.broadcast_decoder("decoder.0", "vae.p_x_nn.1.seq")
    t.copy("decoder.2", "vae.p_x_mean")
    return BdVae(_vae(t)), t.ours


def _component_vae(t: Translation) -> None:
    encoder = "comp_vae.encoder_module.module"
    for i in (0, 2, 4, 6):
        t.copy(f"components.encoder.{i}", f"{encoder}.{i}")
    for i in (0, 2):
        t.copy(f"components.head.{i}", f"{encoder}.{i + 9}")
    t.broadcast_decoder("components.decoder", "comp_vae.decoder_module.seq")


def _masks(t: Translation) -> None:
    t.image_encoder("masks.encoder", f"{_CORE}.q_z_nn")
    t.join("masks.first_slot", f"{_CORE}.q_z_mean", f"{_CORE}.q_z_var.0")
    t.copy("masks.later_slots", "att_process.lstm", suffix="_l0")
    t.copy("masks.later_slots_head", "att_process.linear")
    t.gated_decoder("masks.decoder", f"{_CORE}.p_x_nn", f"{_CORE}.p_x_mean")
    t.copy("masks.prior_lstm", "prior_lstm", suffix="_l0")
    t.copy("masks.prior_head", "prior_linear")


def _slots(t: Translation) -> dict[str, Any]:
    """Settings that all models of several slots have."""
    stds = t.theirs["std"].flatten().tolist()
    first = None if stds[0] == stds[-1] else round(stds[0], 6)
    return {"num_slots": len(stds), "std": round(stds[-1], 6), "first_std": first}


def _norm(t: Translation) -> Norm:
    return "batch" if f"{_CORE}.q_z_nn.0.h_norm.running_mean" in t.theirs else "instance"


# What only that model's entries have, the most telling first.
_READERS: list[tuple[str, Callable[[Translation], tuple[SlotModel, dict[str, Tensor]]]]] = [
    ("vae.p_x_nn.1.seq.", _bd_vae),
    ("vae.p_x_nn.", _dc_vae),
    (f"{_CORE}.down.", _monet),
    ("comp_vae.", _genesis),
    ("decoder.seq.", _genesis_s),
]

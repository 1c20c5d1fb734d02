"""Our models compute what the authors' release computes from the same weights."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from genesis_rl import load_released_checkpoint
from genesis_rl.models.slots import Inference, SlotModel
from genesis_rl.released import translate
from released_weights import fixture, fixture_images, released_state_dict

RECORDS = {
    "Genesis": fixture("genesis_K5_s11"),
    "GenesisS": fixture("genesis_s_K5_s12"),
    "Monet": fixture("monet_K5_s13"),
    "DcVae": fixture("dc_vae_K1_s14"),
    "BdVae": fixture("bd_vae_K1_s15"),
}
STRIDED = (..., slice(None, None, 16), slice(None, None, 16))


@pytest.fixture(params=RECORDS)
def name(request: pytest.FixtureRequest) -> str:
    torch.set_num_threads(1)
    return request.param


@cache
def weights(name: str) -> dict[str, Tensor]:
    return released_state_dict(RECORDS[name]["state_dict_shapes"])


def inputs_of(name: str, model: SlotModel) -> tuple[Tensor, Tensor]:
    images = fixture_images(RECORDS[name])
    return images, torch.full((len(images), model.num_slots, model.slot_dim), 0.5)


def by_slot(value: Tensor) -> Tensor:
    return value.transpose(0, 1)  # [B, K, ...] -> [K, B, ...]


# What each recorded entry is called here. Slot 1's mask prior, standard normal, is not recorded.
READ = {
    "err": lambda o: o.error,
    "kl_m": lambda o: o.mask_kl.sum(dim=1),
    "kl_m_k": lambda o: by_slot(o.mask_kl),
    "kl_l": lambda o: o.component_kl.sum(dim=1),
    "kl_l_k": lambda o: by_slot(o.component_kl),
    "loss_err_plus_kl": lambda o: o.error.mean() + o.kl.mean(),
    "recon_strided": lambda o: o.reconstruction[STRIDED],
    "log_m_k_strided": lambda o: by_slot(o.log_masks)[STRIDED],
    "mask_mu_k": lambda o: by_slot(mask_gaussians(o)[0].mean),
    "mask_sigma_k": lambda o: by_slot(mask_gaussians(o)[0].std),
    "mask_prior_mu_k": lambda o: by_slot(mask_gaussians(o)[1].mean)[1:],
    "mask_prior_sigma_k": lambda o: by_slot(mask_gaussians(o)[1].std)[1:],
    "comp_mu_k": lambda o: by_slot(o.component_posterior.mean),
    "comp_sigma_k": lambda o: by_slot(o.component_posterior.std),
    "comp_prior_mu_k": lambda o: by_slot(o.component_prior.mean),
    "comp_prior_sigma_k": lambda o: by_slot(o.component_prior.std),
}


def mask_gaussians(output: Inference) -> tuple:
    both = hasattr(output, "mask_posterior")  # GENESIS has two kinds of latents, GENESIS-S one
    return (output.mask_posterior, output.mask_prior) if both else (output.posterior, output.prior)


def assert_close(ours: Tensor, theirs: list, entry: str) -> None:
    expected = np.asarray(theirs)
    assert ours.shape == expected.shape
    # 1e-4 of the entry; entries near zero are compared on the scale of the whole array
    scale = np.abs(expected).max()
    ours = ours.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * scale, err_msg=entry)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_recorded_number_of_a_forward_pass_is_reproduced(name: str, mode: str):
    model = load_released_checkpoint({"model_state_dict": weights(name)})
    assert type(model).__name__ == name
    output = model.train(mode == "train")(*inputs_of(name, model))
    recorded = {k: v for k, v in RECORDS[name][mode].items() if k not in ("features", "grad_l2")}
    assert len(recorded) >= 4
    for entry, expected in recorded.items():
        assert_close(READ[entry](output), expected, entry)


def test_probe_features_are_the_latents(name: str):
    model = load_released_checkpoint(weights(name))
    latents = model(*inputs_of(name, model)).latents
    features = latents.flatten(start_dim=1)
    if name == "Genesis":  # of which the release drops the last mask latent
        masks, components = latents.split(model.latent_sizes, dim=-1)
        features = torch.cat([masks[:, :-1].flatten(1), components.flatten(1)], dim=1)
    assert_close(features, RECORDS[name]["eval"]["features"], "features")


def test_gradient_norms_are_reproduced(name: str, monkeypatch: pytest.MonkeyPatch):
    # In double, which `float()` in the models would end: in single, MONet's gradients depend on
    # torch's choice of kernels by 3e-4, and norms of millions of numbers are off by 1e-3.
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    theirs = {k: v.double() if v.is_floating_point() else v for k, v in weights(name).items()}
    expected = RECORDS[name]["train"]["grad_l2"]
    for key in expected:
        theirs[key].requires_grad_()
    # The importer joins and permutes, so gradients flow back through it to the released entries.
    model, ours = translate(theirs)
    inputs = inputs_of(name, model)
    output = functional_call(model.double().train(), ours, tuple(x.double() for x in inputs))
    (output.error.mean() + output.kl.mean()).backward()
    assert len(expected) >= 14
    for key, norm in expected.items():
        assert theirs[key].grad.norm().item() == pytest.approx(norm, rel=1e-4), key

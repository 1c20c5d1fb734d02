"""From settings to a model of that kind, and to a step that trains it."""

import typing

import pytest
import torch

from genesis_rl.checkpoint import MODELS, load_checkpoint, save_checkpoint
from pretrain import assembly
from pretrain.assembly import BETAS, build_model, build_objective
from pretrain.config import PRESETS, Config, build
from pretrain.engine import Engine
from pretrain.flags import parse_arguments
from pretrain.state import Stop
from pretrain.strict_yaml import load_yaml

TINY = {
    "num_slots": 3,
    "image_size": 32,
    "mask_latents": 6,
    "component_latents": 4,
    "latents": 5,
    "width": 4,
    "batch_size": 4,
}
SIZES = {
    "genesis": (3, 6, 4),
    "genesis_s": (3, 5, 0),
    "monet": (3, 0, 4),
    "bd_vae": (1, 0, 5),
    "dc_vae": (1, 0, 5),
}


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest) -> Config:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build(TINY | {"model": request.param})


def engine_of(config: Config) -> Engine:
    images = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    rate, betas = config.learning_rate, BETAS[config.optimiser]
    return Engine(
        build_model(config),
        build_objective(config),
        images,
        batch_size=config.batch_size,
        learning_rate=rate,
        betas=betas,
    )


def test_every_model_can_be_asked_for():
    assert set(typing.get_args(typing.get_type_hints(Config)["model"])) == set(MODELS)


def test_a_model_takes_the_settings_that_it_has(config: Config):
    model = build_model(config)
    assert (model.num_slots, *model.latent_sizes) == SIZES[config.model]
    assert (model.image_size, model.config.width) == (32, 4)


def test_every_model_trains(config: Config, tmp_path):
    engine = engine_of(config)
    weights = list(engine.model.parameters())
    before = [p.detach().clone() for p in weights]
    for _ in range(3):
        engine.step()
    assert engine.read().skipped == 0
    moved = [
        not torch.equal(p, old) for p, old in zip(engine.model.parameters(), before, strict=True)
    ]
    assert sum(moved) > len(moved) / 2  # a bias before batch normalisation never does
    again = load_checkpoint(save_checkpoint(tmp_path / "model", engine.model))
    assert type(again) is type(engine.model)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("multi_dsprites", 12_620_548),
        ("multi_dsprites_genesis_s", 12_207_236),
        ("multi_dsprites_monet", 974_085),
        ("multi_dsprites_monet_original", 974_085),
        ("multi_dsprites_bd_vae", 9_143_747),
        ("multi_dsprites_dc_vae", 11_549_091),
    ],
)
def test_presets_build_the_models_of_the_release(preset: str, parameters: int):
    model = build_model(build(load_yaml(PRESETS / f"{preset}.yaml")))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["genesis_s", "monet", "bd_vae", "dc_vae"])
def test_the_papers_baselines_differ_from_genesis_in_the_model_alone(name: str):
    preset = build(load_yaml(PRESETS / f"multi_dsprites_{name}.yaml"))
    assert preset == build({"model": name})


def test_monets_original_settings_weigh_both_kls_by_a_half_from_the_start():
    config = build(load_yaml(PRESETS / "multi_dsprites_monet_original.yaml"))
    loss = build_objective(config)(torch.tensor(100.0), torch.tensor(7.0 + 3.0))
    assert loss.item() == 100 + 0.5 * 7 + 0.5 * 3
    assert build_model(config).stds[:2].tolist() == pytest.approx([0.09, 0.11])


def test_the_first_slots_deviation_can_be_a_flag():
    assert parse_arguments(["--model", "monet", "--first-std", "0.09"]).first_std == 0.09
    with pytest.raises(ValueError, match="first_std must be between"):
        build({"first_std": 0.0})


def test_rmsprop_is_adam_without_momentum_once_its_average_has_warmed_up():
    (here,) = ours = [torch.zeros(1, requires_grad=True)]
    (there,) = theirs = [torch.zeros(1, requires_grad=True)]
    adam = torch.optim.Adam(ours, lr=1e-3, betas=BETAS["rmsprop"])
    rmsprop = torch.optim.RMSprop(theirs, lr=1e-3)  # alpha 0.99
    for i in range(1200):
        if i == 1100:
            at_1100 = here.item(), there.item()
        here.grad = there.grad = torch.tensor([1.0 + i % 7])
        adam.step()
        rmsprop.step()
    assert here.item() - at_1100[0] == pytest.approx(there.item() - at_1100[1], rel=1e-4)


def test_an_engine_steps_by_the_optimiser_asked_for():
    config = build(TINY | {"model": "monet", "optimiser": "rmsprop"})
    assert engine_of(config).update.optimizer.param_groups[0]["betas"] == (0.0, 0.99)


@pytest.mark.parametrize(
    ("device", "wanted", "taken"),
    [("cuda", "auto", True), ("cuda", "on", True), ("cuda", "off", False), ("cpu", "auto", False)],
)
def test_own_kernels_are_taken_where_they_run(monkeypatch, recwarn, device, wanted, taken):
    monkeypatch.setattr(assembly, "why_not", lambda device: "")
    assert assembly.pick_kernels(build({"fused": wanted}), torch.device(device)) is taken
    assert not recwarn.list


def test_a_gpu_without_a_compiler_for_own_kernels_trains_without_them(monkeypatch):
    monkeypatch.setattr(assembly, "why_not", lambda device: "Triton cannot compile here: no gcc")
    with pytest.warns(RuntimeWarning, match="no gcc; training is slower without"):
        assert not assembly.pick_kernels(build({}), torch.device("cuda"))


def test_own_kernels_that_cannot_run_are_refused_where_they_are_asked_for():
    with pytest.raises(Stop, match=r"--fused on: own kernels need a CUDA GPU, but .* is cpu"):
        assembly.pick_kernels(build({"fused": "on"}), torch.device("cpu"))

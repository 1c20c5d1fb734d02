"""What a training may vary: likelihood, GECO, learning rate, clipping, averaging of weights.

Defaults that change nothing are tested with the parts themselves.
"""

import inspect
import shutil

import pytest
import torch

from genesis_rl.checkpoint import MODELS, load_checkpoint, read_config, save_checkpoint
from genesis_rl.losses.geco import Geco
from genesis_rl.losses.mixture import LIKELIHOODS
from pretrain import export
from pretrain.assembly import (
    build_model,
    build_objective,
    engine_options,
    learning_rate_schedule,
    take_weights,
)
from pretrain.config import build
from pretrain.engine import Engine
from pretrain.run import main
from pretrain.state import load_state
from pretrain.strict_yaml import load_yaml
from runs import arguments, exact, metrics, start, wait_for_step, weights_sha256
from test_assembly import TINY
from test_engine import CPU_AND_CUDA, differing, learnt, make, run


@pytest.mark.parametrize("model", MODELS)
def test_another_likelihood_is_measured_in_training_and_validation_alike(
    model: str, monkeypatch: pytest.MonkeyPatch
):
    def brightness(images, log_masks, components, std):  # something that no model measures
        return (log_masks.exp() * components).sum(dim=(1, 2, 3, 4)) + std.sum() + images.mean()

    monkeypatch.setitem(LIKELIHOODS, "gaussian_composite", brightness)
    built = build_model(build(TINY | {"model": model, "likelihood": "gaussian_composite"}))
    images = torch.rand(2, 3, 32, 32)
    for output in (built.train()(images), built.eval()(images), built.decompose(images)):
        expected = brightness(images, output.log_masks, output.components, built.stds)
        torch.testing.assert_close(output.error, expected)


def test_a_model_that_measures_otherwise_compiles_as_one_graph():
    model = build_model(build(TINY | {"model": "bd_vae", "likelihood": "mixture_per_pixel"}))
    images, noise = torch.rand(2, 3, 32, 32), model.draw_noise(2)
    compiled = torch.compile(lambda: model(images, noise).error, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), model(images, noise).error)


def test_the_likelihood_is_no_part_of_a_checkpoint(tmp_path):
    model = build_model(build(TINY | {"likelihood": "gaussian_composite"}))
    again = load_checkpoint(save_checkpoint(tmp_path / "model", model))
    assert again.config == build_model(build(TINY)).config


def test_the_learning_rate_warms_up_and_then_follows_half_a_cosine():
    assert learning_rate_schedule(build({})) is None
    factor = learning_rate_schedule(build({"learning_rate_warmup": 4}))
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = {"learning_rate_schedule": "cosine", "learning_rate_warmup": 10, "steps": 110}
    factor = learning_rate_schedule(build(cosine))
    values = [factor(step) for step in (0, 10, 60, 110, 500)]
    assert values == pytest.approx([0.1, 1, 0.5, 0, 0], abs=1e-12)


def test_a_cosine_ends_where_it_was_meant_to():
    short = build({"learning_rate_schedule": "cosine", "steps": 100})
    assert "steps" in short.fixed_values()
    assert "steps" not in build({"steps": 100}).fixed_values()


def test_engine_options_are_arguments_of_the_engine():
    names = inspect.signature(Engine).parameters
    assert set(engine_options(build({}))) <= set(names)
    options = engine_options(build({"gradient_clip": 3.0, "weight_average": 0.9}))
    assert (options["clip"], options["average"]) == (3.0, 0.9)
    defaults = {name: names[name].default for name in ("schedule", "clip", "average")}
    assert engine_options(build({})).items() >= defaults.items()


def test_geco_gets_its_bounds_its_first_beta_and_its_easy_goal():
    settings = {"geco_beta_min": 1e-3, "geco_beta_max": 1.0, "geco_largest_step": 2e-3}
    settings |= {"geco_first_beta": 0.5, "goal_half_life": 100.0, "first_goal": 0.6}
    geco = build_objective(build(settings))
    assert (geco.beta_range, geco.largest_step) == ((1e-3, 1.0), 2e-3)
    assert geco.beta == 0.5
    assert (geco.half_life, geco.first_goal) == (100, pytest.approx(0.6 * 12_288))
    assert build_objective(build({})).largest_step == float("inf")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first_goal": 0.57}, "first_goal needs a goal_half_life"),
        ({"first_std": 0.1, "likelihood": "gaussian_composite"}, "first_std needs a mixture"),
        ({"geco_beta_min": 2.0, "geco_beta_max": 1.0}, "geco_beta_min 2.0 is above"),
        ({"geco_beta_max": 0.5}, "geco_first_beta must be between the bounds of beta"),
        ({"weight_average": 1.5}, "weight_average must be between 0 and 1"),
        ({"likelihood": "gaussian"}, "likelihood must be one of"),
    ],
)
def test_options_that_contradict_each_other_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(values)


OPTIONS = {"schedule": lambda step: 1 / (1 + step), "clip": 1.0, "average": 0.9}


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_the_schedule_scales_every_steps_learning_rate(device):
    rates = {0: 1.0, 1: 0.25, 2: 0.0}
    engine = make(device, schedule=rates.__getitem__, compile=device == "cuda")
    moved = []
    for _ in rates:
        before = learnt(engine)["model.masks.first_slot.weight"]
        engine.step()
        moved.append((learnt(engine)["model.masks.first_slot.weight"] - before).abs().max().item())
    assert moved[0] == pytest.approx(1e-3, rel=1e-3)  # Adam's first step is the learning rate
    assert 0 < moved[1] <= 0.26e-3
    assert moved[2] == 0


def test_a_halved_learning_rate_stays_halved_under_a_schedule():
    engine = make(schedule=lambda step: 0.5)
    engine.learning_rate.mul_(0.5)  # as after a roll-back
    engine.step()
    assert engine.update.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.25e-3)


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_a_gradient_above_the_limit_is_scaled_down_to_it(device):
    free = make(device)
    free.step()
    norm = free.read().mean_gradient_norm
    clipped = make(device, clip=norm / 8, compile=device == "cuda")
    clipped.step()
    assert clipped.read().mean_gradient_norm == pytest.approx(norm, rel=1e-4)  # noted as it came
    ours, theirs = learnt(clipped), learnt(free)
    moments = [name for name in ours if name.endswith("exp_avg")]
    ratio = sum(theirs[n].norm() for n in moments) / sum(ours[n].norm() for n in moments)
    assert ratio.item() == pytest.approx(8, rel=1e-3)


def test_a_gradient_below_the_limit_is_left_alone():
    free = make()
    losses = run(free, 3)
    loose = make(clip=1e9)
    assert run(loose, 3) == losses
    assert differing(learnt(free), learnt(loose)) == []


def test_without_an_average_the_model_itself_is_kept():
    engine = make()
    assert engine.averaged_model is engine.model


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_the_average_trails_the_weights_by_its_decay(device):
    engine = make(device, average=0.75, compile=device == "cuda")
    names = "masks.first_slot.weight", "masks.encoder.0.norm.running_mean"
    expected = [engine.model.state_dict()[name].clone() for name in names]
    for step in range(35):  # the weight of the newest reaches 1/4 after 30
        engine.step()
        weight = max(0.25, 10 / (10 + step))
        now = [engine.model.state_dict()[name] for name in names]
        expected = [a + weight * (b - a) for a, b in zip(expected, now, strict=True)]
    kept = engine.averaged_model
    torch.testing.assert_close([kept.state_dict()[name] for name in names], expected)
    assert not torch.equal(expected[0], now[0])
    assert not kept.training


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_a_skipped_step_leaves_the_average_too(device):
    engine = make(device, compile=device == "cuda", **OPTIONS)
    run(engine, 2)
    before = learnt(engine) | engine.state_dict()["average"]
    engine.gradient_factor.fill_(float("nan"))
    engine.step()
    assert differing(before, learnt(engine) | engine.state_dict()["average"]) == []
    engine.gradient_factor.fill_(1.0)
    engine.step()
    assert "steps" in differing(before, learnt(engine) | engine.state_dict()["average"])


def test_a_saved_state_continues_bit_for_bit_with_every_option():
    geco = Geco.for_image_size(32, half_life=3, largest_step=0.01)
    engine = make(objective=geco, **OPTIONS)
    run(engine, 3)
    state = engine.state_dict()
    expected = run(engine, 4)
    other = make(objective=Geco.for_image_size(32, half_life=3, largest_step=0.01), **OPTIONS)
    run(other, 1)
    other.load_state_dict(state)
    assert run(other, 4) == expected
    assert differing(engine.state_dict()["average"], other.state_dict()["average"]) == []


OF_A_RUN = {"learning_rate_schedule": "cosine", "gradient_clip": 100.0, "weight_average": 0.5}


@pytest.mark.parametrize("option", [*OF_A_RUN.items(), ("learning_rate_warmup", 5)])
def test_a_run_does_what_its_options_say(option, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert main(arguments(plain, steps=4)) == 0
    assert main(arguments(other, steps=4, **dict([option]))) == 0
    if option[0] == "weight_average":
        assert exact(plain) == exact(other)  # the average only watches
    else:
        assert exact(plain) != exact(other)
    assert weights_sha256(plain / "model") != weights_sha256(other / "model")


def test_training_starts_from_the_weights_of_a_checkpoint(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(first, steps=2)) == 0
    model = build_model(build(TINY | {"mask_latents": 8, "num_slots": 4}))  # there it is three
    take_weights(model, str(first / "model"))
    expected = load_checkpoint(first / "model").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())

    plain, started = tmp_path / "plain", arguments(second, steps=2, start_from=first / "model")
    assert main(arguments(plain, steps=2)) == 0
    assert main(started) == 0
    assert exact(second) != exact(plain) == exact(first)


def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(first, steps=2)) == 0
    assert main(arguments(second, steps=2, start_from=first / "model")) == 0
    shutil.rmtree(first)
    assert main([f"--out={second}", "--resume", "--steps=4"]) == 0
    assert metrics(second, "train")[-1]["step"] == 4
    assert read_config(second / "model")["metadata"]["start_from"] == str(first / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_from": "no_such_weights"}, "start_from no_such_weights: "),
        (
            {},
            "its masks.encoder.0.conv.weight is [16, 3, 5, 5], that of these settings [8, 3, 5, 5]",
        ),
        ({"model": "monet"}, "it holds a Genesis, not a Monet"),
    ],
)
def test_a_checkpoint_of_another_model_is_no_start(settings, message, tmp_path, capsys):
    other = save_checkpoint(tmp_path / "other", build_model(build(TINY | {"width": 8})))
    options = {"start_from": other} | settings
    assert main(arguments(tmp_path / "run", steps=2, **options)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_average_is_what_a_run_judges_and_exports(tmp_path):
    assert main(arguments(tmp_path / "run", steps=4, validate_every=4, weight_average=0.5)) == 0
    config = build(load_yaml(tmp_path / "run" / "config.yaml"))
    found = load_state(tmp_path / "run", config=config.fingerprint(), say=print)
    average = found[1]["engine"]["average"]
    exported = load_checkpoint(tmp_path / "run" / "model").state_dict()
    for name, value in exported.items():
        assert torch.equal(value, average[f"model.{name}"]), name
    assert metrics(tmp_path / "run", "val")[-1]["step"] == 4


def test_the_weights_that_were_averaged_can_be_exported_too(tmp_path):
    run, out = tmp_path / "run", tmp_path / "raw"
    assert main(arguments(run, steps=4, weight_average=0.5)) == 0
    assert export.main([str(run), str(out), "--raw", "--images", "8"]) == 0
    found = load_state(run, config=build(load_yaml(run / "config.yaml")).fingerprint(), say=print)
    last = found[1]["engine"]["model"]
    for name, value in load_checkpoint(out).state_dict().items():
        assert torch.equal(value, last[name]), name
    assert weights_sha256(out) != weights_sha256(run / "model")


def test_without_a_sound_state_there_are_no_raw_weights(tmp_path, capsys):
    assert main(arguments(tmp_path / "run", steps=2)) == 0
    for state in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        state.unlink()
    assert export.main([str(tmp_path / "run"), str(tmp_path / "raw"), "--raw"]) == 2
    assert "holds no sound state" in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


def test_a_run_with_every_option_resumes_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(whole, steps=8, **OF_A_RUN)) == 0
    # The cosine is that of eight steps, so the first part is cut off, not asked to be short.
    process = start(arguments(parts, steps=8, checkpoint_every=1, **OF_A_RUN))
    wait_for_step(parts, 3, process)
    process.kill()
    process.wait()
    assert main([f"--out={parts}", "--resume"]) == 0
    assert exact(parts) == exact(whole)
    assert weights_sha256(parts / "model") == weights_sha256(whole / "model")

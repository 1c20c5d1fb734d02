"""The training step: what it must not do to a model, and that it does the same thing every time."""

import math

import pytest
import torch

from benchmarks.reliability_training import IMAGES, differing, learnt, make
from genesis_rl.losses.geco import BetaWarmup, Geco
from pretrain.engine import epoch_order

GPU = pytest.mark.gpu
CPU_AND_CUDA = ["cpu", pytest.param("cuda", marks=GPU)]


def run(engine, steps, seed=None):
    if seed is not None:  # the noise comes from the global generator, which engines share
        torch.manual_seed(seed)
    losses = []
    for _ in range(steps):
        engine.step()
        losses.append(engine.read().loss)
    return losses


def test_the_same_seed_gives_the_same_losses():
    assert run(make(), 6) == run(make(), 6)
    assert run(make(seed=1), 1) != run(make(), 1)


def test_training_lowers_the_error():
    engine = make()
    before = run(engine, 1)[0]
    assert run(engine, 40)[-1] < before - 5


def test_a_step_moves_everything_that_learns():
    engine = make()
    before = learnt(engine)
    engine.step()
    still = [name for name in before if torch.equal(before[name], learnt(engine)[name])]
    # The last slot's logit is decoded but unused in the loss; nothing else may stand still.
    assert not [name for name in still if "weight" in name or "running" in name or "beta" in name]


@pytest.mark.parametrize("device", CPU_AND_CUDA)
@pytest.mark.parametrize("spoilt", ["factor", "gradient_factor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_batch_changes_nothing_and_is_counted(device, spoilt, value):
    engine = make(device, compile=device == "cuda")
    run(engine, 3)
    before = learnt(engine)
    getattr(engine, spoilt).fill_(value)
    engine.step()
    assert differing(before, learnt(engine)) == []
    readings = engine.read()
    assert (readings.skipped, readings.skipped_in_a_row) == (1, 1)

    getattr(engine, spoilt).fill_(1.0)
    engine.step()
    assert "model.masks.first_slot.weight" in differing(before, learnt(engine))
    assert engine.read().skipped == 1


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_skipped_steps_do_not_enter_the_averages(device):
    engine = make(device, compile=device == "cuda")
    engine.step()
    good = engine.read()
    engine.step()
    engine.factor.fill_(float("nan"))
    engine.step()
    engine.step()
    readings = engine.read()
    assert (readings.skipped, readings.skipped_in_a_row) == (2, 2)
    assert readings.mean_error == readings.error != good.error


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_the_loss_of_a_step_has_the_beta_before_it_and_moves_the_next(device):
    engine = make(device, objective=Geco(1000.0, step_size=1e-3), compile=device == "cuda")
    engine.step()
    first = engine.read()
    assert first.loss == pytest.approx(first.error + first.kl, rel=1e-6)
    assert engine.objective.error_ema.item() == first.error
    assert first.beta == pytest.approx(math.exp(1e-3 * (1000 - first.error)), rel=1e-5)
    engine.step()
    second = engine.read()
    assert second.loss == pytest.approx(second.error + first.beta * second.kl, rel=1e-6)
    expected = 0.99 * first.error + 0.01 * second.error
    assert engine.objective.error_ema.item() == pytest.approx(expected, rel=1e-9)


def test_the_guard_also_covers_a_fixed_beta():
    engine = make(objective=BetaWarmup(0.5, warmup_steps=10))
    run(engine, 2)
    before = learnt(engine)
    engine.gradient_factor.fill_(float("nan"))
    engine.step()
    assert differing(before, learnt(engine)) == []


def test_a_saved_state_continues_bit_for_bit():
    engine = make()
    run(engine, 3)  # an epoch has 2 steps: this is inside of the second
    state = engine.state_dict()
    expected = run(engine, 4)
    other = make(seed=0)
    run(other, 1)
    other.load_state_dict(state)
    assert run(other, 4) == expected
    assert differing(learnt(engine), learnt(other)) == []


@pytest.mark.parametrize("part", ["objective", "optimizer", "rng_cpu"])
def test_no_part_of_the_state_can_be_left_out(part):
    engine = make()
    run(engine, 3)
    state = engine.state_dict()
    expected = run(engine, 3)
    other = make(seed=0)
    other.load_state_dict(state | {part: make().state_dict()[part]})
    assert run(other, 3) != expected


def test_an_epoch_visits_every_image_once_and_epochs_differ():
    orders = [epoch_order(IMAGES, seed=0, epoch=epoch).tolist() for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(IMAGES))
    assert orders[0] != orders[1] != epoch_order(IMAGES, seed=1, epoch=1).tolist()


@pytest.mark.parametrize("device", CPU_AND_CUDA)
def test_the_batches_follow_the_order_of_seed_and_step(device):
    engine = make(device)
    seen = []
    batch = engine.batch

    def watched():
        images = batch()
        seen.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
        return images

    engine.batch = watched
    run(engine, 3)
    expected = torch.cat([epoch_order(IMAGES, seed=0, epoch=epoch)[:8] for epoch in (0, 1)])[:12]
    assert torch.equal(torch.cat(seen).cpu(), engine.images.cpu()[expected])


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="a batch of 11 needs as many images, but got 10"):
        make(batch_size=11)


def test_a_compiler_that_fails_costs_one_warning(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C compiler\nfound")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"training without torch.compile: .*no C compiler found"):
        engine = make(compile=True)
    assert engine.mode == "eager"
    assert run(engine, 2) == run(make(), 2)


@GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_graph_learns_what_the_eager_step_learns(precision):
    eager = make("cuda", precision=precision)
    graph = make("cuda", precision=precision, compile=True)
    assert graph.mode == "compiled in one CUDA graph"
    assert differing(learnt(eager), learnt(graph)) == []  # the warm-up left no trace
    start = learnt(eager)
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    assert run(graph, 5, seed=0) == pytest.approx(run(eager, 5, seed=0), rel=tolerance)
    if precision == "fp32":
        assert_learnt_alike(graph, eager, start)


def assert_learnt_alike(ours, theirs, start):
    """Where a gradient is hardly there, rounding decides its sign, which is all that Adam sees.

    So single weights may part, but all together stay near, by the length of their way.
    """
    for name, value in learnt(theirs).items():
        if not name.startswith("adam") and value.is_floating_point():
            way = (value - start[name]).norm()
            assert (learnt(ours)[name] - value).norm() <= 0.05 * way + 1e-6, name


@pytest.mark.slow
def test_a_compiled_step_learns_what_the_eager_step_learns():
    eager, compiled = make(), make(compile=True)
    assert compiled.mode == "compiled"
    start = learnt(eager)
    assert differing(start, learnt(compiled)) == []
    assert run(compiled, 5, seed=0) == pytest.approx(run(eager, 5, seed=0), rel=1e-4)
    assert_learnt_alike(compiled, eager, start)


@GPU
def test_a_graph_continues_from_a_saved_state():
    engine = make("cuda", compile=True)
    run(engine, 3)
    state = engine.state_dict()
    expected = run(engine, 4)
    engine.load_state_dict(state)  # in place: the captured graph stays valid
    assert run(engine, 4) == pytest.approx(expected, rel=1e-4)
    other = make("cuda", compile=True)
    other.load_state_dict(state)
    assert run(other, 4) == pytest.approx(expected, rel=1e-4)


@GPU
def test_a_graph_draws_new_noise_every_step():
    engine = make("cuda", compile=True, learning_rate=1e-9, batch_size=IMAGES)
    losses = run(engine, 4)
    assert len(set(losses)) == 4

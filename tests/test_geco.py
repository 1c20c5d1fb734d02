import math

import numpy as np
import pytest
import torch

from benchmarks.geco_dynamics import SKILL, STRIDE, simulate
from genesis_rl import Geco
from genesis_rl.losses.geco import BetaWarmup
from released_weights import fixture


@pytest.mark.parametrize("trace", fixture("geco")["geco"], ids=lambda trace: str(trace["seed"]))
def test_the_release_s_trace_is_reproduced(trace: dict):
    steps = np.arange(300)
    noise = np.random.default_rng(trace["seed"]).standard_normal(300)
    errors = 7950 - 1000 * (1 - np.exp(-steps / 60)) + 5 * noise
    geco = Geco(trace["goal"], step_size=trace["step_size"], speedup=trace["speedup"] or 1.0)
    seen = []
    for error in errors:
        loss = geco(torch.tensor(error, dtype=torch.float32), torch.tensor(50.0))
        seen.append((loss.item(), geco.beta.item(), geco.error_ema.item()))
    seen = np.array(seen)[trace["at_steps"]]
    expected = [trace["loss"], trace["beta_after"], trace["ema_after"]]
    np.testing.assert_allclose(seen.T, expected, rtol=1e-4)


def test_the_loss_uses_the_beta_of_the_step_before():
    geco = Geco(goal=10.0, step_size=0.1, speedup=1.0)
    assert geco(torch.tensor(12.0), torch.tensor(3.0)).item() == 12 + 1 * 3
    assert geco.beta.item() == pytest.approx(math.exp(0.1 * (10 - 12)))


@pytest.mark.parametrize("make", [lambda: Geco(10.0), lambda: BetaWarmup(0.5, warmup_steps=4)])
def test_a_call_is_the_loss_and_then_the_update(make):
    whole, parts, untouched = make(), make(), make()
    for error in (12.0, 9.0):
        values = torch.tensor(error), torch.tensor(3.0)
        loss = parts.loss(*values)
        assert parts.state_dict() == untouched.state_dict()
        assert whole(*values) == loss
        parts.update(values[0], torch.tensor(False))
        assert parts.state_dict() == untouched.state_dict()
        for objective in (parts, untouched):
            objective.update(values[0], torch.tensor(True))
        assert parts.state_dict() == whole.state_dict()


def test_the_average_starts_at_the_first_error():
    geco = Geco(goal=10.0)
    geco(torch.tensor(12.0), torch.tensor(0.0))
    assert geco.error_ema.item() == 12
    geco(torch.tensor(112.0), torch.tensor(0.0))
    assert geco.error_ema.item() == pytest.approx(0.99 * 12 + 0.01 * 112)


def test_beta_rises_ten_times_faster_than_it_falls():
    falling, rising = Geco(goal=10.0, step_size=0.01), Geco(goal=10.0, step_size=0.01)
    falling(torch.tensor(11.0), torch.tensor(0.0))
    rising(torch.tensor(9.0), torch.tensor(0.0))
    assert rising.beta.log().item() == pytest.approx(-10 * falling.beta.log().item(), rel=1e-5)


def test_beta_stays_within_its_clamps():
    geco = Geco(goal=0.0, step_size=1.0)
    for _ in range(3):
        geco(torch.tensor(1e6), torch.tensor(0.0))
    assert geco.beta.item() == pytest.approx(1e-10)


def test_the_options_left_alone_change_no_bit():
    geco = Geco.for_image_size(64)
    beta, average = torch.tensor(1.0), None  # the update as the paper and the release have it
    for error in torch.linspace(8000, 6900, 50):  # misses the goal of 6,948.9, then meets it
        geco(error, torch.tensor(50.0))
        average = 0.99 * average + (1 - 0.99) * error.double() if average else error.double()
        slack = 0.5655 * 3 * 64**2 - average
        rate = 1e-5 * torch.where(slack > 0, 10.0, 1.0)
        beta.copy_(beta * torch.exp(rate * slack))
        assert geco.beta.item().hex() == beta.item().hex()
    assert set(geco.state_dict()) == {"beta", "error_ema", "started"}


def test_beta_never_moves_by_more_than_the_largest_step():
    geco = Geco(goal=10.0, step_size=0.01, largest_step=0.25)
    moves = []
    for error in (1000.0, 10.5, 0.0):  # misses by far, by little, and is then met by far
        geco.started.fill_(False)
        before = geco.beta.log()
        geco(torch.tensor(error), torch.tensor(0.0))
        moves.append((geco.beta.log() - before).item())
    assert moves == pytest.approx([-0.25, 0.01 * -0.5, 0.25], abs=1e-6)


def test_an_easy_goal_gets_half_as_easy_every_half_life():
    geco = Geco(goal=10.0, first_goal=14.0, half_life=2)
    margins = []
    for _ in range(5):
        geco(torch.tensor(100.0), torch.tensor(0.0))
        margins.append(geco.margin.item())
    assert margins[1::2] == pytest.approx([2, 1])
    assert Geco.for_image_size(32, goal=0.5, first_goal=0.6).first_goal == pytest.approx(0.6 * 3072)


def test_an_easy_goal_is_what_beta_is_judged_by():
    easy, hard = Geco(goal=10.0, first_goal=14.0, half_life=1), Geco(goal=10.0)
    for geco in (easy, hard):
        geco(torch.tensor(12.0), torch.tensor(0.0))
    assert easy.beta.item() == pytest.approx(math.exp(1e-4 * 2))  # 14 is met by 2 nats
    assert hard.beta.item() == pytest.approx(math.exp(1e-5 * -2))


def test_the_first_error_can_be_the_first_goal():
    geco = Geco(goal=10.0, half_life=1)
    geco(torch.tensor(30.0), torch.tensor(0.0))
    assert (geco.beta.item(), geco.margin.item()) == (1, pytest.approx(10))
    satisfied = Geco(goal=10.0, half_life=1)
    satisfied(torch.tensor(8.0), torch.tensor(0.0))  # no goal below the last one
    assert satisfied.margin.item() == 0


def test_larger_images_move_beta_by_smaller_steps():
    small, large = Geco.for_image_size(64), Geco.for_image_size(128)
    assert small.goal == pytest.approx(6948.864)
    assert large.goal == 4 * small.goal
    assert large.step_size == small.step_size / 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "objective", [Geco(10.0), Geco(10.0, half_life=5), BetaWarmup(0.5, warmup_steps=4)]
)
def test_a_batch_that_is_not_finite_changes_nothing(objective: torch.nn.Module, bad: float):
    objective(torch.tensor(12.0), torch.tensor(1.0))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective(torch.tensor(bad), torch.tensor(1.0))
    objective(torch.tensor(1.0), torch.tensor(bad))
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_first_batch_that_is_not_finite_sets_no_goal(bad: float):
    geco = Geco(10.0, half_life=1)
    geco(torch.tensor(bad), torch.tensor(1.0))
    geco(torch.tensor(30.0), torch.tensor(1.0))
    assert (geco.beta.item(), geco.margin.item()) == (1, pytest.approx(10))


def test_evaluation_does_not_move_beta():
    geco = Geco(10.0).eval()
    geco(torch.tensor(12.0), torch.tensor(1.0))
    assert geco.beta.item() == 1


def test_gradients_weigh_the_kl_by_beta_and_do_not_reach_beta():
    geco = Geco(10.0)
    geco.beta.fill_(0.25)
    error = torch.tensor(12.0, requires_grad=True)
    kl = torch.tensor(3.0, requires_grad=True)
    geco(error, kl).backward()
    assert (error.grad.item(), kl.grad.item()) == (1, 0.25)


def test_warm_up_climbs_a_straight_line_and_stops():
    objective = BetaWarmup(0.5, warmup_steps=2)
    betas = []
    for _ in range(4):
        betas.append(objective.beta.item())
        objective(torch.tensor(1.0), torch.tensor(1.0))
    assert betas == [0, 0.25, 0.5, 0.5]


def test_without_warm_up_beta_is_constant():
    objective = BetaWarmup(0.5)
    assert objective(torch.tensor(1.0), torch.tensor(1.0)).item() == 1.5
    assert objective.beta.item() == 0.5


# On a model of training (benchmarks/geco_dynamics.py), beside what was measured on an H200.


@pytest.mark.parametrize(
    ("options", "measured_kl", "measured_beta"),
    [
        ({}, 4500, 1.9e-8),
        ({"beta_range": (1e-3, 1e10)}, 1193, 1e-3),
        ({"goal": 0.5675}, 215, 0.117),
    ],
)
def test_the_model_of_training_does_what_towers_did(options, measured_kl, measured_beta):
    last = simulate(SKILL["towers"], 41_000, **options)[-1]
    assert last.kl == pytest.approx(measured_kl, rel=0.2)
    # Within two decades of the twenty that beta has; where beta matters, within a third.
    assert abs(math.log10(last.beta / measured_beta)) < (2 if measured_beta < 1e-6 else 0.13)


def test_the_model_of_training_does_what_rooms_did_until_they_met_the_goal():
    points = simulate(SKILL["rooms"], 20_000, beta_range=(1e-2, 1e10))
    errors = [points[step // STRIDE].error for step in (5_000, 10_000)]
    assert errors == pytest.approx([0.56729, 0.56585], abs=1e-4)
    met = next(point.steps for point in points if point.error <= 0.5655)
    assert met == pytest.approx(13_400, rel=0.05)
    assert points[-1].beta == pytest.approx(0.064, rel=0.35)


def test_bounded_steps_keep_beta_from_collapsing_on_textures():
    paper = simulate(SKILL["towers"], 60_000)
    bounded = simulate(SKILL["towers"], 60_000, largest_step=1e-4)
    assert min(point.beta for point in paper) < 1e-9
    assert min(point.beta for point in bounded) > 1e-3
    assert bounded[-1].error - paper[-1].error < 2e-4  # at hardly any price in nats per element

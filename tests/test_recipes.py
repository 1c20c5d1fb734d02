"""Comparing recipes: at equal budgets, and from what runs have written alone."""

import json
import math

import cv2
import pytest
import scipy.stats

from benchmarks import recipes, report
from benchmarks.seed_noise import difference
from pretrain.config import build
from pretrain.run import main as train
from runs import arguments, metrics


def write_run(root, name, *, rate=10.0, ari=0.1, beta=0.5, points=4, **settings):
    """A run of `100 * points` steps at `rate` steps/s, whose ARI-FG grows by `ari` every 100."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(build(settings).to_yaml())
    origin = {"device": "some GPU", "commit": "abc", "versions": {"torch": "2"}, "step": 0}
    (folder / "env.json").write_text(json.dumps(origin))
    lines = []
    for i in range(1, points + 1):
        train = {"error": 0.57 - 0.002 * i, "kl": 100.0, "beta": beta / i, "skipped_steps": 0}
        train |= {"steps_per_second": rate, "loss_hex": "0x0p+0"}
        lines.append({"step": 100 * i, "split": "train", **train})
        scores = {"error": 0.6, "kl": 90.0, "ari_fg": ari * i, "sc": 0.5, "msc": 0.4}
        lines.append({"step": 100 * i, "split": "val", **scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(root, tmp_path, *flags):
    return recipes.main([str(root), "--results-dir", str(tmp_path / "results"), *flags])


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "study"
    write_run(root, "faithful")
    write_run(root, "twice", rate=5.0, ari=0.2, points=6, batch_size=64)
    return root


def test_runs_are_compared_as_far_as_all_have_got(study, tmp_path):
    faithful, twice = compare(study, tmp_path)
    assert (faithful["budget"], faithful["steps"], twice["steps"]) == (400, 400, 400)
    assert (faithful["ari_fg"], twice["ari_fg"]) == pytest.approx((0.4, 0.8))
    assert twice["differs"] == {"batch_size": 64}
    assert faithful["differs"] == {}


def test_equal_time_is_fewer_steps_of_what_is_slower(study, tmp_path):
    faithful, twice = compare(study, tmp_path, "--by", "minutes")
    assert faithful["budget"] == pytest.approx(40 / 60)  # 400 steps at 10 a second
    assert (faithful["steps"], twice["steps"]) == (400, 200)


def test_a_budget_can_be_given(study, tmp_path):
    lines = compare(study, tmp_path, "--budget", "150")
    assert [line["steps"] for line in lines] == [100, 100]
    lines = compare(study, tmp_path, "--budget", "50")  # before anything was validated
    assert [line["ari_fg"] for line in lines] == [None, None]


def test_a_line_says_what_geco_did(study, tmp_path):
    line = compare(study, tmp_path)[0]
    assert line["goal_met_at"] == 300  # .57 - .006 <= .5655
    assert (line["beta"], line["lowest_beta"]) == (0.125, 0.125)


def test_lines_are_kept_with_the_origin_of_the_runs(study, tmp_path):
    lines = compare(study, tmp_path)
    text = (tmp_path / "results" / "recipes.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == lines
    for line in lines:
        assert (line["device"], line["commit"], line["seed"]) == ("some GPU", "abc", 0)
        assert line["command"].startswith("python -m benchmarks.recipes")


def test_seeds_are_one_recipe_with_a_deviation(tmp_path, capsys):
    root = tmp_path / "study"
    for seed, ari in ((0, 0.1), (1, 0.2)):
        write_run(root, f"faithful-s{seed}", ari=ari, seed=seed)
    write_run(root, "other", goal=0.56)
    compare(root, tmp_path)
    table = capsys.readouterr().out
    assert "| faithful | (baseline) | 2 | 400 | 0.7 | 0.600 +- 0.283 |" in table
    assert "| other | goal 0.56 | 1 |" in table
    assert table.index("faithful") < table.index("other")  # the best segmentation comes first


def test_seeds_explain_what_is_no_further_apart_than_seeds_are(tmp_path, capsys):
    root = tmp_path / "study"
    for name, scores in (("plain", (0.10, 0.11, 0.12)), ("kernels", (0.11, 0.12, 0.10))):
        for seed, ari in enumerate(scores):
            fused = {"plain": "off", "kernels": "on"}[name]
            write_run(root, f"{name}-s{seed}", ari=ari, seed=seed, fused=fused)
    write_run(root, "better-s0", ari=0.20, goal=0.56, fused="off")
    write_run(root, "better-s1", ari=0.22, goal=0.56, fused="off", seed=1)
    write_run(root, "alone", goal=0.57, fused="off")  # a single run has no spread
    lines = compare(root, tmp_path, "--baseline", "plain")
    (part,) = [part for part in capsys.readouterr().out.split("\n\n") if "explained" in part]
    table = [line for line in part.splitlines() if line.startswith("|")]
    rows = {tuple(line.split(" | ")[i] for i in (0, 2)): line for line in table}
    # At 400 steps ARI-FG is four times that of 100: .40, .44, .48 in both, so a spread of .04,
    # which makes 2.776 * .04 * sqrt(2 / 3) = .0907.
    assert rows["| kernels", "ARI-FG"] == (
        "| kernels | 3 and 3 | ARI-FG | 0.4400 | 0.4400 | +0.0000 +- 0.0907 | yes | 4 of 4 |"
    )
    assert "| 0.4400 | 0.8400 | +0.4000 +- " in rows["| better", "ARI-FG"]
    assert "| no | 0 of 4 |" in rows["| better", "ARI-FG"]
    assert "| 0.60000 | 0.60000 | +0.00000 +- 0.00000 | yes |" in rows["| kernels", "error"]
    assert not any("alone" in name for name, _ in rows)
    assert [line["differs"] for line in lines if line["run"] == "kernels-s0"] == [{"fused": "on"}]
    assert "\n".join(table) in report.render(tmp_path / "results")


def test_the_interval_is_that_of_students_test():
    ours, theirs = [0.5, 0.7, 0.9, 0.6], [0.4, 0.5, 0.3]
    interval = scipy.stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    found = difference(ours, theirs)
    assert found.value - found.margin == pytest.approx(interval.low, abs=1e-3)
    assert found.value + found.margin == pytest.approx(interval.high, abs=1e-3)
    assert found.explained == (interval.low <= 0 <= interval.high)


def test_without_a_gpu_own_kernels_change_nothing(tmp_path, capsys):
    root = tmp_path / "study"
    for seed in (0, 1):
        for name, fused in (("plain", "off"), ("kernels", "auto")):
            flags = arguments(root / f"{name}-s{seed}", steps=4, validate_every=2, seed=seed)
            assert train([*flags, f"--fused={fused}"]) == 0
    compare(root, tmp_path, "--baseline", "plain")
    said = capsys.readouterr().out
    for score in ("ARI-FG", "mSC", "error"):
        (line,) = [line for line in said.splitlines() if f"| 2 and 2 | {score} |" in line]
        assert line.endswith("| yes | 2 of 2 |")
        assert "| +0.0000" in line


def test_a_run_without_validation_is_named_and_left_out(study, tmp_path, capsys):
    write_run(study, "young", points=0)
    assert len(compare(study, tmp_path)) == 2
    assert "young has no validation yet" in capsys.readouterr().err


def test_mistakes_are_one_line(study, tmp_path):
    with pytest.raises(ValueError, match="no run is called 'x'; --baseline is one of faithful, tw"):
        compare(study, tmp_path, "--baseline", "x")
    with pytest.raises(FileNotFoundError, match="elsewhere is no folder"):
        compare("elsewhere", tmp_path)


def test_real_runs_are_read_and_drawn(tmp_path):
    root = tmp_path / "study"
    for name, options in (("faithful", {}), ("wide", {"width": 6})):
        assert train(arguments(root / name, steps=4, validate_every=2, **options)) == 0
    lines = compare(root, tmp_path, "--picture", str(tmp_path / "curves.png"))
    for line in lines:
        last = metrics(root / line["run"], "val")[-1]
        assert [line[name] for name in recipes.SCORES] == [last[name] for name in recipes.SCORES]
        assert line["minutes"] > 0
        assert math.isfinite(line["beta"])
        assert line["commit"]
    assert [line["differs"] for line in lines] == [{}, {"width": 6}]
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[1] > 1000
    assert (picture < 50).all(axis=2).any()  # the baseline's black

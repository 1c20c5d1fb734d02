import numpy as np
import pytest

from benchmarks.curves import (
    Curve,
    ascii_curve,
    bootstrap_interval,
    draw_curves,
    interquartile_mean,
)


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 8, 30])
def test_interquartile_mean_is_scipys_trimmed_mean(runs):
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(runs).random((runs, 6))
    np.testing.assert_allclose(
        interquartile_mean(scores), stats.trim_mean(scores, 0.25, axis=0), rtol=1e-14
    )


def test_equal_runs_leave_nothing_uncertain():
    band = bootstrap_interval(
        [np.full((5, 3), 0.7), np.full((5, 3), 0.3)], lambda x: x.mean(axis=0)
    )
    for part in band:
        np.testing.assert_allclose(part, 0.5)


def test_runs_are_resampled_within_their_task():
    # Were the tasks mixed, the mean of ten runs would vary; each task alone never does.
    tasks = [np.zeros(5), np.ones(5)]
    assert bootstrap_interval(tasks, lambda x: x.mean(axis=0))[:] == (0.5, 0.5, 0.5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        runs = rng.normal(size=(30, 1))
        band = bootstrap_interval([runs], lambda x: x.mean(axis=0), repetitions=200, seed=trial)
        covered += bool(band.low[0] <= 0 <= band.high[0])
    assert 85 <= covered <= 100


def test_the_text_curve_rises_with_its_values():
    text = ascii_curve([0, 50, 100], [0, 0.5, 1], title="success", reference=0.25, width=20)
    lines = text.splitlines()
    assert lines[0] == "success"
    assert lines[1].split("|")[1].rstrip().endswith("*")  # the top row, at the end
    assert lines[10].split("|")[1].startswith("*")  # the bottom row, at the start
    assert "." in text
    assert lines[-1].strip() == "dotted: random policy, 0.250"
    assert ascii_curve([0, 1], [0.5, 0.5], title="flat")  # no range to scale by


def test_curves_become_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    steps = np.arange(4) * 100
    curves = [Curve(name, steps, np.random.default_rng(0).random((3, 4))) for name in "ab"]
    path = tmp_path / "new" / "curve.png"
    draw_curves(curves, path, title="t", ylabel="success", reference=0.3)
    assert path.read_bytes().startswith(b"\x89PNG")

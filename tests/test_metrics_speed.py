import json

import pytest
import torch

from benchmarks import metrics_speed


def test_the_command_times_equal_indices_and_stores_a_line(tmp_path, capsys):
    pytest.importorskip("sklearn")
    metrics_speed.main(
        ["--batch", "4", "--seconds", "0.01", "--device", "cpu", "--results-dir", str(tmp_path)]
    )
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["difference"] < 1e-12
    assert line["speedup"] == pytest.approx(line["scikit_learn_ms"] / line["ours_ms"], rel=0.05)
    assert json.loads((tmp_path / "metrics_speed.jsonl").read_text()) == line


def test_indices_that_differ_are_refused(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("sklearn.metrics.adjusted_rand_score", lambda t, p: 0.5)
    with pytest.raises(ValueError, match="differs by"):
        metrics_speed.compare(*metrics_speed.label_maps(2), torch.device("cpu"), seconds=0.01)

"""How cost grows: which points are measured, in what order, and what becomes of them."""

import json
from functools import partial

import cv2
import pytest
import torch

from benchmarks import cost_growth, timing
from benchmarks.cost_growth import Point
from benchmarks.report import render
from genesis_rl import GenesisConfig
from pretrain.config import Config

CPU = torch.device("cpu")
SMALL = {what: Point(what, 2, 1, 32) for what in cost_growth.KINDS}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two slots, one image of 32 pixels and nothing beside it, unless a test asks for more."""
    monkeypatch.setattr(timing, "MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr("pretrain.config.Config", partial(Config, width=4))
    monkeypatch.setattr("genesis_rl.GenesisConfig", partial(GenesisConfig, width=4))
    for what, centre in SMALL.items():
        monkeypatch.setitem(cost_growth.CENTRES, ("cpu", what), centre)
        monkeypatch.setitem(cost_growth.VALUES, ("cpu", what), {})


def command(folder, *flags):
    flags = [*flags, "--device", "cpu", "--seconds", "0.01", "--results-dir", str(folder)]
    cost_growth.main(flags)


def rows(folder):
    lines = (folder / "cost_growth.jsonl").read_text().splitlines()
    return [row for line in lines for row in json.loads(line)["rows"]]


def test_one_thing_varies_at_a_time_and_the_ends_of_each_axis_come_first():
    points = cost_growth.plan(
        Point("encode", 5, 64, 64), {"slots": (2, 3, 5, 12), "image_size": (32, 128)}
    )
    assert [(point.slots, point.image_size) for point in points] == [
        (5, 64),
        (12, 64),
        (5, 128),
        (2, 64),
        (5, 32),
        (3, 64),  # 5 slots again are the centre
    ]


@pytest.mark.parametrize(("device", "what"), cost_growth.VALUES)
def test_the_usual_points_reach_from_few_to_many(device, what):
    usual = cost_growth.VALUES[device, what]
    for axis, values in usual.items():
        assert min(values) < max(values), axis
    points = cost_growth.plan(cost_growth.CENTRES[device, what], usual)
    assert {point.what for point in points} == {what}


def test_both_kinds_are_measured_printed_kept_and_drawn(tmp_path, capsys):
    command(tmp_path)
    said = capsys.readouterr().out.splitlines()
    measured = json.loads(said[-1])["rows"]
    assert [cost_growth.point_of(row) for row in measured] == [SMALL["encode"], SMALL["train"]]
    for row, line in zip(measured, said, strict=False):
        assert row["gflop"] > 0
        assert row["of_floor"] > 0
        assert row["peak_memory_mb"] > 0
        assert line.startswith(cost_growth.name_of(row))
    assert measured[1]["gflop"] > 2 * measured[0]["gflop"]  # training goes backward, too
    assert cv2.imread(str(tmp_path / "cost_growth.png")).shape[1] > 1000
    text = render(tmp_path)
    assert "| train | 2 | 1 | 32 |" in text
    assert "![cost_growth](benchmarks/results/cost_growth.png)" in text


def test_what_does_not_fit_into_memory_is_said_and_left_out(tmp_path, capsys):
    far_too_many = 2**42
    command(tmp_path, "--what", "encode", "--batches", str(far_too_many))
    assert f"batch {far_too_many} 32 px: does not fit into memory" in capsys.readouterr().out
    small, large = rows(tmp_path)
    assert small["ms"] > 0
    assert "ms" not in large
    assert cost_growth.along("batch", SMALL["encode"], [small, large]) == [small]
    assert "does not fit" in render(tmp_path)


def test_other_failures_are_not_swallowed(monkeypatch):
    def fails(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cost_growth, "timed", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        cost_growth.measured(SMALL["encode"], CPU, "auto", 0.01)


def test_what_there_was_no_time_for_is_named_and_made_by_resuming(tmp_path, capsys):
    flags = ["--what", "encode", "--slots", "3"]
    command(tmp_path, *flags[:2])
    command(tmp_path, *flags, "--resume", "--minutes", "1e-9")
    said = capsys.readouterr().err
    assert "left for --resume, out of time:\n" in said
    assert "encode K=3 batch 1 32 px" in said
    command(tmp_path, *flags, "--resume")
    command(tmp_path, *flags, "--resume")  # nothing is left
    assert [row["slots"] for row in rows(tmp_path)] == [2, 3]


def test_the_newest_row_of_a_point_counts_and_other_machines_are_kept_apart():
    def line(device, ms):
        row = {**SMALL["encode"]._asdict(), "device": "cpu", "ms": ms}
        return {"device": device, "rows": [row]}

    lines = [line("mine", 1.0), line("mine", 2.0), line("another", 3.0), line("mine", 4.0)]
    ((row, _),) = cost_growth.newest_rows(lines, "cpu").values()
    assert row["ms"] == 4.0
    assert cost_growth.newest_rows(lines, "cuda") == {}
    ((row, _),) = cost_growth.newest_rows(lines[:3], "cpu").values()
    assert row["ms"] == 3.0


def test_the_floor_is_arithmetic_over_the_peak():
    row = {"gflop": 3.8, "matrix_tflops": 760.0, "ms": 0.64, "batch": 64}
    assert cost_growth.floor_ms(row) == pytest.approx(0.005)
    assert cost_growth.ms_per_image(row) == pytest.approx(0.01)

"""The scoreboard of reliability: its rows do what they say, and its page is that of its lines."""

import json

import pytest
import torch

from benchmarks import reliability
from benchmarks.common import RESULTS, ROOT, read_lines
from benchmarks.reliability_page import ROWS, render, verdict

LINE = {"tried": 200, "held": 200, "void": ""}


@pytest.mark.parametrize("number", [2, 3, 4, 6, 7, 8, 10])
def test_a_row_holds_in_small(number):
    line = reliability.run_row(number, {4: 30, 10: 20}.get(number, 2))
    assert line["tried"] == line["held"] > 0
    assert line["void"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "count"), [(1, 4), (9, 1)])
def test_a_row_of_kills_holds_in_small(number, count):
    line = reliability.run_row(number, count)
    assert line["tried"] == line["held"] == count
    assert line["void"] == ""
    assert line["facts"]["steps_made_again"] > 0


@pytest.mark.slow
def test_agents_of_stable_baselines_alone_run_code():
    line = reliability.run_row(5)
    assert line["facts"]["executions"] == ["SB3 agent: pickle"]
    assert line["tried"] - line["held"] == 1
    assert line["void"] == ""


def test_an_injection_that_reaches_nothing_is_void(tmp_path, monkeypatch):
    from benchmarks import reliability_training

    monkeypatch.setattr(reliability_training, "PLACES", ("unused",) * 3)
    monkeypatch.setattr(reliability_training.Spoilable, "unused", torch.ones(()), raising=False)
    found = reliability_training.injections(1, tmp_path, lambda: None)
    assert found.void
    assert found.held == 0


def test_a_weakness_of_the_guard_is_counted(tmp_path, monkeypatch):
    from pretrain import engine

    def careless(norm, loss, error, kl, book):
        return torch.tensor(True), book

    monkeypatch.setattr(engine, "judge", careless)
    from benchmarks import reliability_training

    assert reliability_training.injections(1, tmp_path, lambda: None).held == 0


def test_verdicts():
    assert verdict(ROWS[1], LINE) == "met"
    assert verdict(ROWS[1], LINE | {"tried": 9, "held": 9}).startswith("held so far")
    assert verdict(ROWS[1], LINE | {"held": 199}) == "**not met**"
    assert verdict(ROWS[1], LINE | {"void": "nobody died"}) == "**void**: nobody died"


def test_the_command_stores_a_line_and_writes_the_page_beside_it(tmp_path, capsys):
    reliability.main(["--rows", "10", "--count", "5", "--results-dir", str(tmp_path)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert read_lines(tmp_path / "reliability.jsonl") == [line]
    page = (tmp_path / "RELIABILITY.md").read_text()
    assert "| 5 | 5 | 0 hits | met |" in page
    assert page.count("not run") == 9


def test_rows_that_are_none_are_refused(capsys):
    with pytest.raises(SystemExit):
        reliability.main(["--rows", "11"])
    assert "needs rows of 1 to 10, got '11'" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_lines():
    page = (ROOT / "docs" / "RELIABILITY.md").read_text()
    assert page == render(read_lines(RESULTS / "reliability.jsonl"))

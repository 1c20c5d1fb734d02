import json

import pytest
import torch

from benchmarks import wrapper_speed
from rl_rows import tiny_genesis


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_genesis(tmp_path_factory.mktemp("weights"))


def test_turns_are_timed_on_one_clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(wrapper_speed.time, "perf_counter", lambda: now[0])

    def call(seconds):
        now[0] += seconds  # on a clock that we own

    calls = {"fast": lambda: call(0.25), "slow": lambda: call(0.5)}
    assert wrapper_speed.in_turns(calls, 4, 10) == {"fast": 16.0, "slow": 8.0}


def test_what_is_warmed_up_is_not_timed(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(wrapper_speed.time, "perf_counter", lambda: now[0])

    def call():  # the first 20 calls capture graphs
        calls.append(None)
        now[0] += 9.0 if len(calls) <= 20 else 0.5

    assert wrapper_speed.in_turns({"slow at first": call}, 4, 10, warm=20) == {"slow at first": 8.0}


def test_memory_in_use_counts_what_is_allocated():
    before = wrapper_speed.memory_in_use(None)
    kept = torch.ones(64 << 20)  # 256 MiB, more than malloc takes out of what was freed before
    after = wrapper_speed.memory_in_use(None)
    assert all(after[name] - before[name] > 0.9 * kept.nbytes for name in before)


def test_the_command_prints_rows_and_a_line(checkpoint, tmp_path, capsys):
    argv = ["--checkpoint", checkpoint, "--envs", "3", "--singles", "2", "--calls", "40"]
    argv += ["--device", "cpu", "--seconds", "0.1", "--results-dir", str(tmp_path)]
    wrapper_speed.main(argv)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["what"] for row in rows] == ["vecenv", "singles", "varying"]
    vecenv, singles, varying = rows
    slower = min(vecenv["env"], vecenv["encoder"])
    assert vecenv["of_slower"] == pytest.approx(vecenv["together"] / slower, abs=1e-3)
    parts = vecenv["env_ms"] + vecenv["encoder_ms"] + vecenv["lost_ms"]
    assert parts == pytest.approx(vecenv["together_ms"], abs=0.01)
    assert vecenv["frames"] == "memory"  # on a CPU there is nowhere else
    assert 3 <= vecenv["encoded"] <= 6  # terminal frames, too
    assert singles["times"] == pytest.approx(singles["together"] / singles["singles"], abs=0.01)
    assert varying["captures"] == 0  # there are no graphs on a CPU
    assert varying["slowest"] >= 1
    assert (tmp_path / "wrapper_speed.jsonl").exists()

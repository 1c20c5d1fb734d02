import json
import subprocess
import sys

import pytest
import torch

from benchmarks import common
from pretrain import provenance

CPU = torch.device("cpu")


def test_a_result_line_says_where_it_came_from(tmp_path, capsys):
    line = common.save_result(
        "segmentation",
        {"ari_fg": 0.5},
        device=CPU,
        seed=[0, 1],
        folder=tmp_path,
        argv=["--images", "320", "--results-dir", str(tmp_path), f"--out={tmp_path}"],
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == line
    assert common.read_lines(tmp_path / "segmentation.jsonl") == [line]
    assert line["ari_fg"] == 0.5
    assert line["seed"] == [0, 1]
    assert line["command"] == "python -m benchmarks.segmentation --images 320"
    assert line["versions"]["torch"] == torch.__version__
    assert "threads" in line["device"]
    assert line["commit"]
    assert line["date"].endswith("+00:00")


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert common.read_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a"\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl has a line that is not JSON"):
        common.read_lines(path)


def test_commit_outside_a_checkout_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.delenv("GENESIS_RL_COMMIT", raising=False)
    asked_anew = provenance.commit.__wrapped__
    assert asked_anew() == "unknown"
    monkeypatch.setenv("GENESIS_RL_COMMIT", "abc123")
    assert asked_anew() == "abc123"


def test_the_commit_is_that_of_the_beginning(monkeypatch):
    common.prepare_device("cpu")
    at_first = provenance.commit()
    monkeypatch.setattr(provenance, "_git", lambda *arguments: "fedcba9876")
    assert provenance.commit() == at_first


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="--device"):
        common.prepare_device(name)


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    def main(argv):
        raise ValueError("--images must be at most 10, got 11")

    with pytest.raises(SystemExit) as stop:
        common.run_cli(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --images must be at most 10, got 11\n"


@pytest.mark.parametrize("module", ["segmentation", "throughput", "rl", "report"])
def test_help_does_not_wait_for_torch(module):
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        f"from benchmarks.{module} import main\n"
        "try:\n    main(None)\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "slow = {'torch', 'stable_baselines3', 'gymnasium', 'matplotlib'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=common.ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "--results-dir" in result.stdout

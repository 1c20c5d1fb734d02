"""Many runs on one machine: each as if it were alone, whatever becomes of the launcher."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from genesis_rl.checkpoint import load_checkpoint
from pretrain import many
from pretrain.config import build
from pretrain.run import main as train
from pretrain.study import STUDIES, Run, progress, read_runs
from runs import ROOT, TINY, arguments, exact, metrics, wait_for_step

STEPS = 40
TINY_KEYS = {name.replace("-", "_"): value for name, value in TINY.items() if name != "device"}
# Stands in for pretrain/run.py where nothing needs to be learnt: works until it is told to stop.
POLITE = """
import pathlib, signal, sys, time
out = next(pathlib.Path(a.split("=")[1]) for a in sys.argv if a.startswith("--out="))
out.mkdir()
signal.signal(signal.SIGTERM, lambda *_: ((out / "told").touch(), sys.exit(0)))
(out / "ready").touch()
time.sleep(60)
"""


def write_study(tmp_path):
    """A study of one tiny run, with a learning rate of its own."""
    common = TINY_KEYS | {"steps": STEPS, "checkpoint_every": 20}
    lines = ["common:", *(f"  {name}: {value}" for name, value in common.items())]
    lines += ["runs:", "  slow: {learning_rate: 1e-4}"]
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(lines))
    return path


def launch(*flags, run=None):
    """Starts the launcher as its own process; `run` takes the place of pretrain/run.py."""
    code = "import sys; from pathlib import Path; from pretrain import many\n"
    code += f"many._RUN = Path({str(run)!r})\n" if run else ""
    code += "sys.exit(many.main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--gpus=0", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Waits; returns exit status, the lines of JSON and what was said."""
    output, errors = process.communicate(timeout=180)
    return process.returncode, [json.loads(line) for line in output.splitlines()], errors


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


@pytest.fixture
def polite(tmp_path, monkeypatch):
    path = tmp_path / "polite.py"
    path.write_text(POLITE)
    monkeypatch.setattr(many, "_RUN", path)
    monkeypatch.setattr(many, "_POLL", 0.02)
    return path


def test_cut_off_and_called_again_is_as_if_never_cut_off(tmp_path):
    out = tmp_path / "out"
    bad = "bad=debug,dataset=gqn,data_dir=/nowhere"
    flags = ["--jobs=2", "--threads=1", "--every=1", "--out", out, write_study(tmp_path)]
    process = launch(*flags)
    wait_for_step(out / "slow", 5, process)
    process.send_signal(signal.SIGTERM)
    _, (line,), said = finish(process)
    assert line["state"] == "paused", said
    assert 5 <= line["step"] == metrics(out / "slow")[-1]["step"] < STEPS  # all of it was saved

    status, lines, said = finish(launch(*flags, bad, "--export", tmp_path / "home"))
    # The one that cannot run is named, and the other goes on.
    assert [line["state"] for line in lines] == ["done", "failed"], said
    assert [line["exit_status"] for line in lines] == [0, 3]
    assert (status, said.splitlines()[-1]) == (1, f"failed: bad; see {out / 'logs'}")
    assert "/nowhere" in (out / "logs" / "bad.log").read_text()
    assert f"/{STEPS}" in said  # how far each has got
    alone = tmp_path / "alone"
    assert train(arguments(alone, steps=STEPS, checkpoint_every=20, learning_rate=1e-4)) == 0
    assert exact(out / "slow") == exact(alone)
    home = tmp_path / "home" / "slow"
    assert load_checkpoint(home / "model").num_slots == 3
    assert metrics(home) == metrics(out / "slow")


def test_a_killed_launcher_takes_its_runs_with_it_politely(tmp_path, polite):
    process = launch("--out", tmp_path / "out", "one=debug", run=polite)
    wait_for(tmp_path / "out" / "one" / "ready")
    process.kill()
    process.communicate()
    wait_for(tmp_path / "out" / "one" / "told")


def test_at_the_time_limit_what_runs_is_told_and_what_waits_is_not_begun(tmp_path, polite):
    runs = [Run(name, build({})) for name in "ab"]
    launcher = many.Launcher(runs, tmp_path, ["cpu 0"], minutes=9, threads=1)

    def nine_minutes_pass():
        wait_for(tmp_path / "a" / "ready")
        launcher.deadline = time.monotonic()

    threading.Thread(target=nine_minutes_pass).start()
    launcher.run()
    assert (tmp_path / "a" / "told").exists()
    assert not (tmp_path / "b").exists()
    assert launcher.status == {"a": 0}


def test_a_run_that_will_not_stop_is_killed_and_counts_as_failed(tmp_path, polite, monkeypatch):
    polite.write_text(POLITE.replace("sys.exit(0)", "None"))
    monkeypatch.setattr(many, "_GRACE", 0.2)
    launcher = many.Launcher([Run("a", build({}))], tmp_path, ["cpu 0"], minutes=0, threads=1)

    def stop_when_ready():
        wait_for(tmp_path / "a" / "ready")
        launcher.stop()

    threading.Thread(target=stop_when_ready).start()
    launcher.run()
    assert launcher.summary(launcher.runs[0])["state"] == "failed"
    assert launcher.status == {"a": -signal.SIGKILL}


def test_the_least_trained_run_comes_first(tmp_path, monkeypatch):
    order = []

    def start(self, run, slot):
        order.append(run.name)
        raise KeyboardInterrupt  # one is enough to see

    monkeypatch.setattr(many.Launcher, "_start", start)
    for name, minutes in (("a", 8.5), ("b", 2.0)):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"metadata": {"minutes": minutes}}))
    runs = [Run(name, build({})) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        many.Launcher(runs, tmp_path, ["cpu 0"], minutes=0, threads=1).run()
    assert order == ["b"]


def test_every_run_has_one_gpu_and_a_compilers_cache_of_its_own(tmp_path, monkeypatch):
    started = []

    class Popen:
        def __init__(self, command, env, **_):
            started.append((command, env))

        def poll(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    runs = [Run(name, build({})) for name in "ab"]
    many.Launcher(runs, tmp_path, many._slots(2, 1), minutes=9, threads=None).run()
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in started] == ["4", "6"]
    assert len({env["TORCHINDUCTOR_CACHE_DIR"] for _, env in started}) == 2
    for command, env in started:
        assert {"--device=cuda:0", "--resume"} <= set(command)
        (limit,) = [float(c.split("=")[1]) for c in command if c.startswith("--max-minutes")]
        assert 8 < limit <= 8.5  # of 9, less half a minute to start and to save
        assert int(env["OMP_NUM_THREADS"]) >= 1


def test_a_run_that_diverged_is_not_tried_again(tmp_path, monkeypatch):
    summary = {"run": "a", "exit_status": 4, "state": "failed"}
    (tmp_path / "summary.jsonl").write_text(json.dumps(summary) + "\n")
    monkeypatch.setattr(many.Launcher, "_start", lambda *_: pytest.fail("it was"))
    launcher = many.Launcher([Run("a", build({}))], tmp_path, ["cpu 0"], minutes=0, threads=1)
    launcher.run()
    assert launcher.summary(launcher.runs[0])["state"] == "failed"


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_vary_a_baseline(path):
    runs = read_runs([path.stem])
    assert len(runs) > 2
    assert len({run.config for run in runs}) == len(runs)


def test_a_study_gives_every_run_the_common_settings_and_each_seed(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("common: {config: debug}\nseeds: [3, 4]\nruns: {a: {}, b: {goal: 0.57}}")
    runs = read_runs([str(path), "c=debug,std=0.5"])
    assert [run.name for run in runs] == ["a-s3", "a-s4", "b-s3", "b-s4", "c"]
    assert [run.config.seed for run in runs] == [3, 4, 3, 4, 0]
    assert runs[0].config.width == 8  # the preset's
    assert (runs[2].config.goal, runs[4].config.std) == (0.57, 0.5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gqn_gec", "no study 'gqn_gec'"),
        ("a=debg", "did you mean 'debug'"),
        ("a=debug,lr=3", "unknown key 'lr'"),
        ("a=debug,steps", "'steps' is not KEY=VALUE"),
        ("a=debug,steps=[", "steps: while parsing"),
        ("a=debug,steps=!!python/object:os.system", "could not determine a constructor"),
        ("a=debug,device=cpu", "device is for the launcher"),
        ("../a=debug", "no name for a run"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, capsys, spec, message):
    assert many.main(["--gpus=0", f"--out={tmp_path / 'out'}", spec]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_some_runs_of_a_study_can_be_picked(tmp_path, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(many.Launcher, "run", lambda self, **_: begun.extend(self.runs))
    out = f"--out={tmp_path}"
    assert many.main(["--gpus=0", out, "--only=b,a", "a=debug", "b=debug,seed=1", "c=debug"]) == 0
    assert [run.name for run in begun] == ["b", "a"]
    assert many.main(["--gpus=0", out, "--only=bb", "b=debug"]) == 2
    assert "no run 'bb'; did you mean 'b'?" in capsys.readouterr().err


def test_two_runs_of_one_name_are_refused(tmp_path, capsys):
    assert many.main(["--gpus=0", f"--out={tmp_path}", "a=debug", "a=debug,seed=1"]) == 2
    assert "two runs have the name 'a'" in capsys.readouterr().err


def test_progress_reads_what_is_there(tmp_path: Path):
    assert progress(tmp_path) == progress(tmp_path / "missing")
    lines = [
        {"step": 1, "split": "train", "kl": 5.0},
        {"step": 2, "split": "val", "ari_fg": 0.5},
        {"step": 3, "split": "train", "kl": 4.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "spl')  # torn
    now = progress(tmp_path)
    assert (now.step, now.saved_step, now.train["kl"]) == (3, 0, 4.0)
    assert "step 3/10" in many.status_line(now, steps=10)
    assert "ARI-FG 0.500" in many.status_line(now, steps=10)

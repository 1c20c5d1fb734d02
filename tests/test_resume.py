"""A run that dies goes on as if nothing had happened, to the last bit."""

import json
import random
import shutil
import signal
import time

import pytest
import torch

from benchmarks.reliability_files import corruptions
from pretrain import state as saving
from pretrain.run import main
from pretrain.state import load_state, save_state
from runs import arguments, exact, finish, metrics, start, states, wait_for_step, weights_sha256

LONG = {"steps": 60, "checkpoint_every": 10}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    status, output = finish(start(arguments(out, **LONG)))
    assert status == 0, output
    return out


def same_run(first, second):
    assert exact(first) == exact(second)
    assert weights_sha256(first / "model") == weights_sha256(second / "model")


def test_kill_9_changes_nothing_but_the_time(uninterrupted, tmp_path):
    replayed = 0
    for step in (13, 37):
        process = start(arguments(tmp_path, "--resume", **LONG))
        wait_for_step(tmp_path, step, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL  # nobody is left who could write
        replayed += metrics(tmp_path)[-1]["step"] - states(tmp_path)[-1]
    status, output = finish(start(["--resume", "--out", str(tmp_path)]))
    assert status == 0, output
    assert "steps were made after that state; making them again" in output
    assert replayed > 0  # otherwise this test has shown nothing
    assert [line[0] for line in exact(tmp_path)] == list(range(1, 61))
    same_run(uninterrupted, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_the_step_in_hand(uninterrupted, tmp_path, number):
    process = start(arguments(tmp_path, **LONG))
    wait_for_step(tmp_path, 13, process)
    asked = time.monotonic()
    process.send_signal(number)
    status, output = finish(process)
    assert time.monotonic() - asked < 10  # seconds; a scheduler kills after 30
    assert status == 0, output
    last = metrics(tmp_path)[-1]["step"]
    assert last < LONG["steps"]
    assert f"stopped by {number.name}: saved at step {last}" in output
    assert states(tmp_path)[-1] == last  # not a step is lost
    assert finish(start(["--resume", "--out", str(tmp_path)]))[0] == 0
    same_run(uninterrupted, tmp_path)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def lose_manifest(path):
    path.with_suffix(".json").unlink()


def other_manifest(path):
    manifest = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(manifest | {"step": 3}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "SHA-256"),
        (cut, "1000 bytes, but its manifest says"),
        (lose_manifest, "No such file"),
        (other_manifest, "manifest is that of another state"),
    ],
)
def test_a_damaged_newest_state_is_passed_over(uninterrupted, tmp_path, capsys, damage, reason):
    out = tmp_path / "copy"
    shutil.copytree(uninterrupted, out)
    damage(out / "checkpoints" / "step_00000060.pt")
    assert main(["--resume", "--out", str(out)]) == 0
    printed = capsys.readouterr().err
    assert "passing over step_00000060.pt" in printed
    assert reason in printed
    assert "from step 50" in printed
    same_run(uninterrupted, out)


def test_a_thousand_corruptions_of_the_newest_state_are_passed_over(tmp_path):
    for step in (5, 10):
        state = {"weights": torch.full((8,), float(step)), "seed": 0}
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        save_state(tmp_path, state, step=step, config="settings", keep=2)
    newest = tmp_path / "checkpoints" / "step_00000010"
    for suffix in (".pt", ".json"):
        path, said, harmless = newest.with_suffix(suffix), [], 0
        sound = path.read_bytes()
        for bad in corruptions(sound, 500):
            path.write_bytes(bad)
            step, state = load_state(tmp_path, config="settings", say=said.append)
            if step == 10:  # white space of the manifest: it still says the same
                assert json.loads(bad) == json.loads(sound)
                harmless += 1
            assert state["weights"].tolist() == [float(step)] * 8
        assert len(said) == 500 - harmless
        assert harmless < 25
        assert all(line.startswith("passing over step_00000010.pt: ") for line in said)
        path.write_bytes(sound)
    assert load_state(tmp_path, config="settings", say=print)[0] == 10


def test_other_versions_are_mentioned(uninterrupted, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(uninterrupted, out)
    now = saving.versions()
    monkeypatch.setattr(saving, "versions", lambda: now | {"threads": "64"})
    assert main(["--resume", "--out", str(out)]) == 0
    assert "not bit for bit" in capsys.readouterr().err


@pytest.mark.slow
def test_twenty_kills_at_any_moment_lose_nothing(tmp_path):
    """A state is written at every step, so that many of the kills fall into a write."""
    delay = random.Random(0)
    replayed = half_written = kills = 0
    while kills < 20:
        flags = arguments(tmp_path, "--resume", **LONG | {"checkpoint_every": 1, "steps": 10_000})
        process = start(flags)
        wait_for_step(tmp_path, states(tmp_path)[-1] + 2 if kills else 2, process)
        time.sleep(delay.uniform(0, 0.3))
        process.kill()
        output = finish(process)[1]
        assert "no sound state" not in output or kills == 0
        kills += 1
        half_written += len(list(tmp_path.rglob(".*.tmp")))
        replayed += metrics(tmp_path)[-1]["step"] - states(tmp_path)[-1]
    assert half_written + replayed > 0  # otherwise no kill hit anything
    final = states(tmp_path)[-1] + 3
    assert finish(start(["--resume", "--out", str(tmp_path), f"--steps={final}"]))[0] == 0
    assert main(arguments(tmp_path / "whole", **LONG | {"steps": final})) == 0
    same_run(tmp_path / "whole", tmp_path)
    print(f"{kills} kills, {half_written} half-written files, {replayed} steps made again")


def test_a_run_goes_on_beyond_its_old_end(uninterrupted, tmp_path):
    assert main(arguments(tmp_path, steps=8)) == 0
    assert main(["--resume", "--out", str(tmp_path), "--steps", "12"]) == 0
    assert exact(tmp_path) == exact(uninterrupted)[:12]


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(uninterrupted, out)
    before = (out / "metrics.jsonl").read_bytes()
    assert main(["--resume", "--out", str(out)]) == 0
    assert (out / "metrics.jsonl").read_bytes() == before


def test_a_torn_last_line_is_dropped(uninterrupted, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(uninterrupted, out)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "split": "tr')
    assert main(["--resume", "--out", str(out), "--steps", "61"]) == 0
    assert [line["step"] for line in metrics(out)] == list(range(1, 62))


def test_only_the_newest_states_are_kept(uninterrupted):
    assert states(uninterrupted) == [50, 60]


def test_resuming_where_nothing_is_starts_from_the_beginning(tmp_path, capsys):
    assert main(arguments(tmp_path, "--resume", steps=2)) == 0
    assert "starting from step 0" in capsys.readouterr().err

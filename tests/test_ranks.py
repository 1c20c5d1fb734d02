"""Several processes train one model: they learn what one process learns, and die as one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks.reliability_runs import torchrun, workers
from pretrain.assembly import pick_device
from pretrain.engine import Engine
from pretrain.ranks import Ranks, join, meet
from pretrain.run import main
from pretrain.signals import Agreement, Signals
from pretrain.state import Stop
from runs import ROOT, TINY, arguments, exact, finish, metrics, wait_for_step, weights_sha256
from train_in_ranks import BAD_GRADIENT_STEP, BAD_STEP, STEPS, engine, everything


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks have computed."""
    out, port = tmp_path_factory.mktemp("ranks"), str(free_port())
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "tests/train_in_ranks.py", str(out)],
            cwd=ROOT,
            env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    for process in ranks:
        status, output = finish(process)
        assert status == 0, output
    return [torch.load(out / f"rank_{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    """The same of a single process."""
    return everything(Ranks())


def flat(state, prefix=""):
    """All tensors of nested containers, by their paths."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    found = {}
    for name, value in items:
        if isinstance(value, dict | list):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = torch.as_tensor(value)
    return found


def differing(first, second):
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def test_two_ranks_take_turns_in_the_very_batch_of_one(one, two):
    batch = one["in floats"]["images"]
    assert torch.equal(two[0]["in floats"]["images"], batch[0::2])
    assert torch.equal(two[1]["in floats"]["images"], batch[1::2])


def test_averaged_gradients_are_those_of_the_whole_batch(one, two):
    """In double precision and with instance norm, where nothing but rounding may differ."""
    whole = one["in doubles"]["gradients"]
    assert len(whole) > 40
    assert all(gradient.dtype == torch.float64 for gradient in whole.values())
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for rank in two:
        averaged = rank["in doubles"]["gradients"]
        assert averaged.keys() == whole.keys()
        for name, gradient in averaged.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-9, atol=1e-13 * largest)
        assert rank["in doubles"]["loss"] == pytest.approx(one["in doubles"]["loss"], rel=1e-12)


def test_ranks_stay_equal_to_the_last_bit(two):
    for step in range(STEPS):
        assert differing(two[0]["states"][step], two[1]["states"][step]) == []
    first, last = (two[0]["states"][step]["objective"] for step in (0, -1))
    assert sorted(differing(first, last)) == ["beta", "error_ema"]  # GECO does move


@pytest.mark.parametrize("bad", [BAD_STEP, BAD_GRADIENT_STEP])
def test_a_step_that_is_bad_on_one_rank_is_skipped_by_all(two, bad):
    for rank in two:
        before, after = (rank["states"][step] for step in (bad - 1, bad))
        assert sorted(differing(before, after)) == ["book", "rng_cpu"]
        moved = differing(after, rank["states"][bad + 1])
        assert "model.masks.first_slot.weight" in moved


def test_batch_norm_is_of_a_ranks_share_and_its_running_statistics_of_all(one, two):
    buffers = one["in floats"]["buffers"]
    name = next(name for name in buffers if name.endswith("running_mean"))
    whole = buffers[name]  # of the first layer, which sees the images themselves
    for rank in two:
        torch.testing.assert_close(rank["in floats"]["buffers"][name], whole)
    # Later layers see what was normalised otherwise, which is why losses are alike, not equal.
    losses = [result["in floats"]["loss"] for result in (one, *two)]
    assert losses[1] == losses[2] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.fixture
def messages(monkeypatch):
    """Numbers in each message; another rank has three times of everything to say."""
    sent = []

    def sum_up(flat, operation):
        assert operation == torch.distributed.ReduceOp.SUM
        sent.append(flat.numel())
        flat *= 1 + 3

    monkeypatch.setattr(torch.distributed, "all_reduce", sum_up)
    return sent


def test_a_step_costs_one_message(messages):
    trained = engine(Ranks(0, 2))
    trained.step()
    gradients = sum(p.numel() for p in trained.model.parameters() if p.grad is not None)
    named = trained.model.named_buffers()
    statistics = sum(buffer.numel() for name, buffer in named if "running" in name)
    assert messages == [gradients + statistics + 2]  # error and KL
    readings = trained.read()
    assert readings.error == trained.objective.error_ema  # beta sees the mean, too


def test_means_lie_in_memory_as_the_tensors_do(messages):
    scalar, ragged = torch.tensor(5.0), torch.arange(3.0)
    weights = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    mine = [scalar, weights, ragged]
    means = Ranks(0, 2).means(mine)
    assert messages == [1 + 48 + 3]
    for mean, tensor in zip(means, mine, strict=True):
        torch.testing.assert_close(mean, 2 * tensor, check_stride=True)


def test_one_process_is_alone_without_a_word(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    alone = join()
    assert alone == Ranks()
    rows = torch.arange(3)
    assert alone.share(rows) is rows
    assert alone.means([rows]) == [rows]
    assert alone.largest(1.0, 2.0) == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


def test_a_rank_without_its_world_is_told_to_use_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(Stop, match=r"'WORLD_SIZE': None.*use torchrun"):
        join()


def test_a_batch_that_ranks_cannot_share_is_refused():
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="3 ranks cannot share a batch of 4 evenly"):
        Engine(torch.nn.Linear(1, 1), torch.nn.Identity(), images, batch_size=4, ranks=Ranks(0, 3))


def test_every_rank_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == pick_device("cuda", 1) == torch.device("cuda:1")
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(Stop, match="there are only 2 GPUs"):
        pick_device("auto", 2)
    with pytest.raises(Stop, match="one GPU for several processes"):
        pick_device("cuda:0", 1)


def test_ranks_that_start_again_do_not_take_the_dead_for_the_living():
    store = torch.distributed.HashStore()
    starts = []
    for _ in range(2):  # both by the same store
        with ThreadPoolExecutor() as pool:
            late = [pool.submit(meet, store, rank, 3) for rank in (2, 1)]
            time.sleep(0.1)  # until they have found the name of the earlier start, if there is one
            met = [pool.submit(meet, store, 0, 3), *late]
        parts = [future.result() for future in met]
        parts[0].set("address", str(len(starts)))
        starts.append([part.get("address") for part in parts])
    assert starts == [[b"0"] * 3, [b"1"] * 3]


class OneMore(Ranks):
    """Ranks of which another one always has a larger number to tell."""

    def largest(self, *numbers):
        return [number + 1 for number in numbers]


class Likewise(Ranks):
    """Ranks of which all others have the same to tell."""

    def largest(self, *numbers):
        return list(numbers)


def test_ranks_that_read_different_images_stop():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 2, 2, 3)
    Likewise(0, 2).require_same(images)
    with pytest.raises(Stop, match="different training images"):
        OneMore(0, 2).require_same(images)


class Others(Ranks):
    """Ranks of which another one wants to stop from a time on, and where a step takes a second."""

    def largest(self, *numbers):
        asked.append(numbers)
        return [max(numbers[0], wishes.pop(0)), 1.0]


asked, wishes = [], []


def test_ranks_ask_each_other_every_two_seconds_and_hear_of_a_signal():
    asked.clear()
    wishes[:] = [0.0, 0.0, float(signal.SIGTERM)]
    signals = Signals()
    agreement = Agreement(signals, Others(0, 2), deadline=None, most=100)
    answers = [agreement.to_stop(step) for step in range(5)]
    assert answers == [False, False, False, False, True]
    assert len(asked) == 3  # at steps 0, 2 and 4
    assert signals.received == "SIGTERM"


def test_a_scheduler_and_torchrun_may_both_pass_on_the_same_signal():
    with Signals(patient=True) as signals:
        signals.defer()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == "SIGTERM"


# From here on, whole runs under torchrun.

RUN = {"steps": 40, "checkpoint_every": 10}


def wait_until_gone(pids, seconds=20):
    for _ in range(20 * seconds):
        if not [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            return
        time.sleep(0.05)
    raise AssertionError(f"of {pids} some live on")


def same_run(first, second):
    assert exact(first) == exact(second)
    assert weights_sha256(first / "model") == weights_sha256(second / "model")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, output = finish(torchrun(arguments(out, **RUN)))
    assert status == 0, output
    assert output.count("2 processes") == 1  # rank 0 alone speaks
    return out


def test_a_run_of_two_processes_is_logged_and_saved_once(undisturbed):
    assert [line["step"] for line in metrics(undisturbed)] == list(range(1, 41))
    states = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert states == [f"step_000000{n}.{kind}" for n in (30, 40) for kind in ("json", "pt")]
    assert not list(undisturbed.rglob("*.tmp"))


def test_one_process_goes_on_where_two_have_stopped(undisturbed, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    assert main(["--resume", "--out", str(out), "--steps=42"]) == 0
    assert "'processes': '2'" in capsys.readouterr().err.split("not bit for bit")[0]
    assert [line["step"] for line in metrics(out)] == list(range(1, 43))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    """With instance norm, so that what is left is rounding, which training makes larger."""
    assert main(arguments(tmp_path / "one", norm="instance")) == 0
    assert finish(torchrun(arguments(tmp_path / "two", norm="instance")))[0] == 0
    losses = [
        [float.fromhex(line["loss_hex"]) for line in metrics(tmp_path / name, "train")]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == TINY["steps"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_comes_back_and_changes_nothing(undisturbed, tmp_path, rank):
    process = torchrun(
        arguments(tmp_path, **RUN), "--standalone", "--nproc-per-node=2", "--max-restarts=1"
    )
    wait_for_step(tmp_path, 14, process)
    before = workers(process)
    os.kill(before[rank], signal.SIGKILL)
    status, output = finish(process)
    assert status == 0, output
    assert "from step 10" in output or "from step 20" in output
    assert "steps were made after that state; making them again" in output
    wait_until_gone(before.values())
    same_run(undisturbed, tmp_path)


@pytest.mark.slow
def test_sigterm_to_one_rank_stops_all_and_not_a_step_is_lost(undisturbed, tmp_path):
    process = torchrun(arguments(tmp_path, **RUN))
    wait_for_step(tmp_path, 13, process)
    pids = workers(process)
    os.kill(pids[1], signal.SIGTERM)
    status, output = finish(process)
    assert status == 0, output
    last = metrics(tmp_path)[-1]["step"]
    assert f"stopped by SIGTERM: saved at step {last}" in output
    wait_until_gone(pids.values())
    assert finish(torchrun(arguments(tmp_path, **RUN)))[0] == 0  # goes on unasked
    same_run(undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_torchrun(undisturbed, tmp_path, number):
    long = RUN | {"steps": 100_000}
    process = torchrun(arguments(tmp_path, **long))
    wait_for_step(tmp_path, 13, process)
    pids = workers(process)
    assert sorted(pids) == [0, 1]
    process.send_signal(number)
    if number == signal.SIGTERM:  # as a scheduler does, which knows all processes of a job
        for pid in pids.values():
            os.kill(pid, number)
    process.wait(timeout=60)
    wait_until_gone(pids.values())
    last = metrics(tmp_path)[-1]["step"]
    assert (tmp_path / "checkpoints" / f"step_{last:08d}.pt").exists()  # told, they have saved
    process.stdout.close()


@pytest.mark.slow
def test_two_machines_learn_what_two_processes_of_one_learn(undisturbed, tmp_path):
    """Each torchrun is a machine; they find each other through the loopback."""
    meeting = f"--rdzv-endpoint=localhost:{free_port()}"
    options = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=1", meeting)
    machines = [torchrun(arguments(tmp_path, **RUN), *options) for _ in range(2)]
    for status, output in [finish(machine) for machine in machines]:
        assert status == 0, output
    same_run(undisturbed, tmp_path)

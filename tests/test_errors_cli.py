"""Every mistake of a user, and every failure of the machine, is one line and an exit status."""

import os
import resource
import shutil
import signal
from contextlib import suppress

import pytest
import torch

from genesis_rl.checkpoint import load_checkpoint
from pretrain.run import main
from pretrain.signals import Signals
from pretrain.state import Stop
from runs import arguments, finish, metrics, start, wait_for_step


def fails(capsys, flags, status, *words):
    """Runs, and checks status, a single line of explanation and its words."""
    try:
        got = main(flags)
    except SystemExit as stop:
        got = stop.code
    assert got == status
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert "Traceback" not in printed.err
    assert lines[-1].startswith("error: ")
    for word in words:
        assert word in lines[-1]
    return lines


def test_an_unwritable_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = arguments(tmp_path / "file" / "run")
    fails(capsys, flags, 2, "cannot write to the run folder", "Not a directory")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_asked_for_and_absent(tmp_path, capsys):
    flags = arguments(tmp_path / "run", device="cuda")
    fails(capsys, flags, 2, "needs a CUDA GPU", "--device cpu")
    assert not (tmp_path / "run").exists()


def test_kernels_asked_for_without_cuda(tmp_path, capsys):
    flags = arguments(tmp_path / "run", fused="on", device="cpu")
    fails(capsys, flags, 2, "--fused on: own kernels need a CUDA GPU", "the device is cpu")
    assert not (tmp_path / "run").exists()


def test_an_unknown_dataset(tmp_path, capsys):
    flags = arguments(tmp_path / "run", dataset="multi_dsprits")
    lines = fails(capsys, flags, 2, "did you mean 'multi_dsprites'")
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_file(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("batchsize: 3\n")
    flags = ["--config", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "run")]
    lines = fails(capsys, flags, 2, "'batchsize'", "did you mean 'batch_size'")
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(tmp_path, capsys):
    flags = arguments(tmp_path / "run", data_dir=tmp_path / "nowhere", image_size=64)
    fails(capsys, flags, 3, "nowhere")
    assert not (tmp_path / "run").exists()


def test_more_images_a_batch_than_there_are(tmp_path, capsys):
    flags = arguments(tmp_path / "run", batch_size=32)
    fails(capsys, flags, 2, "batch_size is 32, but there are 24")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path, capsys):
    assert main(arguments(tmp_path, steps=2)) == 0
    before = (tmp_path / "metrics.jsonl").read_bytes()
    fails(capsys, arguments(tmp_path, steps=2), 2, "holds a run already", "--resume")
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_resumed_run_of_another_model(tmp_path, capsys):
    assert main(arguments(tmp_path, steps=2)) == 0
    flags = arguments(tmp_path, "--resume", num_slots=4)
    fails(capsys, flags, 2, "keeps num_slots=3", "4 was asked for")


def test_a_state_of_other_settings(tmp_path, capsys):
    assert main(arguments(tmp_path, steps=2)) == 0
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("width: 4", "width: 8"))
    fails(capsys, ["--resume", "--out", str(tmp_path)], 2, "saved with other settings")


def test_a_busy_folder_is_left_alone(tmp_path, capsys):
    process = start(arguments(tmp_path, steps=100_000))
    wait_for_step(tmp_path, 2, process)
    flags = arguments(tmp_path, "--resume", steps=100_000)
    fails(capsys, flags, 5, "in use by process", str(process.pid))
    process.terminate()
    status, output = finish(process)
    assert status == 0, output
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_full_disk_leaves_the_last_state_sound(tmp_path):
    assert main(arguments(tmp_path, steps=5)) == 0
    state = tmp_path / "checkpoints" / "step_00000005.pt"
    limit = state.stat().st_size - 1000  # no file may grow larger: the next state does not fit

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    more = ["--resume", "--out", str(tmp_path), "--steps", "10"]
    status, output = finish(start(more, preexec_fn=small_disk))
    assert status == 1
    assert "error: the disk is full: a state needs" in output
    assert "step_00000005 is intact" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.tmp"))
    load_checkpoint(tmp_path / "model")
    assert main(more) == 0


def test_a_signal_before_the_first_step_just_ends_it(tmp_path):
    process = start(arguments(tmp_path / "run", train_images=50_000, image_size=64))
    while not (tmp_path / "run" / ".lock").exists():
        assert process.poll() is None
    process.terminate()
    status, output = finish(process)
    assert status == 0, output
    assert "nothing was saved" in output
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in output


def test_a_signal_whose_error_was_swallowed_still_ends_a_run_before_its_first_step():
    with Signals() as signals:
        with suppress(Stop):  # as what runs inside a garbage collector's callback does
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stop, match="stopped by SIGTERM; nothing was saved") as stopped:
            signals.defer()
        assert stopped.value.status == 0


def test_python_code_in_a_state_is_not_run(tmp_path, capsys):
    """A state is loaded as tensors and plain values; a forged one is passed over."""
    import hashlib
    import json

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    assert main(arguments(tmp_path, steps=2)) == 0
    path = tmp_path / "checkpoints" / "step_00000002.pt"
    torch.save({"engine": Bomb()}, path)
    manifest = json.loads(path.with_suffix(".json").read_text())
    data = path.read_bytes()
    manifest |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    shutil.rmtree(tmp_path / "tensorboard")
    assert main(["--resume", "--out", str(tmp_path), "--steps", "3"]) == 0
    assert "passing over step_00000002.pt" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()

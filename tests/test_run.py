"""A whole run, small: what it leaves behind, and what it does when training goes wrong."""

import json
import re
import shutil
from pathlib import Path

import cv2
import pytest
import torch

from genesis_rl.checkpoint import load_checkpoint, read_config
from pretrain import export
from pretrain.engine import Engine
from pretrain.run import main
from runs import ROOT, arguments, exact, metrics

PICTURES = ("decomposition", "samples")
GOLDEN = [2148.250244140625, 2091.7607421875, 2051.363037109375]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments(out, validate_every=5, picture_every=6)) == 0
    return out


def test_the_run_folder_holds_what_the_docs_say(finished):
    entries = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    entries = {re.sub(r"events.*", "events", entry) for entry in entries}
    assert entries == {
        ".lock",
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "tensorboard/events",
        *(f"checkpoints/step_{step:08d}.{kind}" for step in (10, 12) for kind in ("pt", "json")),
        *(f"model/{name}" for name in ("model.safetensors", "config.json", "manifest.json")),
        *(f"samples/{name}_{step:08d}.png" for name in PICTURES for step in (6, 12)),
    }


def test_every_step_and_validation_is_logged_once(finished):
    assert [line["step"] for line in metrics(finished, "train")] == list(range(1, 13))
    assert [line["step"] for line in metrics(finished, "val")] == [5, 10, 12]
    last = metrics(finished, "val")[-1]
    assert 0.5 < last["error"] < 1.0  # nats per pixel and channel
    assert last["kl"] == pytest.approx(last["mask_kl"] + last["component_kl"])
    assert -1 <= last["ari_fg"] <= 1
    assert 0 <= last["msc"] <= 1


def test_the_exported_model_loads(finished):
    model = load_checkpoint(finished / "model")
    assert model.num_slots == 3
    assert read_config(finished / "model")["metadata"]["steps"] == 12


def test_pictures_have_a_row_an_image_and_a_column_a_view(finished):
    decomposition = cv2.imread(str(finished / "samples" / "decomposition_00000012.png"))
    rows, columns = 8, 3 + 2 * 3  # input, reconstruction, overlay, K masks, K components
    assert decomposition.shape == (rows * 34 + 2, columns * 34 + 2, 3)
    samples = cv2.imread(str(finished / "samples" / "samples_00000012.png"))
    assert samples.shape == (rows * 34 + 2, (2 + 3) * 34 + 2, 3)


def test_the_first_column_is_the_input(finished):
    from pretrain.data import load

    first = load("multi_dsprites", "val", size=8, image_size=32).batch([0]).images[0].numpy()
    picture = cv2.imread(str(finished / "samples" / "decomposition_00000012.png"))[:, :, ::-1]
    assert (picture[2:34, 2:34] == first).all()


def test_every_tensorboard_tag_is_explained_in_the_docs(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["scalars"] + events.Tags()["images"]
    docs = (ROOT / "docs" / "training.md").read_text()
    assert [tag for tag in tags if f"`{tag}`" not in docs] == []
    assert {"train/error", "val/ari_fg", "pictures/decomposition", "pictures/samples"} <= set(tags)


def test_watching_does_not_change_what_is_learnt(finished, tmp_path):
    assert main(arguments(tmp_path / "unwatched")) == 0
    assert exact(tmp_path / "unwatched") == exact(finished)


def test_the_resolved_config_repeats_the_run(finished, tmp_path):
    config = str(finished / "config.yaml")
    assert main(["--config", config, "--out", str(tmp_path / "again"), "--steps", "4"]) == 0
    assert exact(tmp_path / "again") == exact(finished)[:4]


def test_the_first_losses_are_the_known_ones(finished):
    """A refactoring shows the same loss; the last digits depend on CPU and torch version."""
    losses = [float.fromhex(line["loss_hex"]) for line in metrics(finished, "train")[:3]]
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_the_beta_objective_trains(tmp_path):
    assert main(arguments(tmp_path, objective="beta", beta=0.5, beta_warmup=0.5, steps=10)) == 0
    betas = [line["beta"] for line in metrics(tmp_path, "train")]
    assert betas == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_the_time_limit_saves_and_says_how_to_go_on(tmp_path, capsys):
    assert main(arguments(tmp_path, steps=10_000, max_minutes=0.03)) == 0
    assert f"--resume --out {tmp_path}" in capsys.readouterr().err
    step = metrics(tmp_path)[-1]["step"]
    assert 0 < step < 10_000
    assert (tmp_path / "checkpoints" / f"step_{step:08d}.pt").exists()


def spoil(monkeypatch, steps):
    """Makes the images of these calls of the step NaN; calls go on counting after a rollback."""
    batch, calls = Engine.batch, []

    def spoilt(engine):
        calls.append(None)
        return batch(engine) * (float("nan") if len(calls) in steps else 1.0)

    monkeypatch.setattr(Engine, "batch", spoilt)


def test_single_bad_batches_are_skipped_and_counted(tmp_path, monkeypatch):
    spoil(monkeypatch, {3, 7})
    assert main(arguments(tmp_path)) == 0
    assert [line["skipped_steps"] for line in metrics(tmp_path)][-1] == 2
    load_checkpoint(tmp_path / "model")


def test_a_series_of_bad_batches_is_rolled_back_once(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, range(7, 18))  # eleven
    assert main(arguments(tmp_path, steps=30)) == 0
    assert "back to step 15 with half the learning rate (0.0005)" in capsys.readouterr().err
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 31))


def test_training_that_stays_bad_stops_with_a_diagnosis(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, range(7, 1000))
    assert main(arguments(tmp_path, steps=200, keep=50)) == 4
    printed = capsys.readouterr().err
    assert "11 steps in a row were not finite; step 15 is the last good state" in printed
    for name, value in load_checkpoint(tmp_path / "model").state_dict().items():
        assert torch.isfinite(value).all(), name


def test_an_export_says_what_compression_costs(finished, tmp_path, capsys):
    out = tmp_path / "small"
    assert export.main([str(finished), str(out), "--compact", "--images", "8"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < result["largest_latent_deviation"] < 0.05
    assert result["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert load_checkpoint(out).config == load_checkpoint(finished / "model").config


def test_an_export_of_nothing_is_one_line(tmp_path, capsys):
    assert export.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_without_tensorboard_and_opencv_still_trains(tmp_path, monkeypatch, capsys):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("cv2", "pretrain.report") or name.startswith("torch.utils.tensorboard"):
            raise ImportError(f"no module named {name}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(arguments(tmp_path, steps=3, picture_every=2)) == 0
    printed = capsys.readouterr().err
    assert "no TensorBoard files" in printed
    assert "no pictures of step 2" in printed
    assert len(metrics(tmp_path)) == 3


def test_stale_temporary_files_are_swept(finished, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "copy"))
    left = [out / "checkpoints" / ".step_00000013.pt.99.tmp", out / ".config.yaml.9.tmp"]
    for path in left:
        path.write_bytes(b"half a state")
    (out / ".model.abc.tmp").mkdir()
    assert main(["--resume", "--out", str(out)]) == 0
    assert [p for p in [*left, out / ".model.abc.tmp"] if p.exists()] == []

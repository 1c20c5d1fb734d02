"""Checkpoints: what comes back is what was saved, and damage never gets through silently."""

import hashlib
import json
import shutil
import tracemalloc

import pytest
import safetensors.torch
import torch

from genesis_rl import checkpoint as ck
from genesis_rl.checkpoint import (
    checkpoint_sha256,
    load_checkpoint,
    read_config,
    resolve_checkpoint,
    save_checkpoint,
)
from genesis_rl.checkpoint_files import CONFIG, MANIFEST, WEIGHTS
from genesis_rl.models.genesis import Genesis, GenesisConfig

TINY = GenesisConfig(num_slots=3, image_size=32, mask_latents=8, component_latents=4, width=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Genesis(TINY).eval()


@pytest.fixture
def folder(model, tmp_path):
    return save_checkpoint(tmp_path / "saved", model, metadata={"steps": 7})


def resign(folder):
    """Makes the manifest fit files that a test has changed: damage that no hash gives away."""
    files = {}
    for name in (WEIGHTS, CONFIG):
        data = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / MANIFEST).write_text(json.dumps({"files": files}))


def edit_weights(folder, change):
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    resign(folder)


def edit_config(folder, **changes):
    entry = json.loads((folder / CONFIG).read_text())
    entry["config"].update(changes)
    (folder / CONFIG).write_text(json.dumps(entry))
    resign(folder)


def test_a_loaded_model_is_the_saved_one(model, folder):
    loaded = load_checkpoint(folder)
    assert loaded.config == TINY
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_config_and_metadata_are_read_without_the_weights(folder):
    (folder / WEIGHTS).unlink()
    entry = read_config(folder)
    assert entry["config"]["num_slots"] == 3
    assert entry["metadata"] == {"steps": 7}


def test_loading_draws_no_random_numbers(folder):
    before = torch.get_rng_state()
    load_checkpoint(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_compact_form_of_the_default_model_is_small_and_close(tmp_path):
    torch.manual_seed(1)
    model = Genesis().eval()
    folder = save_checkpoint(tmp_path / "compact", model, compact=True)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16e6
    loaded = load_checkpoint(folder)
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        # Half a step of 1/127 of the row's largest weight, or float16's 11 bits.
        assert (loaded.state_dict()[name] - value).abs().max() <= value.abs().max() / 250, name


def test_a_checkpoint_replaces_an_older_one_and_keeps_the_model_card(model, folder):
    (folder / "README.md").write_text("card")
    before = checkpoint_sha256(folder)
    save_checkpoint(folder, model, metadata={"steps": 8})
    assert read_config(folder)["metadata"] == {"steps": 8}
    assert (folder / "README.md").read_text() == "card"
    assert checkpoint_sha256(folder) != before
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


def test_a_folder_of_other_files_is_never_replaced(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds files but no checkpoint"):
        save_checkpoint(tmp_path, model)
    assert (tmp_path / "thesis.tex").exists()


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(model, folder, monkeypatch):
    def disk_full(path, data):
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ck, "write_durably", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, model)
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]
    load_checkpoint(folder)


def test_non_finite_weights_are_not_saved(tmp_path):
    model = Genesis(TINY)
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        save_checkpoint(tmp_path / "saved", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_every_flipped_bit_is_found(folder, name):
    path = folder / name
    data = path.read_bytes()
    for position in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_every_truncated_file_is_found(folder, name, part):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=name):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_every_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_checkpoint(folder)


def first(tensors):
    return sorted(name for name in tensors if tensors[name].dim() == 4)[0]


def spoil(value):
    def change(tensors):
        tensors[first(tensors)].view(-1)[0] = value

    return change


def drop(tensors):
    del tensors[first(tensors)]


def add(tensors):
    tensors["stowaway"] = torch.zeros(1)


def reshape(tensors):
    tensors[first(tensors)] = torch.zeros(2, 2)


def half(tensors):
    tensors[first(tensors)] = tensors[first(tensors)].double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(float("nan")), "NaN"),
        (spoil(float("inf")), "infinite"),
        (drop, "1 tensors missing"),
        (add, "unknown .*stowaway"),
        (reshape, r"must be .* but is \[2, 2\]"),
        (half, "float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(folder, change, message):
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, "does not fit"),
        ({"width": 8}, "does not fit"),
        ({"image_size": 48}, "image_size"),
        ({"num_slots": "5"}, "num_slots"),
        ({"num_slots": 10**9}, "beyond any model"),
        ({"width": 4000}, "does not fit"),  # 500 GB, if it were built to find out
        ({"std": -1.0}, "std"),
        ({"num_slot": 5}, "unknown config keys"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_an_unknown_model_is_refused(folder):
    (folder / CONFIG).write_text(json.dumps({"model": "transformer", "config": {}}))
    resign(folder)
    with pytest.raises(ValueError, match="unknown model 'transformer'"):
        read_config(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"files": 3}', '{"files": {}}', "[" * 100_000])
def test_a_broken_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=MANIFEST):
        load_checkpoint(folder)


def test_a_pickle_is_never_opened(folder, tmp_path):
    torch.save({"a": 1}, folder / WEIGHTS)
    resign(folder)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder)
    torch.save({"a": 1}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="load_released_checkpoint"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_huge_header_is_refused(folder):
    (folder / WEIGHTS).write_bytes((2**60).to_bytes(8, "little") + b"{}")
    resign(folder)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(folder)


def test_weights_that_no_model_could_have_take_no_memory(folder):
    path, size = folder / WEIGHTS, 1 << 27
    with path.open("r+b") as file:
        file.truncate(size)  # a hole, which takes no space on the disk either
    resign(folder)
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=rf"at most \d+ bytes fit its model, but it has {size}"
        ):
            load_checkpoint(folder)
        checkpoint_sha256(folder)  # the encoder's first look at a checkpoint
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_shipped_ids_are_suggested(folder, monkeypatch, tmp_path):
    shutil.copytree(folder, tmp_path / "weights" / "multi_dsprites")
    monkeypatch.setattr(ck, "SHIPPED", tmp_path / "weights")
    assert resolve_checkpoint("multi_dsprites").parent == tmp_path / "weights"
    with pytest.raises(FileNotFoundError, match="Did you mean 'multi_dsprites'"):
        resolve_checkpoint("multi_dsprite")


def test_only_this_librarys_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="Linear"):
        save_checkpoint(tmp_path / "saved", torch.nn.Linear(1, 1))

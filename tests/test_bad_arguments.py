"""Arguments that cannot work are one line and status 2, and are refused before any work is done."""

import argparse
import importlib
import os
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from benchmarks import common
from genesis_rl.checkpoint import save_checkpoint
from pretrain import export, many
from pretrain.command_line import output_file, output_folder, positive_int, positive_number
from pretrain.data.__main__ import main as data
from pretrain.run import main as pretrain
from runs import arguments
from toys import tiny_model

BENCHMARKS = sorted(
    path.stem
    for path in (common.ROOT / "benchmarks").glob("*.py")
    if "= argument_parser(" in path.read_text()
)
TIMED = sorted(
    (path.stem, flag)
    for path in (common.ROOT / "benchmarks").glob("*.py")
    for flag in ("--seconds", "--minutes")
    if f'"{flag}"' in path.read_text()
)


@pytest.fixture
def a_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("not a folder")
    return path


def refused(capsys, command, flags, *words):
    """Runs, and checks for status 2 and a single line that holds the words."""
    try:
        status = command([str(flag) for flag in flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    for word in words:
        assert word in printed.err
    return printed.err


# --- places to write to ---------------------------------------------------------------------------


def test_places_that_can_be_made_are_accepted_and_not_made(tmp_path):
    assert output_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert output_file(str(tmp_path / "a" / "b.png")) == tmp_path / "a" / "b.png"
    assert output_folder("x") == Path("x")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(a_file, monkeypatch):
    for parse in (output_folder, output_file):
        with pytest.raises(argparse.ArgumentTypeError, match=rf"but {a_file} is a file; choose"):
            parse(str(a_file / "b" / "c"))
    with pytest.raises(argparse.ArgumentTypeError, match=f"{a_file.parent} is a folder"):
        output_file(str(a_file.parent))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(argparse.ArgumentTypeError, match=f"{a_file.parent} is not writable"):
        output_folder(str(a_file.parent / "new"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_refuses_a_place_for_results_before_it_measures(name, a_file, capsys):
    main = importlib.import_module(f"benchmarks.{name}").main
    refused(capsys, main, ["--results-dir", a_file / "x"], "argument --results-dir", str(a_file))


@pytest.mark.parametrize(
    ("name", "flag"),
    [("segmentation", "--picture"), ("fid", "--picture"), ("figures", "--out"), ("rl", "--out")],
)
def test_other_outputs_are_refused_as_early(name, flag, a_file, capsys):
    main = importlib.import_module(f"benchmarks.{name}").main
    refused(capsys, main, [flag, a_file / "x"], f"argument {flag}", f"{a_file} is a file")


# --- numbers and names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"), [("0", "above 0"), ("many", "whole number, got 'many'")]
)
def test_counts_are_whole_numbers_above_0(text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        positive_int(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [(text, f"finite number above 0, got {text}") for text in ("0", "-1", "0.0", "inf", "nan")]
    + [("soon", "needs a number, got 'soon'")],
)
def test_durations_are_finite_numbers_above_0(text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        positive_number(text)
    assert positive_number("1e-3") == 0.001


@pytest.mark.parametrize(("name", "flag"), TIMED)
def test_a_benchmark_that_may_take_no_time_is_refused(name, flag, capsys):
    main = importlib.import_module(f"benchmarks.{name}").main
    refused(capsys, main, [flag, "0"], f"argument {flag}: needs a finite number above 0, got 0")


def test_recipes_refuse_arguments_as_all_others_do(a_file, capsys):
    main = importlib.import_module("benchmarks.recipes").main
    refused(capsys, main, [], "required: folders")
    refused(capsys, main, ["x", "--by", "hours"], "argument --by")
    refused(capsys, main, ["x", "--budget", "-5"], "argument --budget", "above 0, got -5")
    for flag in ("--results-dir", "--picture"):
        refused(capsys, main, ["x", flag, a_file / "x"], f"argument {flag}", f"{a_file} is a file")


def test_an_unknown_environment_is_a_line_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as stop:
        common.run_cli(lambda argv: gym.make("GenesisRL/SpriteGaol-v0"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_report_on_no_results_does_not_replace_the_last_one(tmp_path):
    (tmp_path / "RESULTS.md").write_text("numbers")
    main = importlib.import_module("benchmarks.report").main
    with pytest.raises(ValueError, match="needs a folder of results"):
        main(["--results-dir", str(tmp_path / "none"), "--out", str(tmp_path / "RESULTS.md")])
    assert (tmp_path / "RESULTS.md").read_text() == "numbers"


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        common.run_cli(lambda argv: 1 / 0)


def test_quick_and_a_choice_of_representations_exclude_each_other():
    main = importlib.import_module("benchmarks.rl").main
    with pytest.raises(ValueError, match="leave out --representations"):
        main(["--quick", "--representations", "state"])


# --- training -------------------------------------------------------------------------------------


def test_resuming_a_folder_without_a_run_needs_settings(tmp_path, capsys):
    flags = ["--resume", "--out", tmp_path / "sprits", "--device", "cpu"]
    refused(capsys, pretrain, flags, f"found no run in {tmp_path / 'sprits'}", "--config")
    assert not (tmp_path / "sprits").exists()


def test_weights_of_another_width_name_the_setting(tmp_path, capsys):
    model = tiny_model(num_slots=3, image_size=32, width=8, mask_latents=8, component_latents=4)
    start = save_checkpoint(tmp_path / "wide", model)
    assert pretrain(arguments(tmp_path / "run", start_from=start)) == 2
    assert "; set width=8\n" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.device_count() > 3, reason="has them")
def test_gpus_that_are_not_there_are_refused_before_runs_start(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    flags = ["--gpus=4", "--out", tmp_path / "out", "a=debug"]
    refused(capsys, many.main, flags, "--gpus 4, but torch", "--gpus 0 trains on the CPU")
    assert not (tmp_path / "out").exists()


def test_exporting_what_is_no_run_says_what_is_wanted(tmp_path, a_file, capsys):
    new = tmp_path / "new"
    refused(capsys, export.main, [tmp_path, new], "holds no run", "--out of pretrain/run.py")
    refused(capsys, export.main, [tmp_path, new, "--images", "0"], "argument --images")
    refused(capsys, export.main, [tmp_path, a_file / "x"], f"{a_file} is a file")
    assert not new.exists()


def test_a_sheet_that_cannot_be_written_is_a_mistake(a_file, capsys):
    flags = ["show", "multi_dsprites", "--images", "2", "--out", a_file / "x.png"]
    refused(capsys, data, flags, str(a_file))

"""Settings: strict, typed by their field, explained by the class, and instant."""

import contextlib
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrain.config import PRESETS, Config, ConfigError, build
from pretrain.flags import _HELP, parse_arguments
from pretrain.strict_yaml import load_yaml

ROOT = Path(__file__).parent.parent


def write(tmp_path, text):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return path


def test_every_setting_is_explained():
    assert set(_HELP) == {field.name for field in fields(Config)}


def test_defaults_are_the_papers():
    config = Config()
    paper = (5, 64, 0.7, 0.5655, 1e-5, 10.0, 0.99, 500_000, 32, 1e-4)
    names = "num_slots image_size std goal geco_step geco_speedup geco_decay steps batch_size"
    assert tuple(getattr(config, name) for name in [*names.split(), "learning_rate"]) == paper


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(path):
    build(load_yaml(path))


def test_the_faithful_preset_changes_nothing_but_says_it_all():
    assert build(load_yaml(PRESETS / "multi_dsprites.yaml")) == Config()


def test_flags_override_the_file(tmp_path):
    path = write(tmp_path, "learning_rate: 1e-3\nseed: 3\n")
    config = parse_arguments(["--config", str(path), "--seed", "4", "--deterministic"])
    assert (config.learning_rate, config.seed, config.deterministic) == (1e-3, 4, True)


def test_a_printed_config_can_be_read_back(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--config", "debug", "--std", "0.5", "--print-config"])
    assert stop.value.code == 0
    again = parse_arguments(["--config", str(write(tmp_path, capsys.readouterr().out))])
    assert again == parse_arguments(["--config", "debug", "--std", "0.5"])


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-9, 1),
    out=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
)
@example(steps=1, rate=1.0, out="0E0")  # text that YAML 1.2 reads as a number
def test_any_config_survives_yaml(tmp_path_factory, steps, rate, out):
    config = build({"steps": steps, "learning_rate": rate, "out": out})
    path = write(tmp_path_factory.mktemp("yaml"), config.to_yaml())
    assert build(load_yaml(path)) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1e3), ("3", 3.0), (".5", 0.5), ("2.5e-1", 0.25), ("0.7", 0.7)],
)
def test_numbers_are_yaml_1_2(tmp_path, text, value):
    assert build(load_yaml(write(tmp_path, f"geco_speedup: 1\nbeta: {text}"))).beta == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1", "unknown key 'lr'"),
        ("learning_rat: 1", "did you mean 'learning_rate'"),
        ("steps: 1\nsteps: 2", "key twice"),
        ("out: &a x\ndata_dir: *a", "aliases are not allowed"),
        ("out: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("- steps", "must hold 'key: value'"),
        ("", "must hold 'key: value'"),
        ("steps: 1.5", "steps must be a whole number, but got 1.5"),
        ("steps: 12:30", "steps must be a whole number, but got '12:30'"),
        ("steps: true", "steps must be a whole number, but got True"),
        ("steps: null", "steps must be a whole number, but got None"),
        ("std: .nan", "std must be"),
        ("std: 1e999", "std must be"),
        ("resume: 1", "resume must be true or false"),
        ("out: 3", "out must be text"),
        ("norm: group", "norm must be one of"),
        ("dataset: multi_dsprite", "did you mean 'multi_dsprites'"),
        ("image_size: 48", "image_size must be 32, 64 or 128"),
        ("keep: 1", "keep must be between 2"),
        ("device: gpu", "device must be"),
        ("out: [" * 50, "nested more than"),
        ("a: [" * 5000, "nested more than"),
        ("x: \x00", "some.yaml"),
        ("steps: " + "9" * 5000, "some.yaml"),
        ("? [a]\n: b", "key twice, or not a word"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path, capsys, text, message):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--config", str(write(tmp_path, text))])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "did you mean '--steps'"),
        (["--steps", "many"], "steps must be a whole number, but got 'many'"),
        (["--steps", "0"], "steps must be between 1"),
        (["--config", "debg"], "did you mean 'debug'"),
        (["--compile", "maybe"], "compile must be one of"),
        (["--steps"], "expected one argument"),
    ],
)
def test_mistyped_flags_are_refused_in_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_large_file_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="larger than"):
        load_yaml(write(tmp_path, "#" * (1 << 21)))


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_value_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with contextlib.suppress(ValueError):  # anything else is a failure
        build(load_yaml(path))


def test_a_resumed_run_keeps_what_decides_its_result(tmp_path, capsys):
    saved = build({"num_slots": 3, "steps": 10, "out": str(tmp_path)})
    (tmp_path / "config.yaml").write_text(saved.to_yaml())
    resume = ["--resume", "--out", str(tmp_path)]
    config = parse_arguments([*resume, "--steps", "20"])
    assert asdict(config) == asdict(saved) | {"steps": 20, "resume": True}
    with pytest.raises(SystemExit):
        parse_arguments([*resume, "--num-slots", "4"])
    assert "keeps num_slots=3" in capsys.readouterr().err


def test_config_errors_are_value_errors():
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("command", [["pretrain/run.py"], ["-m", "pretrain.run"]])
def test_help_comes_without_what_takes_long_to_import(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "--learning-rate" in done.stdout
    assert "pretrain.config" in imported
    assert not imported & {"torch", "numpy", "gymnasium", "cv2", "tensorboard"}

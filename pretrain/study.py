"""A study: several runs that are to be compared, as data.

A study is a YAML file, such as those in `pretrain/configs/studies`:

    common: {config: multi_dsprites, steps: 60_000}     a preset or a file, and settings on top
    seeds: [0, 1]                                       optional: every run once with each
    runs:
      faithful: {}
      cosine: {learning_rate_schedule: cosine}          what this run alone has

A single run can also be written as `NAME=PRESET,KEY=VALUE,...`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_rl.durable import parse_json
from pretrain.command_line import suggest
from pretrain.config import PRESETS, Config, ConfigError, build, find_config
from pretrain.strict_yaml import load_yaml, parse_yaml

STUDIES = PRESETS / "studies"
_LAUNCHERS = ("out", "resume", "device", "max_minutes")  # settings that no study decides
_TAIL = 1 << 16  # bytes of a metrics file that hold its last lines of both kinds, with luck


@dataclass(frozen=True)
class Run:
    """One training of a study; `name` is that of its folder."""

    name: str
    config: Config


@dataclass(frozen=True)
class Progress:
    """How far a run has got, by what it has left on disk.

    Attributes:
        step: Of the newest line of metrics; `saved_step` is that of the newest saved state.
        minutes: Spent until that state, by all processes that have worked on it.
        train: The newest line of training metrics; empty if there is none.
        validation: Likewise.
    """

    step: int
    saved_step: int
    minutes: float
    train: dict[str, Any]
    validation: dict[str, Any]


def read_runs(specs: list[str]) -> list[Run]:
    """Turns command-line words into runs: files and names of studies, or `NAME=PRESET,KEY=VALUE`.

    Raises:
        ValueError: A word or a file is not understood; the message names it.
    """
    runs = [run for spec in specs for run in (_inline(spec) if "=" in spec else _study(spec))]
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two runs have the name {name!r}; they would share a folder")
    return runs


def progress(folder: Path) -> Progress:
    """Reads how far the run in a folder has got; tolerates every stage of being written."""
    lines = _last_lines(folder / "metrics.jsonl")
    train = next((line for line in lines if line.get("split") == "train"), {})
    validation = next((line for line in lines if line.get("split") == "val"), {})
    states = [int(p.stem[5:]) for p in (folder / "checkpoints").glob("step_*.json")]
    try:
        path = folder / "model" / "config.json"
        minutes = float(parse_json(path.read_bytes(), path)["metadata"]["minutes"])
    except (OSError, ValueError, KeyError, TypeError):
        minutes = 0.0
    step = int(lines[0].get("step", 0)) if lines else 0
    return Progress(step, max(states, default=0), minutes, train, validation)


def _study(name_or_path: str) -> list[Run]:
    path = STUDIES / f"{name_or_path}.yaml"
    if not re.fullmatch(r"[\w-]+", name_or_path) or not path.is_file():
        path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = sorted(p.stem for p in STUDIES.glob("*.yaml"))
        raise ConfigError(f"no study {name_or_path!r}{suggest(name_or_path, known)}")
    values = load_yaml(path)
    unknown = set(values) - {"common", "seeds", "runs"}
    if unknown:
        raise ConfigError(f"{path}: unknown keys {sorted(unknown)}; it has common, seeds and runs")
    common, runs, seeds = values.get("common") or {}, values.get("runs"), values.get("seeds")
    if not isinstance(runs, dict) or not isinstance(common, dict) or not runs:
        raise ConfigError(f"{path}: runs must be 'name: {{settings}}' lines, common settings alike")
    found = []
    for name, own in runs.items():
        try:
            if seeds is None:
                found.append(_run(name, common | (own or {})))
                continue
            found += [_run(f"{name}-s{n}", {"seed": n} | common | (own or {})) for n in seeds]
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {name}: {error}") from error
    return found


def _inline(spec: str) -> list[Run]:
    name, _, rest = spec.partition("=")
    config, *pairs = rest.split(",")
    settings: dict[str, Any] = {"config": config}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{spec}: {pair!r} is not KEY=VALUE")
        try:
            settings[key] = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"{spec}: {key}: {error}") from error
    return [_run(name, settings)]


def _run(name: str, settings: dict[str, Any]) -> Run:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{name!r} is no name for a run: letters, digits, '_', '-' and '.'")
    settings = dict(settings)
    preset = settings.pop("config", None)
    for key in _LAUNCHERS:
        if key in settings:
            raise ConfigError(f"{key} is for the launcher to decide, not for a run")
    base = load_yaml(find_config(str(preset))) if preset is not None else {}
    for key in _LAUNCHERS:
        base.pop(key, None)
    return Run(name, build(base | settings))


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The last lines of a file of JSON objects, newest first; torn ones are left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found

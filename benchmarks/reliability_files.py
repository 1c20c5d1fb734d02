"""Rows of the scoreboard about files: damaged states and records, and a search of the sources."""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import ROOT
from benchmarks.reliability_runs import Outcome, Tick

if TYPE_CHECKING:
    from pretrain.data.tfrecord import RecordError

PACKAGES = ("genesis_rl", "envs", "pretrain", "benchmarks")
CALLS = {"eval", "exec", "yaml.load", "torch.load", "torch.jit.load", "torch.hub.load"}
PLANTED = (
    "import pickle",
    "from pickle import loads",
    "import cloudpickle",
    "eval(text)",
    "exec(text)",
    "yaml.load(text)",
    "torch.load(file)",
    "torch.jit.load(file)",
    "numpy.load(file, allow_pickle=True)",
    "archive.extractall(folder)",
)


def corruptions(data: bytes, count: int, burst: int = 8, seed: int = 1) -> Iterator[bytes]:
    """Copies of the data, each with a flipped bit, cut short, or with random bytes in a row."""
    rng = random.Random(seed)
    for trial in range(count):
        bad = bytearray(data)
        if trial % 3 == 0:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        elif trial % 3 == 1:
            del bad[rng.randrange(len(bad)) :]
        else:
            start = rng.randrange(len(bad) - burst)
            bad[start : start + burst] = rng.randbytes(burst)
        yield bytes(bad)


def damaged_states(count: int, folder: Path, tick: Tick) -> Outcome:
    """Damages the newest state of a training, its file or its manifest, and asks for a state."""
    from benchmarks.reliability_training import differing, learnt, make
    from pretrain.state import load_state, save_state

    engine, kept = make(), {}
    (folder / "checkpoints").mkdir()
    for step in (1, 2):
        engine.step()
        kept[step] = learnt(engine)
        save_state(folder, engine.state_dict(), step=step, config="settings", keep=2)
    newest = folder / "checkpoints" / "step_00000002"
    held = fallbacks = harmless = 0
    said: list[str] = []
    sound_before = load_state(folder, config="settings", say=said.append)
    for suffix, part in ((".pt", count - count // 2), (".json", count // 2)):
        path = newest.with_suffix(suffix)
        sound = path.read_bytes()
        for bad in corruptions(sound, part):
            said.clear()
            path.write_bytes(bad)
            found = load_state(folder, config="settings", say=said.append)
            if found is not None:
                step, state = found
                engine.load_state_dict(state)
                exact = differing(kept[step], learnt(engine)) == []
                fell_back = step == 1 and len(said) == 1 and newest.name in said[0]
                # Damage to the white space of a manifest leaves all that it says.
                same = step == 2 and suffix == ".json" and json.loads(bad) == json.loads(sound)
                fallbacks, harmless = fallbacks + fell_back, harmless + same
                held += exact and (fell_back or same)
            tick()
        path.write_bytes(sound)
    after = load_state(folder, config="settings", say=said.append)
    loads = all(found is not None and found[0] == 2 for found in (sound_before, after))
    void = "" if loads else "the undamaged state is not loaded either"
    facts = {"fallbacks": fallbacks, "manifests_damaged_in_white_space_only": harmless}
    return Outcome(count, held, f"{count - held} not noticed", void, facts)


def damaged_records(count: int, folder: Path, tick: Tick) -> Outcome:
    """Damages a TFRecord file, and reads it to the end or to the first error."""
    from pretrain.data.record_file import RecordFile
    from pretrain.data.tfrecord import read_records, write_records

    rng = random.Random(0)
    sound = [rng.randbytes(rng.randrange(60)) for _ in range(20)]
    path = folder / "a.tfrecord"
    write_records(path, sound)
    data, copy = path.read_bytes(), folder / "copy"
    boundaries = {0, *RecordFile(path).offsets.tolist()}
    intact = [record.payload for record in read_records(path)] == sound
    named = wrong = shorter = unchanged = 0
    for bad in corruptions(data, count):
        copy.write_bytes(bad)
        seen, error = delivered(copy)
        right = seen == sound[: len(seen)]
        wrong += not right
        named += right and error is not None and names(error, copy, len(seen))
        if error is None and right:
            shorter += len(bad) in boundaries and len(RecordFile(copy)) != len(sound)
            unchanged += bad == data
        tick()
    facts = {
        "named_with_file_record_and_offset": named,
        "wrong_records_delivered": wrong,
        "cut_between_two_records": shorter,
        "bytes_replaced_by_the_same": unchanged,
    }
    void = "" if intact else "the undamaged file is not read either"
    silent = count - named - shorter - unchanged
    worst = f"{silent} silent, {shorter} told by a count of records alone"
    return Outcome(count, count - silent, worst, void, facts)


def delivered(path: Path) -> tuple[list[bytes], RecordError | None]:
    """Returns the payloads that a TFRecord file delivers, and the error that ended it, if any."""
    from pretrain.data.tfrecord import RecordError, read_records

    seen: list[bytes] = []
    try:
        for record in read_records(path):
            seen.append(record.payload)
    except RecordError as error:
        return seen, error
    return seen, None


def names(error: RecordError, path: Path, number: int) -> bool:
    """Whether an error says in which file, at which record and offset."""
    return str(path) in str(error) and error.number == number and str(error.offset) in str(error)


def imported(path: Path) -> set[str]:
    """Packages that a file of code imports beyond the standard library."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def sources() -> list[Path]:
    """The project's own code, tests left out."""
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def dangers(path: Path) -> list[str]:
    """Calls that can run code found in data, or write where an archive says."""
    found = [f"import {name}" for name in imported(path) & {"cloudpickle", "joblib", "dill"}]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            found += [f"import {name}" for name in names & {"pickle", "marshal", "shelve"}]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        pickled = any(
            k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
        )
        if called in CALLS or pickled:
            found.append(ast.unparse(node))
        if called.endswith((".extractall", ".extract")):
            found.append(ast.unparse(node))
    return found


def searched_sources(count: int, folder: Path, tick: Tick) -> Outcome:
    """Searches the sources for what could run code or write anywhere."""
    files = sources()[:count]
    hits: list[str] = []
    weights_only = clean = 0
    for path in files:
        found = dangers(path)
        allowed = [c for c in found if c.startswith("torch.load(") and "weights_only=True" in c]
        hits += [f"{path.relative_to(ROOT)}: {c}" for c in found if c not in allowed]
        weights_only, clean = weights_only + len(allowed), clean + (found == allowed)
        tick()
    planted = folder / "planted.py"
    missed = 0
    for code in PLANTED:
        planted.write_text(f"def f():\n    {code}\n")
        missed += len(dangers(planted)) != 1
    void = "no source was found" if not files else f"{missed} planted ones missed" if missed else ""
    facts = {"hits": hits, "torch_load_with_weights_only": weights_only, "planted": len(PLANTED)}
    return Outcome(len(files), clean, f"{len(hits)} hits", void, facts)

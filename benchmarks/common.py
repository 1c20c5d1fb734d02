"""What every benchmark shares: arguments, devices, and result lines that say where they came from.

A result is one JSON object. It goes to stdout as the last line of a run, and is appended to
`benchmarks/results/<name>.jsonl`, from which `benchmarks/report.py` writes RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.command_line import Parser, is_mistake, output_folder, positive_int, words
from pretrain.provenance import commit, device_name

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_PLACES = ("--results-dir", "--out", "--picture")
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3")


def argument_parser(description: str | None, **kwargs: Any) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that all benchmarks have."""
    parser = Parser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive_int, help="CPU threads torch may use")
    parser.add_argument(
        "--results-dir",
        type=output_folder,
        default=RESULTS,
        help="where the result line is appended (default: benchmarks/results)",
    )
    return parser


def run_cli(main: Callable[[Sequence[str] | None], object]) -> None:
    """Runs a command; a user's mistake ends it with one line on stderr and exit code 2."""
    try:
        main(None)
    except Exception as error:
        if os.environ.get("GENESIS_RL_TRACEBACK") or not is_mistake(error):
            raise
        print(f"error: {words(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def prepare_device(name: str, threads: int | None = None) -> torch.device:
    """Turns `--device` and `--threads` into a usable torch device, before any work."""
    import torch

    commit()  # from now on the result's, whatever is checked out when it is there
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(
                f"--device {name} needs a CUDA device, but torch {torch.__version__} sees "
                f"{count}; use --device cpu"
            )
        torch.cuda.set_device(device.index or 0)  # torch 2.11 wants a number
    elif device.type != "cpu":
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def save_result(
    name: str,
    values: dict[str, Any],
    *,
    device: torch.device,
    seed: int | Sequence[int] | None,
    folder: Path = RESULTS,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Appends a result line to `folder/<name>.jsonl` and prints it as one line of JSON.

    Args:
        name: The benchmark, and the name of its module.
        values: What was measured, ready for JSON.
        device: Where it ran.
        seed: The seed or seeds it ran with; None if nothing was random.
        folder: Where the line goes.
        argv: Arguments of the command; None takes them from the running process.

    Returns:
        The complete line: the values and where they came from.
    """
    line = {"benchmark": name, **values, **provenance(name, device=device, seed=seed, argv=argv)}
    append_line(folder / f"{name}.jsonl", line)
    print(json.dumps(line), flush=True)
    return line


def provenance(
    name: str,
    *,
    device: torch.device,
    seed: int | Sequence[int] | None,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Returns what somebody needs to repeat a measurement."""
    return {
        "seed": list(seed) if isinstance(seed, Sequence) else seed,
        "device": device_name(device),
        "command": command(name, argv),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def command(name: str, argv: Sequence[str] | None = None) -> str:
    """Returns the command line to repeat, without the places its output happened to go to."""
    kept: list[str] = []
    arguments = iter(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        if argument in _PLACES:
            next(arguments, None)
        elif argument.partition("=")[0] not in _PLACES:
            kept.append(argument)
    return f"python -m benchmarks.{name} {shlex.join(kept)}".strip()


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Appends one JSON object to a file of lines, in a single write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; empty if it is absent. A last line cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a line that is not JSON ({error}); remove it") from None


def sample(name: str) -> Path:
    """A file or folder of genuine samples, which $GENESIS_RL_SAMPLES says where to find."""
    return Path(os.environ.get("GENESIS_RL_SAMPLES", "")) / name


def print_rows(rows: Sequence[dict[str, Any]], width: int = 20) -> None:
    """Prints rows of the same keys as a table, and an empty line."""
    print("  ".join(f"{name:>{width}}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{_cell(value):>{width}}" for value in row.values()))
    print()


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(_cell(item) for item in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

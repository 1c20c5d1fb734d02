"""Reliability: what of the promises holds when files are damaged or hostile and processes die?

Ten rows, each a function that does the thing to real files and processes and counts. A row says
itself when it has shown nothing. The newest line of each row is in docs/RELIABILITY.md.

    python -m benchmarks.reliability
    python -m benchmarks.reliability --rows 1 9 --count 20
    python -m benchmarks.reliability --page
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    RESULTS,
    ROOT,
    argument_parser,
    positive_int,
    prepare_device,
    read_lines,
    run_cli,
    save_result,
)
from benchmarks.reliability_page import ROWS, render
from benchmarks.reliability_runs import Outcome
from pretrain.command_line import output_file


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the command line; returns the result lines, one a row."""
    parser = argument_parser(__doc__)
    parser.set_defaults(device="cpu", threads=1)
    parser.add_argument("--rows", type=_row, nargs="+", default=list(ROWS), help="of 1 to 10")
    parser.add_argument("--count", type=positive_int, help="how often; default: each row's own")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument(
        "--out", type=output_file, help="the page (default: docs/RELIABILITY.md, or with the lines)"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that rows start
    device = prepare_device(args.device, args.threads)
    if device.type != "cpu":
        raise ValueError(f"--device needs to be cpu, as rows are of processes, got {args.device}")
    lines = []
    for number in [] if args.page else args.rows:
        values = run_row(number, args.count)
        lines.append(
            save_result(
                "reliability", values, device=device, seed=0, folder=args.results_dir, argv=argv
            )
        )
    beside = args.results_dir / "RELIABILITY.md"
    page = args.out or (ROOT / "docs" / beside.name if args.results_dir == RESULTS else beside)
    page.write_text(render(read_lines(args.results_dir / "reliability.jsonl")), encoding="utf-8")
    return lines


def run_row(number: int, count: int | None = None) -> dict[str, Any]:
    """Makes one row of the scoreboard.

    Args:
        number: Of the row.
        count: How often to do it; the row's own number unless given.

    Returns:
        What the line says: tried, held, the worst, whether the row is void, facts and seconds.
    """
    from tqdm import tqdm

    row = ROWS[number]
    function = getattr(importlib.import_module(row.module), row.function)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="reliability-") as folder,
        tqdm(total=(count or row.usual) * row.parts, desc=row.what, disable=None) as bar,
    ):
        found: Outcome = function(count or row.usual, Path(folder), bar.update)
    return {
        "row": number,
        "what": row.what,
        "tried": found.tried,
        "held": found.held,
        "worst": found.worst,
        "void": found.void,
        "facts": found.facts,
        "seconds": round(time.monotonic() - began, 1),
    }


def _row(text: str) -> int:
    if text.isdecimal() and int(text) in ROWS:
        return int(text)
    raise argparse.ArgumentTypeError(f"needs rows of {min(ROWS)} to {max(ROWS)}, got {text!r}")


if __name__ == "__main__":
    run_cli(main)

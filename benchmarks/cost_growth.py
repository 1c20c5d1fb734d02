"""Cost growth: what do more slots, larger batches and larger images cost in training and encoding?

One of the three is varied at a time, around a GENESIS of full width, untrained, with 5 slots and 64
pixels, which encodes 64 frames at a time and is trained on 32 (on a CPU 1 and 1). A point is a row
of `benchmarks/throughput.py` or `benchmarks/training_speed.py`; one that does not fit into memory
is reported and left out. The ends of each axis come first, and no point is begun that would end
after --minutes (3); what is left then is named, and made by the same command with --resume. On an
H200 expect two or three calls for everything: a training step takes up to a minute to compile.

    python -m benchmarks.cost_growth --device cuda
    python -m benchmarks.cost_growth --device cuda --resume
    python -m benchmarks.cost_growth --device cpu --threads 2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    argument_parser,
    positive_int,
    prepare_device,
    provenance,
    read_lines,
    run_cli,
    save_result,
)
from benchmarks.speed_rows import Row, checkpoint_or_untrained, resolve_precision
from benchmarks.throughput import encode_row
from benchmarks.training_speed import train_row
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch

KINDS = ("encode", "train")
AXES = {"slots": "slots", "batch": "images at a time", "image_size": "side of an image, pixels"}


class Point(NamedTuple):
    """What is measured: so many images at a time, S x S pixels each, by a GENESIS of K slots."""

    what: str  # one of KINDS
    slots: int  # K
    batch: int
    image_size: int  # S

    def at(self, axis: str, value: int) -> Point:
        """Returns the point that differs in one value."""
        return Point(**{**self._asdict(), axis: value})


CENTRES = {
    ("cpu", "encode"): Point("encode", 5, 1, 64),
    ("cpu", "train"): Point("train", 5, 1, 64),
    ("cuda", "encode"): Point("encode", 5, 64, 64),
    ("cuda", "train"): Point("train", 5, 32, 64),
}
VALUES: dict[tuple[str, str], dict[str, Sequence[int]]] = {
    ("cpu", "encode"): {"slots": (2, 3, 7, 9, 12), "batch": (4, 16), "image_size": (32, 128)},
    ("cpu", "train"): {"slots": (2, 9), "batch": (4,), "image_size": (32, 128)},
    ("cuda", "encode"): {
        "slots": (2, 3, 7, 9, 12),
        "batch": (1, 4, 16, 256, 1024),
        "image_size": (32, 128),
    },
    ("cuda", "train"): {
        "slots": (2, 7, 9, 12),
        "batch": (4, 256, 1024),
        "image_size": (32, 128),
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--what", nargs="+", choices=KINDS, default=list(KINDS))
    add("--slots", type=positive_int, nargs="+", help="instead of the usual ones")
    add("--batches", type=positive_int, nargs="+", help="likewise")
    add("--image-sizes", type=int, nargs="+", choices=(32, 64, 128), help="likewise")
    add("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    add(
        "--seconds",
        type=positive_number,
        default=1.0,
        help="roughly, per point, beside its preparation",
    )
    add(
        "--minutes",
        type=positive_number,
        default=3.0,
        help="for all; what would take longer is not begun",
    )
    add("--resume", action="store_true", help="leave out what this commit has measured here")
    args = parser.parse_args(argv)
    measure(args, argv)


def measure(args: Any, argv: Sequence[str] | None) -> None:
    """Measures what the arguments name, prints it as it comes, saves it and draws all there is."""
    stop = time.monotonic() + 60 * args.minutes
    device = prepare_device(args.device, args.threads)
    given = {"slots": args.slots, "batch": args.batches, "image_size": args.image_sizes}
    own = {axis: values for axis, values in given.items() if values}
    points = [
        point
        for what in args.what
        for point in plan(CENTRES[device.type, what], VALUES[device.type, what] | own)
    ]
    path = args.results_dir / "cost_growth.jsonl"
    if args.resume:
        here = provenance("cost_growth", device=device, seed=0, argv=argv)
        known = measured_before(read_lines(path), here)
        points = [point for point in points if point not in known]
    rows: list[Row] = []
    late: list[Point] = []
    longest = dict.fromkeys(KINDS, 0.0)  # seconds
    try:
        for point in points:
            began = time.monotonic()
            if began + longest[point.what] > stop:
                late.append(point)
                continue
            rows.append(row := measured(point, device, args.precision, args.seconds))
            longest[point.what] = max(longest[point.what], time.monotonic() - began)
            print(describe(row), flush=True)
    finally:  # what has been measured is kept, whatever came in between
        if rows:
            values = {"rows": rows, "seconds": args.seconds}
            folder = args.results_dir
            save_result("cost_growth", values, device=device, seed=0, folder=folder, argv=argv)
            draw(read_lines(path), path.with_suffix(".png"))
    if late:
        names = "".join(f"\n  {name_of(point._asdict())}" for point in late)
        print(f"left for --resume, out of time:{names}", file=sys.stderr)


def plan(centre: Point, axes: Mapping[str, Sequence[int]]) -> list[Point]:
    """Returns the centre, then what differs from it in one value; the ends of each axis first."""
    lines = [
        [centre.at(axis, value) for value in ends_first(values)] for axis, values in axes.items()
    ]
    in_turns = chain.from_iterable(zip_longest(*lines))
    return list(dict.fromkeys([centre, *(point for point in in_turns if point)]))


def ends_first(values: Iterable[int]) -> list[int]:
    """Returns the largest, the smallest, the second largest, and so on."""
    left = sorted(set(values))
    ordered: list[int] = []
    while left:
        ordered.append(left.pop(-1 if len(ordered) % 2 == 0 else 0))
    return ordered


def measured_before(lines: Sequence[Row], here: Mapping[str, Any]) -> set[Point]:
    """Returns the points of all lines of the same commit and device as `here`."""
    alike = [line for line in lines if all(line[k] == here[k] for k in ("commit", "device"))]
    return {point_of(row) for line in alike for row in line["rows"]}


def measured(point: Point, device: torch.device, precision: str, seconds: float) -> Row:
    """Returns the row of a point, or one that says why it was left out."""
    from genesis_rl.inference.runtime import lacks_memory

    try:
        row = timed(point, device, precision, seconds)
    except RuntimeError as error:
        if not lacks_memory(error) and "allocate memory" not in str(error):  # on CUDA; on a CPU
            raise
        row = {"device": device.type, "left_out": "does not fit into memory"}
    return {**row, **point._asdict()}


def timed(point: Point, device: torch.device, precision: str, seconds: float) -> Row:
    """Times a point by the benchmark of its kind."""
    if point.what == "encode":
        with checkpoint_or_untrained(None, point.slots, point.image_size) as checkpoint:
            return encode_row(checkpoint, point.batch, device, precision, seconds)
    from pretrain.config import Config

    config = Config(
        num_slots=point.slots,
        batch_size=point.batch,
        image_size=point.image_size,
        precision=resolve_precision(precision, device),
    )
    return train_row(config, device, seconds)


def point_of(row: Mapping[str, Any]) -> Point:
    """Returns the point of a row."""
    return Point(*(row[name] for name in Point._fields))


def name_of(row: Mapping[str, Any]) -> str:
    """Returns a point in words."""
    return f"{row['what']:<6} K={row['slots']} batch {row['batch']} {row['image_size']} px"


def ms_per_image(row: Mapping[str, Any]) -> float:
    """Returns how long an image of the batch takes."""
    return float(row["ms"] / row["batch"])


def floor_ms(row: Mapping[str, Any]) -> float:
    """Returns how long the arithmetic of an image takes at the matrix peak."""
    return float(row["gflop"] / row["matrix_tflops"])


def describe(row: Mapping[str, Any]) -> str:
    """Returns a row in a line for people."""
    if "left_out" in row:
        return f"{name_of(row)}: {row['left_out']}"
    return (
        f"{name_of(row)} {row['dtype']}: {ms_per_image(row):.4g} ms an image, "
        f"{1e3 / ms_per_image(row):,.1f} images/s, {row['gflop']:.2f} GFLOP an image, "
        f"{row['of_floor']:.1%} of {row['matrix_tflops']:.3g} TFLOP/s, "
        f"{row['peak_memory_mb']:,.0f} MB"
    )


def newest_rows(lines: Sequence[Row], device: str) -> dict[Point, tuple[Row, Row]]:
    """Returns each point's newest row, and its line, of the machine that was measured last.

    Args:
        lines: Result lines, oldest first.
        device: "cpu" or "cuda".
    """
    found: dict[Point, tuple[Row, Row]] = {}
    machine = None
    for line in reversed(lines):
        rows = [row for row in line["rows"] if row["device"] == device]
        machine = machine or (line["device"] if rows else None)
        if line["device"] == machine:
            for row in rows:
                found.setdefault(point_of(row), (row, line))
    return dict(sorted(found.items()))


def draw(lines: Sequence[Row], path: Path) -> None:
    """Draws milliseconds an image over slots, batch and image size: a row of panels a device."""
    from benchmarks.curves import COLOURS, MARKERS
    from benchmarks.plots import new_figure, save_figure

    measured = {device: newest_rows(lines, device) for device in ("cuda", "cpu")}
    measured = {device: found for device, found in measured.items() if found}
    if not measured:
        return
    figure = new_figure(10.5, 3.4 * len(measured))
    panels = figure.subplots(len(measured), len(AXES), sharey="row", squeeze=False)
    for (device, found), line in zip(measured.items(), panels, strict=True):
        *_, (_, newest) = found.values()
        line[0].set(ylabel=f"ms an image\n{newest['device']}")
        for axes, (axis, label) in zip(line, AXES.items(), strict=True):
            for what, colour, marker in zip(KINDS, COLOURS, MARKERS, strict=False):
                rows = along(axis, CENTRES[device, what], [row for row, _ in found.values()])
                x, look = [row[axis] for row in rows], {"color": colour, "marker": marker}
                axes.plot(x, [ms_per_image(row) for row in rows], label=what, **look)
                floor = [floor_ms(row) for row in rows]
                axes.plot(x, floor, color=colour, linestyle="--", label=f"{what}, arithmetic floor")
            axes.set(xlabel=label, xscale="log", yscale="log")
            ticks = sorted({getattr(point, axis) for point in found})
            axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        line[-1].legend(frameon=False, fontsize="small")
    save_figure(figure, path, dpi=110)


def along(axis: str, centre: Point, rows: Sequence[Row]) -> list[Row]:
    """Returns the measured rows that differ from the centre in nothing but this axis, in order."""
    alike = [
        row for row in rows if "left_out" not in row and point_of(row) == centre.at(axis, row[axis])
    ]
    return sorted(alike, key=lambda row: int(row[axis]))


if __name__ == "__main__":
    run_cli(main)

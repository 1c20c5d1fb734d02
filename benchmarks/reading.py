"""Reading: how many scenes and images a second come out of dataset files, on one core?

A small set of each kind is generated in its published format, its records repeated to a file of
`--scenes`, and read while the file is in memory. Parsing a GQN record is checking it and finding
all of its views and cameras; decoding takes one view of each scene, as training does; a tower is a
PNG file with its mask. Rates are per second of CPU time: what one core does on a quiet machine.

    python -m benchmarks.reading --threads 1
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--scenes", type=positive_int, default=5000, help="in the file of rooms")
    parser.add_argument(
        "--different", type=positive_int, default=50, help="of them, before repeats"
    )
    parser.add_argument("--repeats", type=positive_int, default=9, help="of which best and median")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_rooms(Path(folder), args.scenes, args.different, args.repeats)
        rows += measure_towers(Path(folder), args.repeats)
    for row in rows:
        print(
            f"{row['what']:<16}{row['per_cpu_second']:>10,.0f} {row['unit']}/s at best, "
            f"{row['median']:,.0f} in the median"
        )
    values = {"rows": rows, "scenes": args.scenes}
    return save_result("reading", values, device=device, seed=0, folder=args.results_dir, argv=argv)


def measure_rooms(folder: Path, scenes: int, different: int, repeats: int) -> list[Row]:
    """Reads a file of GQN scenes; returns the rates of parsing and of decoding."""
    import numpy as np

    from pretrain.data.generate import generate
    from pretrain.data.gqn import Gqn
    from pretrain.data.make_gqn import GqnRecipe
    from pretrain.data.record_file import RecordFile
    from pretrain.data.scenes import parse_scenes
    from pretrain.data.tfrecord import write_records

    recipe = GqnRecipe(train=different, test=1, scenes_per_file=different)
    made = generate(recipe, folder / "made", device="cpu", workers=1)
    (source,) = (made / "rooms_ring_camera" / "train").glob("*.tfrecord")
    (folder / "rooms" / "test").mkdir(parents=True)
    path = folder / "rooms" / "test" / "1-of-1.tfrecord"
    few = list(RecordFile(source).read(range(different)))
    size = write_records(path, islice(cycle(few), scenes)).bytes

    def parse() -> int:
        file = RecordFile(path)
        blocks = file.blocks(range(len(file)))
        return sum(len(parse_scenes(block).first) - 1 for block in blocks)

    data = Gqn("test", data_dir=folder / "rooms")
    some = np.arange(min(scenes, 512))
    rows = [
        {"what": "GQN, parsed", "unit": "scenes", **rate(parse, repeats)},
        {
            "what": "GQN, decoded",
            "unit": "scenes",
            **rate(lambda: len(data.read(some)[0]), repeats),
        },
    ]
    return [row | {"bytes_per_scene": size // scenes} for row in rows]


def measure_towers(folder: Path, repeats: int) -> list[Row]:
    """Reads the towers of a small ShapeStacks set with their masks; returns the rate."""
    import numpy as np

    from pretrain.data.generate import generate
    from pretrain.data.make_shapestacks import ShapeStacksRecipe
    from pretrain.data.shapestacks import ShapeStacks

    recipe = ShapeStacksRecipe(at_least=48, physics=False)
    data = ShapeStacks(
        "train", data_dir=generate(recipe, folder / "towers", device="cpu", workers=1)
    )
    rows = np.arange(len(data))
    return [
        {
            "what": "towers, decoded",
            "unit": "images",
            **rate(lambda: len(data.read(rows)[0]), repeats),
        }
    ]


def rate(read: Callable[[], int], repeats: int) -> dict[str, float]:
    """Times a reader that returns how much it read, per second of CPU time of this process."""
    read()
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        count = read()
        rates.append(count / (time.process_time() - started))
    return {"per_cpu_second": round(max(rates), 1), "median": round(median(rates), 1)}


if __name__ == "__main__":
    run_cli(main)

"""Rendering: how many images a second does the ray caster draw?

Every scene is another tower or another room. Scenes lie on the device, images stay there. On a CPU
`per_cpu_second` counts the time that the process had of its core, which on a busy machine is the
number to compare.

    python -m benchmarks.render --device cpu --threads 1 --scenes 64
    python -m benchmarks.render --stages stack room --picture sheet.png
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from pretrain.command_line import output_file, positive_number

if TYPE_CHECKING:
    import torch

    from envs.raycast import Renderer
    from envs.solids import SolidScene

STAGES = ("stack", "room")
FUSED = {"auto": None, "off": False, "on": True}
Row = dict[str, Any]

_MASK_COLOURS = (
    *((230, 80, 70), (80, 180, 90), (80, 120, 230)),
    *((235, 200, 70), (90, 200, 210), (200, 100, 210)),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["stack"])
    parser.add_argument("--scenes", type=positive_int, nargs="+", default=[1024])
    parser.add_argument("--samples", type=int, nargs="+", choices=(1, 2, 3), default=[1, 2])
    parser.add_argument("--size", type=positive_int, default=64)
    parser.add_argument("--masks", action="store_true", help="draw instance masks as well")
    parser.add_argument("--fused", choices=FUSED, default="auto", help="by Triton kernels, on CUDA")
    parser.add_argument("--seconds", type=positive_number, default=5.0, help="roughly, per row")
    parser.add_argument("--picture", type=output_file, help="write what is drawn there, and stop")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    if args.picture:
        write_sheet(args.picture, args.stages, device, args.size)
        return
    rows = []
    for stage in args.stages:
        for count in args.scenes:
            renderer, scene = scenes(stage, count, device, args.fused)
            for samples in args.samples:
                row = measure(renderer, scene, args.size, samples, args.masks, args.seconds)
                rows.append({"stage": stage, **row})
                print(describe(rows[-1]))
    values = {"rows": rows, "size": args.size, "masks": args.masks}
    save_result("render", values, device=device, seed=0, folder=args.results_dir, argv=argv)


def scenes(
    stage: str, count: int, device: torch.device, fused: str = "auto"
) -> tuple[Renderer, SolidScene]:
    """Returns a renderer and so many scenes of a stage, on the device."""
    import torch

    from envs import rooms, textures, towers
    from envs.raycast import Renderer

    index = torch.arange(count)
    if stage == "stack":
        drawn = towers.draw_towers(index, seed=0)
        scene = towers.tower_scene(drawn, towers.stack_camera(index % 16 + 1, crop=True))
        surfaces = textures.stack_textures()
    else:
        angle = rooms.view_angles(0, index, views=1)[:, 0]
        scene = rooms.room_scene(rooms.draw_rooms(0, index), rooms.ring_camera(angle))
        surfaces = textures.room_textures()
    return Renderer(surfaces, device, fused=FUSED[fused]), scene.to(device)


def measure(
    renderer: Renderer, scene: SolidScene, size: int, samples: int, masks: bool, seconds: float
) -> Row:
    """Times one way of drawing the scenes."""
    from benchmarks import timing

    def draw() -> None:
        renderer.render(scene, size, samples, masks=masks)

    device = renderer.device
    timing.reset_peak_memory(device)
    interval = timing.time_calls(draw, device, seconds=seconds).interval
    row = {
        "scenes": len(scene),
        "samples": samples,
        "fused": renderer.fused,
        "per_second": round(len(scene) / interval, 1),
        "peak_memory_mb": round(timing.peak_memory_mb(device), 1),
    }
    if device.type == "cpu":
        started = time.process_time()
        draw()
        row["per_cpu_second"] = round(len(scene) / (time.process_time() - started), 1)
    return row


def write_sheet(path: Path, stages: Sequence[str], device: torch.device, size: int) -> None:
    """Writes eight scenes of each stage as a PNG file, images above masks."""
    import torch

    from benchmarks.sheets import write_png

    colours = torch.tensor([(40, 40, 40), *_MASK_COLOURS], dtype=torch.uint8)
    bands = []
    for stage in stages:
        renderer, scene = scenes(stage, 8, device)
        images, masks, _ = renderer.render(scene, size, samples=3)
        bands += [images.cpu(), colours[masks.cpu().int() % len(colours)]]
    sheet = torch.cat([band.transpose(0, 1).flatten(1, 2) for band in bands])  # [rows, 8 S, 3]
    write_png(path, sheet.numpy())
    print(f"wrote {path}")


def describe(row: Row) -> str:
    """Returns a line for people."""
    line = f"{row['stage']:<6}{row['scenes']:>6} scenes, {row['samples']}x{row['samples']} rays: "
    line += f"{row['per_second']:>10.1f} images/s, {row['peak_memory_mb']:.0f} MB"
    if "per_cpu_second" in row:
        line += f", {row['per_cpu_second']:.1f} images per second of CPU time"
    return line


if __name__ == "__main__":
    run_cli(main)

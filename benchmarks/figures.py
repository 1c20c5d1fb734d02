"""Figures of the paper, for any checkpoint: how a model takes images apart and makes its own.

    python -m benchmarks.figures --checkpoint multi_dsprites --gif --out docs/pictures

decomposition   images taken apart step by step (the paper's figures 4, 10, 11 and 12)
generation      images composed component by component from the prior (figures 3 and 8)
traversal       what single numbers of a slot mean
swap            one slot exchanged between two scenes

Each is written as `CHECKPOINT_KIND.png`; `--gif` adds animations of all but the swap. Equal
arguments give equal files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import positive_int, prepare_device, run_cli
from pretrain.command_line import Parser, output_folder

if TYPE_CHECKING:
    from torch import Tensor

    from genesis_rl.figures import Panel
    from genesis_rl.models.slots import SlotModel

KINDS = ("decomposition", "generation", "traversal", "swap")
SEEN = 64  # images over which a traversal measures how much latents vary
STEP, LAST, GLIDE = 700, 2100, 200  # milliseconds of an animation's frames
SUFFIXES = (".png", ".jpg", ".jpeg")


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Runs the command line; returns the files written."""
    args = _parser().parse_args(argv)
    import torch
    from tqdm import tqdm

    from genesis_rl import load_checkpoint
    from genesis_rl.checkpoint import resolve_checkpoint
    from genesis_rl.inference.cuda import precision_of
    from pretrain.evaluation import to_float

    device = prepare_device(args.device, args.threads)
    model = load_checkpoint(args.checkpoint).to(device)
    kinds = [kind for kind in KINDS if kind in args.kind or "all" in args.kind]
    if "all" in args.kind and model.num_slots < 2:
        kinds.remove("swap")
        print(f"no swap: {type(model).__name__} has one slot, which owns every pixel")
    images = torch.empty(0, model.image_size, model.image_size, 3, dtype=torch.uint8)
    if kinds != ["generation"]:
        images = load_images(args, model.image_size)
    pixels = to_float(images.to(device))
    name = resolve_checkpoint(args.checkpoint).resolve().name
    written = []
    with torch.no_grad(), precision_of("fp32"):  # cuDNN would take TF32 for granted
        for kind in tqdm(kinds, unit="figure", disable=None):
            written += _FIGURES[kind](model, pixels, args, args.out / f"{name}_{kind}")
    print(*written, sep="\n")
    return written


def draw_decomposition(model: SlotModel, images: Tensor, args: Any, stem: Path) -> list[Path]:
    """Draws the first images, taken apart on posterior means."""
    from genesis_rl.figures import building_frames, decomposition_panels

    output = model.decompose(images[: args.rows])
    frames = building_frames(output, images[: args.rows])
    return save(stem, decomposition_panels(images[: args.rows], output), frames, args)


def draw_generation(model: SlotModel, images: Tensor, args: Any, stem: Path) -> list[Path]:
    """Draws samples of the prior."""
    from genesis_rl.figures import building_frames, generation_panels

    noise = prior_noise(model, args.rows, args.seed, mean=args.prior == "mean")
    sample = model.sample(args.rows, noise)
    return save(stem, generation_panels(sample), building_frames(sample), args)


def draw_traversal(model: SlotModel, images: Tensor, args: Any, stem: Path) -> list[Path]:
    """Draws the first image with some of its numbers moved."""
    from genesis_rl.edits import traversal_frames, traversal_panels

    slots = args.slot and [slot - 1 for slot in args.slot]
    steps = [step / 2 for step in range(-4, 5)]
    panels = traversal_panels(
        model,
        images,
        slots=slots,
        dimensions=args.rows,
        deviations=steps if args.gif else steps[::2],
    )
    stills = [_every_second(panel) for panel in panels] if args.gif else panels
    return save(stem, stills, traversal_frames(panels), args, still=GLIDE, last=GLIDE)


def _every_second(panel: Panel) -> Panel:
    return replace(panel, views=panel.views[:, ::2], columns=panel.columns[::2])


def draw_swap(model: SlotModel, images: Tensor, args: Any, stem: Path) -> list[Path]:
    """Draws pairs of the first images, one slot of each exchanged."""
    from genesis_rl.edits import swap_panels

    pairs = min(args.rows, len(images) // 2)
    if not pairs:
        raise ValueError(f"a swap needs at least 2 images, got {len(images)}")
    slots = args.swap and (args.swap[0] - 1, args.swap[1] - 1)
    return save(stem, swap_panels(model, images[: 2 * pairs], slots), [], args)


_FIGURES = {
    "decomposition": draw_decomposition,
    "generation": draw_generation,
    "traversal": draw_traversal,
    "swap": draw_swap,
}


def save(
    stem: Path,
    panels: Sequence[Panel],
    frames: Sequence[Panel],
    args: Any,
    *,
    still: int = STEP,
    last: int = LAST,
) -> list[Path]:
    """Writes a figure and, if asked for and there is one, its animation."""
    from benchmarks import sheets

    picture = stem.with_name(f"{stem.name}.png")
    sheets.write_png(picture, sheets.sheet(panels, args.scale))
    if not (args.gif and frames):
        return [picture]
    animation = stem.with_name(f"{stem.name}.gif")
    pictures = [sheets.sheet([frame], args.scale) for frame in frames]
    sheets.write_gif(animation, pictures, [still] * (len(frames) - 1) + [last])
    return [picture, animation]


def prior_noise(model: SlotModel, count: int, seed: int, *, mean: bool) -> Tensor:
    """Draws the noise of `count` samples on the CPU: the same on all devices.

    With `mean`, only the first slot is drawn; all later ones take the means of their priors, which
    in GENESIS and GENESIS-S follow from the slots before.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, model.num_slots, model.slot_dim, generator=generator)
    if mean:
        noise[:, 1:] = 0
    return noise.to(model.stds.device)


def load_images(args: Any, size: int) -> Tensor:
    """Returns the images that the arguments name, `[N, S, S, 3]` uint8."""
    import torch

    from benchmarks.segmentation import choose_images
    from genesis_rl.checkpoint import read_config
    from pretrain import data

    if args.images:
        files = find_files(args.images)
        return torch.stack([torch.from_numpy(read_image(file, size)) for file in files])
    name = args.dataset or read_config(args.checkpoint)["metadata"].get("dataset")
    if not name:
        raise ValueError(
            f"{args.checkpoint} does not say which dataset it has seen; give --dataset or --images"
        )
    options = {} if args.data_dir is None else {"data_dir": args.data_dir}
    dataset = data.load(name, split=args.split, image_size=size, **options)
    count = min(len(dataset), max(SEEN, 2 * args.rows))
    return dataset.batch(choose_images(len(dataset), count, args.seed)).images


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Returns files as they are given; of folders, their PNG and JPEG files by name."""
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no image file or folder {path}")
    if not found:
        raise FileNotFoundError(f"no PNG or JPEG file in {', '.join(map(str, paths))}")
    return found


def read_image(path: Path, size: int) -> Any:
    """Reads the largest square around the middle of an image file as `[S, S, 3]` uint8 RGB."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable PNG or JPEG file: {error}") from None
    return np.array(ImageOps.fit(image, (size, size), Image.Resampling.BOX))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="multi_dsprites", help="shipped id or folder")
    parser.add_argument("--kind", nargs="+", choices=(*KINDS, "all"), default=["all"])
    parser.add_argument("--dataset", help="default: the one the checkpoint was trained on")
    parser.add_argument("--data-dir", type=Path, help="where the dataset is, if it is on disk")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--images", type=Path, nargs="+", help="PNG and JPEG files or folders, not a dataset"
    )
    parser.add_argument(
        "--rows",
        type=positive_int,
        default=4,
        help="images, samples, pairs, or numbers of a slot (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses images and samples")
    parser.add_argument(
        "--prior",
        choices=("sample", "mean"),
        default="sample",
        help="of slots after the first, in the generation",
    )
    parser.add_argument(
        "--slot",
        type=positive_int,
        nargs="+",
        help="slots to traverse, from 1; default: the first and the largest in the foreground",
    )
    parser.add_argument(
        "--swap",
        type=positive_int,
        nargs=2,
        metavar=("A", "B"),
        help="slots to swap, from 1; default: the largest in the foreground of each scene",
    )
    parser.add_argument("--scale", type=positive_int, help="side of the square that shows a pixel")
    parser.add_argument("--gif", action="store_true", help="animations too")
    parser.add_argument(
        "--out", type=output_folder, default=Path("runs/figures"), help="(%(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive_int, help="CPU threads torch may use")
    return parser


if __name__ == "__main__":
    run_cli(main)

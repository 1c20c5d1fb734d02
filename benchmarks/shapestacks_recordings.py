"""ShapeStacks' example recording: what the ray caster makes of the same tower, room and cameras.

The tower was measured on the recording (`shapestacks_tower.py`). Drawn again from its numbers, both
views are compared with the recorded ones as files (224 pixels) and as models see them (64).

    python -m benchmarks.shapestacks_recordings --picture recordings.png
    python -m benchmarks.shapestacks_recordings --textures shapestacks/mjcf/textures
    python -m benchmarks.shapestacks_recordings --fit

The recording is the published example (rgb, vseg and depth of cameras 1 and 2). Its textures belong
to the release. Without them floor and walls are taken from the recording itself: each pixel divided
by the light that the caster computes there and laid out on the surface. From the *other* view,
wherever both show a surface, that is a test of cameras, surfaces and filters, though not of light
that is the same in both views; from the *same* view it only says what the sampling costs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    argument_parser,
    prepare_device,
    print_rows,
    run_cli,
    sample,
    save_result,
)
from pretrain.command_line import output_file

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchmarks.shapestacks_tower import Block, Seen
    from envs.raycast import Renderer
    from envs.textures import SurfaceTextures

Row = dict[str, Any]
SIZE = 64
_KINDS = ("rgb", "vseg", "depth")


class Compared(NamedTuple):
    """Two views at 64 pixels, and what was drawn in their place.

    Attributes:
        recorded: `[2, 64, 64, 3]` uint8, cropped and resized as the dataset's reader does.
        drawn: The same from the measured numbers.
        tower: `[2, 64, 64]`, the share of a pixel that the recorded tower covers.
        known: `[2, 64, 64]` bool: the room's texture is known all over the pixel.
    """

    recorded: np.ndarray
    drawn: np.ndarray
    tower: np.ndarray
    known: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--recording",
        type=Path,
        default=sample("shapestacks_example"),
        help="folder of the example's pictures (default: in $GENESIS_RL_SAMPLES)",
    )
    parser.add_argument("--textures", type=Path, help="the release's mjcf/textures")
    parser.add_argument("--fit", action="store_true", help="measure the tower again, and print it")
    parser.add_argument("--picture", type=output_file, help="where the sheet goes")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    seen = read_recording(args.recording, device)

    from benchmarks.shapestacks_tower import RECORDED, fit

    tower, values = RECORDED, dict[str, Any]()
    if args.fit:
        tower = fit(seen, plain_renderer(device))
        print(*tower, sep="\n")
        values["fitted"] = [block._asdict() for block in tower]
    values |= {"geometry": geometry_rows(seen, device, tower)}
    print_rows(values["geometry"], width=22)
    sources = [args.textures] if args.textures else ["other view", "same view"]
    compared = {str(source): compare(seen, source, device, tower) for source in sources}
    compared[f"{sources[0]}, direct"] = compare(seen, sources[0], device, tower, direct=True)
    rows = [row for name, pair in compared.items() for row in error_rows(name, pair)]
    print_rows(rows, width=22)
    if args.picture:
        write_sheet(args.picture, next(iter(compared.values())))
    save_result(
        "shapestacks_recordings",
        {**values, "rows": rows},
        device=device,
        seed=None,
        folder=args.results_dir,
        argv=argv,
    )


def read_recording(folder: Path, device: torch.device | str = "cpu") -> Seen:
    """The six pictures of the example."""
    import cv2
    import numpy as np

    from benchmarks.shapestacks_tower import CAMERAS, NATIVE, RECORDED, Seen, depth_scale, scenes

    def read(kind: str, camera: int) -> np.ndarray:
        path = folder / f"{kind}-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.png"
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if picture is None or picture.shape[:2] != (NATIVE, NATIVE):
            raise FileNotFoundError(
                "--recording needs rgb, vseg and depth of ShapeStacks' example, "
                f"{NATIVE} x {NATIVE} pixels, but {path} is "
                f"{'no such picture' if path.is_file() else 'not there'}; name their folder by "
                "--recording DIR, or its parent by $GENESIS_RL_SAMPLES."
            )
        return picture[..., ::-1]

    rgb, parts, depth = (np.stack([read(kind, camera) for camera in CAMERAS]) for kind in _KINDS)
    levels = depth[..., 0].astype(float)
    gone = [block._replace(place=(60.0, 60.0)) for block in RECORDED]
    room = plain_renderer(device).render(scenes([gone]), NATIVE, 1, masks=False, depth=True)
    scale = depth_scale(levels, room.depth.cpu().numpy())
    return Seen(rgb, parts / parts.max(), levels, scale)


def plain_renderer(device: torch.device | str, grey: int = 0) -> Renderer:
    """Draws rooms of one grey."""
    from benchmarks.shapestacks_room import plain_textures
    from envs.raycast import Renderer

    return Renderer(plain_textures(grey), device)


def geometry_rows(seen: Seen, device: torch.device | str, tower: Sequence[Block]) -> list[Row]:
    """Of each view: masks against the recorded ones, depth in world units, colours of blocks.

    Only pixels that a recorded part covers wholly have a depth and a colour of their own; depth is
    compared where their neighbours are of the same block too.
    """
    import cv2
    import numpy as np

    from benchmarks.shapestacks_room import GREY
    from benchmarks.shapestacks_tower import CAMERAS, NATIVE, PARTS, depth_terms, scenes

    drawn = plain_renderer(device).render(scenes([tower]), NATIVE, samples=1, depth=True)
    images, masks, depth = (x.cpu().numpy() for x in drawn)
    lit = plain_renderer(device, GREY).render(scenes([tower]), NATIVE, samples=1, masks=False)
    dark = (masks == 0) & (np.abs(lit.images.cpu().numpy()[..., 0] - GREY) <= 1)
    codes = np.array(((0, 0, 0), *dict.fromkeys(PARTS)))
    part = np.array((0, *(1 + list(dict.fromkeys(PARTS)).index(code) for code in PARTS)))[masks]
    recorded = np.abs(seen.parts[..., None, :] - codes).sum(axis=-1).argmin(axis=-1)
    apart = np.einsum("vhwk,vk->vhw", depth_terms(depth), seen.scale) - seen.depth
    rows = []
    for v, camera in enumerate(CAMERAS):
        inside = (seen.parts[v].max(axis=-1) > 0.99) & (part[v] == recorded[v])
        nearby = np.ones((3, 3), np.uint8)
        even = cv2.erode(masks[v], nearby) == cv2.dilate(masks[v], nearby)
        # A level is -depth ** 2 / scale world units.
        unit = (apart[v] * depth[v] ** 2 / seen.scale[v, 0])[inside & even]
        colour = np.abs(images[v].astype(float) - seen.rgb[v])[inside]
        rows.append(
            {
                "view": f"camera {camera}",
                "IoU": _overlaps(part[v], recorded[v], len(codes)),
                "IoU at 64": _overlaps(_small(part[v]), _small(recorded[v]), len(codes)),
                "IoU of the shadow": _shadow_overlap(dark[v], seen, v),
                "depth too small by": float(unit.mean()),
                "depth error": float(np.abs(unit).mean()),
                "colour error": float(colour.mean()),
            }
        )
    return rows


def _overlaps(drawn: np.ndarray, recorded: np.ndarray, parts: int) -> list[float]:
    pairs = [(drawn == k, recorded == k) for k in range(1, parts)]
    return [float((a & b).sum() / (a | b).sum()) for a, b in pairs]


def _shadow_overlap(dark: np.ndarray, seen: Seen, v: int) -> float:
    """Of the shadow on the white tile under the tower, where nothing else is as grey.

    Args:
        dark: `[224, 224]` bool, where the caster draws surfaces in no more than their own colour.
        seen: The recording.
        v: Which view.
    """
    import cv2
    import numpy as np

    foot = int(seen.parts[v].max(axis=(1, 2)).nonzero()[0].max())
    dark = dark & (np.arange(len(dark))[:, None] > foot - 12)  # walls are as dark, but above
    nearby = cv2.dilate(dark.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    colours = seen.rgb[v].astype(int)
    grey = (np.ptp(colours, axis=-1) < 30) & (colours.min(axis=-1) > 110)
    tile = nearby & grey & (seen.parts[v].max(axis=-1) == 0)
    return _overlaps(dark[tile], colours[tile].mean(axis=-1) < 220, 2)[0]


def _small(mask: np.ndarray) -> np.ndarray:
    """`[64, 64]`: the pixels of a file's mask in the middle of what a model sees as one."""
    from pretrain.data.shapestacks import nearest_indices

    index = nearest_indices(SIZE, exact=True)
    return mask[index][:, index]


def compare(
    seen: Seen,
    source: Path | str,
    device: torch.device | str,
    tower: Sequence[Block],
    direct: bool = False,
) -> Compared:
    """Draws both views.

    Args:
        seen: The recording.
        source: A folder of the release's textures, "other view" or "same view".
        device: Where they are drawn.
        tower: Its blocks.
        direct: Draws 64 pixels with four rays in each, as for an agent, instead of a file's 224
            with one, which the reader crops and resizes.
    """
    import numpy as np

    from benchmarks.shapestacks_room import GREY, plain_textures, recorded_textures
    from benchmarks.shapestacks_tower import NATIVE, scenes
    from envs.raycast import Renderer
    from envs.textures import stack_textures
    from pretrain.data.shapestacks import CROP, preprocess

    size, samples, pixels = (SIZE, 2, CROP) if direct else (NATIVE, 1, NATIVE)

    def draw(textures: SurfaceTextures) -> np.ndarray:
        scene = scenes([tower], pixels)
        return Renderer(textures, device).render(scene, size, samples).images.cpu().numpy()

    if isinstance(source, Path):
        images, known = draw(stack_textures(source, 1024)), np.ones((2, size, size), bool)
    else:
        lit = plain_renderer(device, GREY).render(scenes([tower]), NATIVE, samples=1)
        light = lit.images[..., 0].cpu().numpy() / GREY
        found = [recorded_textures(seen, light[view], view) for view in range(2)]
        if source == "other view":
            found.reverse()
        images = np.stack([draw(textures)[v] for v, (textures, _) in enumerate(found)])
        there = np.stack([draw(textures)[v] for v, (_, textures) in enumerate(found)])
        known = (there == draw(plain_textures(GREY))).all(axis=-1)
    return Compared(
        np.stack([preprocess(view, SIZE) for view in seen.rgb]),
        images if direct else np.stack([preprocess(view, SIZE) for view in images]),
        _shares(seen.parts.max(axis=-1)),
        known if direct else _shares(known) > 0.99,
    )


def _shares(picture: np.ndarray) -> np.ndarray:
    """`[2, 64, 64]` of `[2, 224, 224]` shares."""
    import numpy as np

    from pretrain.data.shapestacks import preprocess

    whole = (255 * picture).round().astype(np.uint8)[..., None].repeat(3, axis=-1)
    return np.stack([preprocess(view, SIZE)[..., 0] / 255 for view in whole])


def error_rows(source: str, compared: Compared) -> list[Row]:
    """Mean absolute errors of both views at 64 pixels, in grey levels, by what is seen."""
    import numpy as np

    apart = np.abs(compared.recorded.astype(float) - compared.drawn).mean(axis=-1)
    tower, known = compared.tower, compared.known
    regions = {
        "tower, whole pixels": tower > 0.999,
        "tower and its edges": (tower > 0) & known,
        "room": (tower == 0) & known,
        "all that is known": known,
    }
    return [
        {
            "textures": source,
            "region": name,
            "share": float(here.mean()),
            "errors": [float(apart[v][here[v]].mean()) for v in range(len(apart))],
        }
        for name, here in regions.items()
    ]


def write_sheet(path: Path, compared: Compared) -> None:
    """Recorded, drawn and, four times as strong, what lies between."""
    import numpy as np

    from benchmarks.shapestacks_tower import CAMERAS
    from benchmarks.sheets import draw, write_png
    from genesis_rl.figures import Panel

    apart = np.abs(compared.recorded.astype(int) - compared.drawn)
    apart[~compared.known & (compared.tower == 0)] = 64
    strong = (4 * apart).clip(0, 255).astype(np.uint8)
    views = np.stack([compared.recorded, compared.drawn, strong], axis=1)
    titles = ["recorded", "drawn", "difference x 4"]
    panel = Panel(views, [f"camera {number}" for number in CAMERAS], titles)
    write_png(path, np.asarray(draw(panel, scale=4)))


if __name__ == "__main__":
    run_cli(main)

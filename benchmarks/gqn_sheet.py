"""GQN rooms: do the generated ones look like the published ones?

Of 25 published frames of five rooms it was measured where camera, objects and lamp are, and in
which colours. Drawn from these numbers, frames can be compared with the published ones pixel by
pixel; drawn at random, only their statistics can.

    python -m benchmarks.gqn_sheet --genuine FOLDER --picture docs/pictures/gqn_sheet.png

FOLDER, by default gqn_rooms_ring_camera_frames in $GENESIS_RL_SAMPLES, holds scene1_ctx0.png to
scene5_gt.png, or the strips validation_1.png to validation_5.png that they were cut from, of
https://github.com/esidorovics/gqn-pytorch/tree/master/images.
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
    positive_int,
    prepare_device,
    print_rows,
    run_cli,
    sample,
    save_result,
)
from benchmarks.gqn_published import PUBLISHED, PublishedRoom
from pretrain.command_line import output_file

if TYPE_CHECKING:
    import numpy as np

    from envs.raycast import Renderer, Rendering
    from envs.rooms import Rooms
    from pretrain.data.make_gqn import Views

VIEWS = ("ctx0", "ctx1", "ctx2", "ctx3", "gt")
REGIONS = ("sky", "walls", "floor", "objects")
_STRIP = (0, 64, 128, 192, 340)  # where a strip's five frames begin
Row = dict[str, Any]


class Comparison(NamedTuple):
    """Published frames and what was drawn in their place.

    Attributes:
        published: `[5, 5, 64, 64, 3]` uint8, rooms and views.
        drawn: The same from the measured numbers.
        region: `[5, 5, 64, 64]` int64, an index into `REGIONS`.
        owner: `[5, 5, 64, 64]` uint8, the object that each pixel belongs to.
    """

    published: np.ndarray
    drawn: np.ndarray
    region: np.ndarray
    owner: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--genuine",
        type=Path,
        default=sample("gqn_rooms_ring_camera_frames"),
        help="folder of published frames (default: in $GENESIS_RL_SAMPLES)",
    )
    parser.add_argument("--textures", choices=("auto", "labmaze", "procedural"), default="auto")
    parser.add_argument("--scenes", type=positive_int, default=100, help="generated ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=output_file, help="where the sheet goes")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    frames = read_frames(args.genuine)

    import torch

    from envs.raycast import Renderer
    from envs.textures import room_textures
    from pretrain.data.make_gqn import render_views

    textures = room_textures(args.textures)
    renderer = Renderer(textures, device)
    compared = compare(frames, renderer)
    generated = render_views(renderer, args.seed, torch.arange(args.scenes, device=device))
    rows = [*region_rows(compared), *frame_rows(compared, generated)]
    print_rows(rows[: len(REGIONS)])
    print_rows(rows[len(REGIONS) :])
    if args.picture:
        write_sheet(args.picture, compared, generated)
    values = {"textures": textures.source, "scenes": args.scenes, "rows": rows}
    save_result(
        "gqn_sheet", values, device=device, seed=args.seed, folder=args.results_dir, argv=argv
    )


def read_frames(folder: Path) -> np.ndarray:
    """`[5, 5, 64, 64, 3]` uint8: rooms and views."""
    import cv2
    import numpy as np

    def read(path: Path) -> np.ndarray:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if picture is None or len(picture) != 64:
            raise FileNotFoundError(
                "--genuine needs scene1_ctx0.png to scene5_gt.png, or the strips validation_1.png "
                f"to validation_5.png, 64 pixels high, but {path} is "
                f"{'no such picture' if path.is_file() else 'not there'}; name their folder by "
                "--genuine DIR, or its parent by $GENESIS_RL_SAMPLES."
            )
        return picture

    rooms = []
    for number in range(1, 6):
        strip = folder / f"validation_{number}.png"
        if strip.is_file():  # its colours are swapped in the file already: BGR is RGB here
            rooms.append([read(strip)[:, left : left + 64] for left in _STRIP])
        else:
            paths = [folder / f"scene{number}_{view}.png" for view in VIEWS]
            rooms.append([read(path)[..., ::-1] for path in paths])
    return np.array(rooms)


def compare(frames: np.ndarray, renderer: Renderer) -> Comparison:
    """Draws the measured rooms."""
    import numpy as np

    drawn = [draw_published(room, renderer) for room in PUBLISHED]
    return Comparison(
        frames,
        np.stack([picture.images.cpu().numpy() for picture in drawn]),
        np.stack([_regions(picture) for picture in drawn]),
        np.stack([picture.masks.cpu().numpy() for picture in drawn]),
    )


def draw_published(room: PublishedRoom, renderer: Renderer) -> Rendering:
    """The five views of a measured room."""
    import math

    import torch

    from envs.rooms import Rooms, ring_camera, room_scene

    angles = torch.tensor([math.radians(angle) for angle in room.angles])
    rooms = Rooms(*(value.repeat(len(angles), *[1] * (value.ndim - 1)) for value in _rooms(room)))
    return renderer.render(room_scene(rooms, ring_camera(angles)), depth=True)


def region_rows(compared: Comparison) -> list[Row]:
    """Colours of the published and the drawn frames, by what is seen."""
    import numpy as np

    rows = []
    for number, name in enumerate(REGIONS):
        here = compared.region == number
        published, drawn = (x[here].astype(float) for x in (compared.published, compared.drawn))
        rows.append(
            {
                "region": name,
                "share": float(here.mean()),
                "published": published.mean(axis=0).round(1).tolist(),
                "drawn": drawn.mean(axis=0).round(1).tolist(),
                "error": float(np.abs(published - drawn).mean()),
            }
        )
    return rows


def frame_rows(compared: Comparison, generated: Views) -> list[Row]:
    """Statistics of frames: the published, the same drawn by us, and generated ones."""
    import numpy as np

    error = np.abs(compared.published.astype(float) - compared.drawn).mean(axis=(2, 3, 4))
    random, owners = (x.flatten(0, 1).cpu().numpy() for x in (generated.frames, generated.masks))
    known = compared.owner.reshape(25, 64, 64)
    return [
        {
            "frames": name,
            "number": len(frames),
            "error": float(error.mean()) if name == "drawn" else None,
            "worst_error": float(error.max()) if name == "drawn" else None,
            "mean": frames.mean(axis=(0, 1, 2)).round(1).tolist(),
            "deviation": frames.std(axis=(0, 1, 2)).round(1).tolist(),
            "covered": float((owner > 0).mean()),
            "areas": object_areas(owner),
        }
        for name, frames, owner in (
            ("published", compared.published.reshape(25, 64, 64, 3), known),
            ("drawn", compared.drawn.reshape(25, 64, 64, 3), known),
            ("generated", random, owners),
        )
    ]


def object_areas(owner: np.ndarray) -> list[float]:
    """The 10th, 50th and 90th percentile of the pixels that an object covers in a frame."""
    import numpy as np

    areas = np.stack([(owner == k).sum(axis=(1, 2)) for k in range(1, 4)])
    return np.percentile(areas[areas > 0], [10, 50, 90]).round().tolist()


def write_sheet(path: Path, compared: Comparison, generated: Views) -> None:
    """Published frames beside the same drawn by us, and generated ones."""
    import numpy as np

    from benchmarks.sheets import draw, write_png
    from genesis_rl.figures import Panel

    random = generated.frames[:20, :].cpu().numpy()
    rows = []
    for room in range(5):
        views = (0, 3) if room != 1 else (1, 2)
        pairs = [x[room, view] for view in views for x in (compared.published, compared.drawn)]
        rows.append([*pairs, *(random[(5 * k + room) % len(random), k] for k in range(4))])
    titles = ["published", "drawn"] * 2 + ["generated"] * 4
    names = [f"{room.floor}, {room.wall}" for room in PUBLISHED]
    panel = Panel(np.array(rows), names, titles)
    write_png(path, np.asarray(draw(panel, scale=2)))


def _rooms(room: PublishedRoom) -> Rooms:
    """A measured room as a batch of one."""
    import torch

    from envs.rooms import MAX_OBJECTS, ROOM_SHAPES, Rooms
    from envs.textures import ROOM_FLOORS, ROOM_WALLS

    absent = MAX_OBJECTS - len(room.objects)
    objects = [*room.objects, *[room.objects[0]] * absent]
    return Rooms(
        shape=torch.tensor([[ROOM_SHAPES.index(thing.shape) for thing in objects]]),
        size=torch.tensor([[thing.size for thing in objects]]),
        colour=torch.tensor([[thing.colour for thing in objects]]),
        place=torch.tensor([[thing.place for thing in objects]]),
        yaw=torch.tensor([[thing.yaw for thing in objects]]),
        present=torch.tensor([[True] * len(room.objects) + [False] * absent]),
        floor=torch.tensor([ROOM_FLOORS.index(room.floor)]),
        wall=torch.tensor([ROOM_WALLS.index(room.wall)]),
        light=torch.tensor([room.lamp]),
    )


def _regions(picture: Rendering) -> np.ndarray:
    """`[V, 64, 64]`: which of the regions each pixel's centre shows."""
    import math

    import torch

    from envs.rooms import CAMERA_HEIGHT, FIELD_OF_VIEW

    up = (1 - (torch.arange(64) + 0.5) / 32) * math.tan(math.radians(FIELD_OF_VIEW / 2))
    depth, owner = picture.depth.cpu(), picture.masks.cpu()
    floor = CAMERA_HEIGHT + depth * up[:, None] < 1e-3
    region = torch.where(depth.isinf(), 0, torch.where(floor, 2, 1))
    return torch.where(owner > 0, 3, region).numpy()


if __name__ == "__main__":
    run_cli(main)

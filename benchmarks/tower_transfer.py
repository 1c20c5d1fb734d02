"""Tower transfer: does what is learnt on generated towers hold for genuine ones?

A small convolutional network learns to count the blocks of generated towers (`envs.towers`, drawn
by `envs.raycast`). It is then tested on other generated towers and on genuine ShapeStacks images,
those of a public course subset: the better the look-alike, the nearer the two accuracies.

What it knows of the genuine images is how they were chosen (each height, and each level at which a
tower breaks a rule, equally often; a third cubes) and that they are JPEG files. Floors and walls
are procedural, and so that it does not rely on them every copy has other colours and another scale.

    python -m benchmarks.tower_transfer --genuine shapestacks_real_2000_64px.npz
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from pretrain.command_line import output_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from envs.raycast import Renderer
    from envs.textures import SurfaceTextures
    from envs.tower_blocks import Towers

SIZE = 64
GENUINE = "shapestacks_real_2000_64px.npz"
HEIGHTS = range(2, 7)
_CELLS = 20  # five heights of stable towers, fifteen heights and levels of unstable ones
_GOAL = 0.85  # of the accuracy on generated towers


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    parser = argument_parser(__doc__)
    samples = os.environ.get("GENESIS_RL_SAMPLES")
    parser.add_argument(
        "--genuine",
        type=Path,
        default=Path(samples) / GENUINE if samples else None,
        help=f"genuine images: {GENUINE} (default: the one in $GENESIS_RL_SAMPLES)",
    )
    parser.add_argument("--textures", help="the release's mjcf/textures (default: procedural)")
    parser.add_argument("--train", type=positive_int, default=12_000, help="images to learn from")
    parser.add_argument("--test", type=positive_int, default=1500, help="generated test images")
    parser.add_argument("--epochs", type=positive_int, default=10)
    parser.add_argument(
        "--rays", type=positive_int, default=128, help="to an image's side; 196 is the files' own"
    )
    parser.add_argument("--variants", type=positive_int, default=8, help="of each texture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--picture",
        type=output_file,
        default=Path("runs/tower_transfer.png"),
        help="20 generated and 20 genuine towers",
    )
    args = parser.parse_args(argv)
    return measure(args, argv)


def measure(args: Any, argv: Sequence[str] | None) -> dict[str, Any]:
    """Generates, learns, tests, and reports."""
    import torch

    from envs.raycast import Renderer
    from envs.textures import stack_textures

    device = prepare_device(args.device, args.threads)
    genuine, labels = load_genuine(args.genuine)
    plain = stack_textures(args.textures, 256)
    started = time.perf_counter()
    wide = Renderer(vary(plain, args.variants, args.seed), device)
    train = generate(args.train, 2 * args.seed, wide, args.rays, "training towers")
    test = generate(args.test, 2 * args.seed + 1, Renderer(plain, device), args.rays, "test towers")
    torch.manual_seed(args.seed)
    net = learn(train[0], train[1].height - HEIGHTS[0], args.epochs, device)

    heights = labels["total_height"] - HEIGHTS[0]
    right = predict(net, genuine.to(device)).cpu() == heights
    right_generated = predict(net, test[0]).cpu() == test[1].height.cpu() - HEIGHTS[0]
    values = {
        "train_images": args.train,
        "epochs": args.epochs,
        "rays": args.rays,
        "textures": plain.source,
        "generated": {"images": args.test, "accuracy": _mean(right_generated)},
        "genuine": {"images": len(right), "accuracy": _mean(right)} | by_label(right, labels),
        "ratio": round(float(right.double().mean() / right_generated.double().mean()), 4),
        "goal": _GOAL,
        "seconds": round(time.perf_counter() - started, 1),
    }
    save_sheet(args.picture, test[0][:20].cpu(), genuine[torch.randperm(len(genuine))[:20]])
    print(f"accuracy of the height: generated {values['generated']['accuracy']:.1%}", end=", ")
    print(f"genuine {values['genuine']['accuracy']:.1%}, ratio {values['ratio']:.1%}")
    print(f"20 generated and 20 genuine towers: {args.picture}")
    return save_result(
        "tower_transfer", values, device=device, seed=args.seed, folder=args.results_dir, argv=argv
    )


def load_genuine(path: Path | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Genuine images, `[N, 64, 64, 3]` uint8, and their labels, `[N]` int64, by name."""
    import numpy as np
    import torch

    from pretrain.data.pixels import decode_rgb

    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the genuine images are an npz file of jpeg, offsets, total_height and other labels, "
            f"given by --genuine FILE, but {f'no {path}' if path else 'none'} was found."
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    lacking = [name for name in ("jpeg", "offsets", "total_height") if name not in arrays]
    if lacking:
        raise ValueError(
            f"{path} needs jpeg, offsets and total_height; it lacks {', '.join(lacking)}."
        )
    jpeg, offsets = arrays.pop("jpeg"), arrays.pop("offsets").tolist()
    pieces = [jpeg[start:stop].tobytes() for start, stop in itertools.pairwise(offsets)]
    images = np.stack([decode_rgb(piece, SIZE) for piece in pieces])
    return torch.from_numpy(images), {n: torch.from_numpy(a).long() for n, a in arrays.items()}


# --- generated towers -------------------------------------------------------------------------


def generate(
    count: int, seed: int, renderer: Renderer, rays: int, what: str
) -> tuple[Tensor, Towers]:
    """Images, `[N, 64, 64, 3]` uint8 on the renderer's device, and the towers that they show.

    Each tower is seen once, from a camera that is uniform over the sixteen.
    """
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    from envs.counter_rng import bits, fold, integers
    from envs.towers import VIEWS, stack_camera, tower_scene

    towers = balanced_towers(count, seed)
    random = bits(fold(seed, torch.arange(count)), 3)
    camera = stack_camera(1 + integers(random[:, 0], VIEWS), crop=True)
    floor, wall = integers(random[:, 1], renderer.floors), integers(random[:, 2], renderer.walls)
    scene = tower_scene(replace(towers, floor=floor, wall=wall), camera)
    images = []
    with tqdm(total=count, unit=" image", desc=what, disable=None) as bar:
        for start in range(0, count, 512):
            part = scene[start : start + 512]
            fine = renderer.render(part, size=rays, samples=1, masks=False).images
            small = F.interpolate(
                fine.permute(0, 3, 1, 2).float(), (SIZE, SIZE), mode="bilinear", antialias=True
            )
            images.append(small.round().byte().permute(0, 2, 3, 1))
            bar.update(len(part))
    return compress(torch.cat(images), seed), towers


def balanced_towers(count: int, seed: int) -> Towers:
    """Towers of which each height, and each height and level of violation, is equally frequent."""
    import torch

    from envs.towers import draw_towers

    quota = -(-count // _CELLS)
    towers = draw_towers(torch.arange(16 * max(count, 200)), seed, shapes="both")
    cell = towers.height * 6 + towers.level
    order = cell.argsort(stable=True)
    first = torch.searchsorted(cell[order], cell[order])  # where the row's own cell begins
    kept = order[torch.arange(len(order)) - first < quota]
    generator = torch.Generator().manual_seed(seed)
    return towers[kept[torch.randperm(len(kept), generator=generator)[:count]]]


def compress(images: Tensor, seed: int) -> Tensor:
    """The same images after JPEG compression, of a quality between 80 and 95 each."""
    import cv2
    import numpy as np
    import torch

    from pretrain.data.pixels import decode_rgb

    qualities = np.random.default_rng(seed).integers(80, 96, len(images)).tolist()
    pictures = np.empty(images.shape, np.uint8)
    for row, (picture, quality) in enumerate(zip(images.cpu().numpy(), qualities, strict=True)):
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        pictures[row] = decode_rgb(data.tobytes(), SIZE)
    return torch.from_numpy(pictures).to(images.device)


def vary(textures: SurfaceTextures, copies: int, seed: int) -> SurfaceTextures:
    """Each texture several times: itself, and others of its kind in other colours and scales."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(seed)

    def another(texture: Tensor) -> Tensor:
        side = len(texture)
        zoom, turn = 1 + 2 * torch.rand(2, generator=generator)
        part = texture[: int(side / zoom), : int(side / zoom)].permute(2, 0, 1)[None].float()
        grown = F.interpolate(part, (side, side), mode="bilinear", antialias=True)[0]
        gain = 0.6 + 0.8 * torch.rand(3, 1, 1, generator=generator)
        grown = (grown * gain).clamp(0, 255).round().byte().permute(1, 2, 0)
        return grown.transpose(0, 1) if turn > 2 else grown

    surfaces = [
        torch.cat([s, *(torch.stack([another(t) for t in s]) for _ in range(copies - 1))])
        for s in (textures.floors, textures.walls)
    ]
    return textures._replace(floors=surfaces[0], walls=surfaces[1])


# --- the network ------------------------------------------------------------------------------


def learn(images: Tensor, classes: Tensor, epochs: int, device: torch.device) -> nn.Module:
    """A small convolutional network that tells these classes apart."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from tqdm import trange

    widths = (3, 32, 64, 96, 128)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after)]
        layers += [nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 16, len(HEIGHTS)))
    net = net.to(device)
    images, classes = images.to(device), classes.to(device)
    steps = epochs * -(-len(images) // 64)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in trange(epochs, unit=" epoch", desc="learning", disable=None):
        for rows in torch.randperm(len(images), device=device).split(64):
            loss = F.cross_entropy(net(shake(images[rows])), classes[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def shake(images: Tensor) -> Tensor:
    """`[B, 3, H, W]` for the network: mirrored at random, brightness and colours a little off."""
    import torch

    from pretrain.evaluation import to_float

    x = to_float(images)
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    x = torch.where(mirrored, x.flip(3), x)
    gain = 0.8 + 0.4 * torch.rand(len(x), 3, 1, 1, device=x.device)
    shift = 0.1 * torch.randn(len(x), 1, 1, 1, device=x.device)
    return (x * gain + shift + 0.02 * torch.randn_like(x)) - 0.5


def predict(net: nn.Module, images: Tensor) -> Tensor:
    """`[N]` the class of each of `[N, H, W, 3]` uint8 images."""
    import torch

    from pretrain.evaluation import to_float

    with torch.no_grad():
        x = to_float(images) - 0.5
        return torch.cat([net(part).argmax(dim=1) for part in x.split(256)])


# --- the report -------------------------------------------------------------------------------


def by_label(right: Tensor, labels: dict[str, Tensor]) -> dict[str, Any]:
    """Accuracies of the genuine images by each of their labels."""
    names = [n for n in ("total_height", "shapeset", "type", "cam_angle") if n in labels]
    return {
        name: {str(v): _mean(right[labels[name] == v]) for v in labels[name].unique().tolist()}
        for name in names
    }


def save_sheet(path: Path, generated: Tensor, genuine: Tensor, scale: int = 2) -> None:
    """Saves a picture with generated towers above and genuine ones below."""
    import cv2
    import numpy as np

    from benchmarks.sheets import write_png

    def block(images: Tensor, title: str) -> np.ndarray:
        tiles = images.numpy().repeat(scale, 1).repeat(scale, 2)
        tiles = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)))
        side = tiles.shape[1]
        grid = tiles.reshape(-1, 10, side, side, 3).swapaxes(1, 2).reshape(-1, 10 * side, 3)
        head = np.zeros((24, grid.shape[1], 3), np.uint8)
        cv2.putText(head, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
        return np.concatenate([head, grid])

    sheet = np.concatenate([block(generated, "generated"), block(genuine, "genuine")])
    write_png(path, sheet)


def _mean(right: Tensor) -> float:
    return round(right.double().mean().item(), 4)


if __name__ == "__main__":
    run_cli(main)

"""Do slots follow their objects, from frame to frame and past each other?

In `benchmarks/crossing.py` sprites cross. The slot that has an object is the one whose pixels have
the highest intersection over union with the object's; an identity switch is a frame in which some
object has another slot number than when it was last seen. Counted without and with alignment
(`genesis_rl/alignment.py`), for a checkpoint and for an exact encoder that knows the scene but
shuffles its slots.

    python -m benchmarks.slot_identity --checkpoint multi_dsprites
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SEEN = 0.005  # an object counts while it shows this share of the frame's pixels, 20 of 64 x 64
BATCH = 64  # frames that are encoded and aligned at once, when these are timed
FOUND = 0.5  # and, in the second count, while its slot has this intersection over union with it


class Film(NamedTuple):
    """Episodes as an encoder sees them. E episodes, T frames, K slots, D numbers, S x S pixels.

    Attributes:
        latents: `[E, T, K, D]`.
        labels: `[E, T, S, S]` uint8, the slot of each pixel.
        true: `[E, T, S, S]` uint8, the object of each pixel; 0 is the background.
        mask_size: How many of the D numbers say where.
        last_mask_counts: As `SlotAligner` has it.
    """

    latents: Tensor
    labels: Tensor
    true: Tensor
    mask_size: int
    last_mask_counts: bool


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line; returns the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--checkpoint", default="multi_dsprites", help="a shipped id or a folder")
    parser.add_argument("--objects", type=positive_int, default=3, help="sprites, up to 7")
    parser.add_argument("--episodes", type=positive_int, default=64)
    parser.add_argument("--frames", type=positive_int, default=65, help="of an episode")
    parser.add_argument("--samples", action="store_true", help="posterior samples, not means")
    parser.add_argument("--seed", type=int, default=0, help="of episodes, shuffling and samples")
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    exact = exact_film(args.objects, args.episodes, args.frames, args.seed)
    film, about = model_film(args, device)
    rows = [
        {"encoder": name, **row}
        for name, seen in (("exact", exact), (args.checkpoint, film))
        for row in score(seen, args.objects, args.seed)
    ]
    print_table(rows)
    cost = time_alignment(args.checkpoint, device)
    print(f"{BATCH} frames: {cost['encode_ms']:.2f} ms to encode, {cost['align_ms']:.2f} to align")
    values = {
        **{name: getattr(args, name) for name in ("checkpoint", "objects", "episodes", "frames")},
        "samples": args.samples,
        **about,
        "rows": rows,
        **cost,
    }
    return save_result(
        "slot_identity", values, device=device, seed=args.seed, folder=args.results_dir, argv=argv
    )


def exact_film(objects: int, episodes: int, frames: int, seed: int, size: int = 64) -> Film:
    """Returns what an encoder without fault sees: a slot for all things in sight, one to spare.

    A slot says where its object is and what colour it has; the background's and empty ones are
    nowhere. What is hidden has no slot. Every frame has its slots in another order.
    """
    import torch

    from benchmarks.crossing import crossing
    from envs.sprites_render import render_sprites

    scenes = crossing(_episodes(episodes, seed), frames, objects)
    true = render_sprites(scenes, size).masks
    slots, count = objects + 2, episodes * frames
    shown = torch.stack([(true == n).flatten(1).any(dim=1) for n in range(1, objects + 1)], dim=1)
    latents = torch.zeros(count, slots, 5)
    colours = torch.cat([scenes.background[:, None], scenes.colour], dim=1)
    latents[:, :-1, 2:] = colours / 255 + 0.5  # an empty slot is no black one
    latents[:, 1:-1, :2] = scenes.centre
    latents[:, 1:-1] *= shown[:, :, None]

    order = _orders(count, slots, seed)
    latents = latents.gather(1, order[:, :, None].expand_as(latents))
    labels = order.argsort(dim=1).gather(1, true.flatten(1).long()).view_as(true)
    shape = episodes, frames
    return Film(
        latents.view(*shape, slots, 5),
        labels.to(torch.uint8).view(*shape, size, size),
        true.view(*shape, size, size),
        mask_size=2,
        last_mask_counts=True,
    )


def model_film(args: Any, device: torch.device) -> tuple[Film, dict[str, Any]]:
    """Returns what a checkpoint sees, and what else is to be said about it."""
    import torch
    from tqdm import tqdm

    from benchmarks.crossing import crossing
    from benchmarks.segmentation import decompose
    from envs.sprites_render import render_sprites
    from genesis_rl import load_checkpoint
    from genesis_rl.checkpoint import checkpoint_sha256, resolve_checkpoint
    from genesis_rl.metrics import segment, segmentation_scores
    from genesis_rl.wrappers.latents import drops_last_mask
    from pretrain.evaluation import to_float

    model = load_checkpoint(args.checkpoint).to(device).eval()
    size, slots, dims = model.image_size, model.num_slots, model.slot_dim
    scenes = crossing(_episodes(args.episodes, args.seed), args.frames, args.objects)
    images, true = render_sprites(scenes, size)
    noise = None
    if args.samples:
        generator = torch.Generator().manual_seed(args.seed)
        noise = torch.randn(len(images), slots, dims, generator=generator)
    latents, labels, scores = [], [], []
    for start in tqdm(range(0, len(images), args.frames), unit="episode", disable=None):
        part = slice(start, start + args.frames)
        pixels = to_float(images[part].to(device))
        output = decompose(model, pixels, None if noise is None else noise[part])
        predicted = segment(output.log_masks)
        scores.append(segmentation_scores(true[part].to(device).long(), predicted).ari_fg)
        latents.append(output.latents.cpu())
        labels.append(predicted.to(torch.uint8).cpu())
    shape = args.episodes, args.frames
    film = Film(
        torch.cat(latents).view(*shape, slots, dims),
        torch.cat(labels).view(*shape, size, size),
        true.view(*shape, size, size),
        model.latent_sizes[0],
        not drops_last_mask(model.latent_sizes),
    )
    about = {
        "sha256": checkpoint_sha256(resolve_checkpoint(args.checkpoint)),
        "slots": slots,
        "ari_fg": round(float(torch.cat(scores).mean()), 4),
    }
    return film, about


def score(film: Film, objects: int, seed: int) -> list[dict[str, Any]]:
    """Counts identity switches: of all objects in sight, and of those that are segmented well.

    Returns:
        Two rows; rates are shares of frames. `aligned` is what the wrappers do, the next three are
        what they would do with a part of it: mask latents alone, component latents alone, both but
        as of the last frame. `shuffled` is the aligned rate after a shuffle of all slots, `best`
        that of a renumbering which is told where the objects are: what is left are objects that
        share a slot.
    """
    owner, overlap, area = owners(film, objects)
    in_sight = area >= SEEN * film.true[0, 0].numel()
    slots = film.latents.shape[2]
    order = _orders(owner.shape[0] * owner.shape[1], slots, seed + 1).view(*owner.shape[:2], slots)
    shuffled = film._replace(
        latents=film.latents.gather(2, order[..., None].expand_as(film.latents)),
        last_mask_counts=True,  # the last slot is any
    )
    size = film.mask_size
    what = film._replace(latents=film.latents[..., size:], mask_size=0, last_mask_counts=True)
    numbers = {
        "unaligned": owner,
        "aligned": renumber(film).gather(2, owner),
        "where": renumber(film._replace(latents=film.latents[..., :size])).gather(2, owner),
        "what": renumber(what).gather(2, owner),
        "last_frame": renumber(film, kept=0.0).gather(2, owner),
        "shuffled": renumber(shuffled).gather(2, order.argsort(dim=2).gather(2, owner)),
    }
    rows = []
    for counted, seen in (("in sight", in_sight), ("found", in_sight & (overlap > FOUND))):
        rates = {name: round(switch_rate(number, seen), 5) for name, number in numbers.items()}
        rates["best"] = round(switch_rate(best_numbers(owner, seen, slots), seen), 5)
        share = round(float(seen.float().mean()), 4)
        rows.append({"counted": counted, "share": share, **rates})
    return rows


def owners(film: Film, objects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `[E, T, N]` each: an object's slot, the overlap of the two, the object's pixels."""
    import torch

    slots = film.latents.shape[2]
    pairs = (film.true.long() * slots + film.labels).flatten(0, 1).flatten(1)
    counts = torch.zeros(len(pairs), (objects + 1) * slots, dtype=torch.long)
    counts.scatter_add_(1, pairs, torch.ones_like(pairs))
    counts = counts.view(*film.true.shape[:2], objects + 1, slots).float()
    area, covered = counts.sum(dim=3, keepdim=True), counts.sum(dim=2, keepdim=True)
    overlap = (counts / (area + covered - counts).clamp(min=1))[:, :, 1:]
    best = overlap.max(dim=3)
    return best.indices, best.values, area[:, :, 1:, 0]


def renumber(film: Film, kept: float = 0.9) -> Tensor:
    """Returns `[E, T, K]` the number that alignment gives to each inferred slot."""
    import torch

    from genesis_rl.alignment import SlotAligner

    episodes, frames, slots, _ = film.latents.shape
    aligner = SlotAligner(
        slots, film.mask_size, episodes, last_mask_counts=film.last_mask_counts, kept=kept
    )
    numbers = []
    for time in range(frames):
        aligner(film.latents[:, time], begins=range(episodes) if time == 0 else ())
        assert aligner.order is not None
        numbers.append(aligner.order.argsort(dim=1))
    return torch.stack(numbers, dim=1)


def switch_rate(number: Tensor, seen: Tensor) -> float:
    """Returns the share of frames with a switch, the first of an episode left out.

    Args:
        number: `[E, T, N]` of the slot that has an object.
        seen: `[E, T, N]` bool: the object counts. What it had when it last did is compared.
    """
    import torch

    last = torch.full_like(number[:, 0], -1)
    switched = []
    for now, counts in zip(number.unbind(1), seen.unbind(1), strict=True):
        switched.append((counts & (last >= 0) & (last != now)).any(dim=1))
        last = torch.where(counts, now, last)
    return float(torch.stack(switched[1:], dim=1).float().mean())


def best_numbers(owner: Tensor, seen: Tensor, slots: int) -> Tensor:
    """Returns `[E, T, N]` the numbers of a permutation that is told which slot has which object.

    Frame by frame it keeps as many objects as can be at the number that they had last.
    """
    import torch

    from genesis_rl.alignment import assign

    last = torch.full_like(owner[:, 0], -1)
    told = []
    for now, counts in zip(owner.unbind(1), seen.unbind(1), strict=True):
        wanted = (counts & (last >= 0)).float()
        cell = now * slots + last.clamp(min=0)
        cost = torch.zeros(len(now), slots * slots).scatter_add_(1, cell, -wanted)
        numbers = assign(cost.view(-1, slots, slots)).gather(1, now)
        last = torch.where(counts, numbers, last)
        told.append(numbers)
    return torch.stack(told, dim=1)


def time_alignment(checkpoint: str, device: torch.device, seconds: float = 1.0) -> dict[str, Any]:
    """Returns what a step of `BATCH` environments costs without alignment, and what that adds."""
    import torch

    from benchmarks.timing import time_calls
    from genesis_rl.alignment import SlotAligner
    from genesis_rl.encoder import GenesisEncoder

    encoder = GenesisEncoder.from_checkpoint(checkpoint, str(device))
    side = encoder.image_size
    images = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8, device=device)
    latents = encoder.encode(images)
    aligner = SlotAligner(encoder.num_slots, encoder.latent_sizes[0], BATCH)
    encode = time_calls(lambda: encoder.encode(images), device, seconds=seconds).latency
    align = time_calls(lambda: aligner(latents), device, seconds=seconds).latency
    return {"encode_ms": round(1e3 * encode, 3), "align_ms": round(1e3 * align, 3)}


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the rates of identity switches."""
    rates = [name for name in rows[0] if name not in ("encoder", "counted", "share")]
    print(f"{'frames with a switch':<40}{'objects':>9}" + "".join(f"{name:>11}" for name in rates))
    for row in rows:
        name = f"{row['encoder']}, objects {row['counted']}"
        cells = "".join(f"{row[rate]:>11.2%}" for rate in rates)
        print(f"{name:<40}{row['share']:>9.1%}{cells}")


def _episodes(count: int, seed: int) -> Tensor:
    import torch

    from envs.counter_rng import fold

    return fold(seed, torch.arange(count))


def _orders(count: int, slots: int, seed: int) -> Tensor:
    """`[count, K]` permutations that only the seed decides."""
    import torch

    from envs.counter_rng import bits, fold

    keys = fold(fold(0x0DE5, seed), torch.arange(count))
    return bits(keys, slots).argsort(dim=1)


if __name__ == "__main__":
    run_cli(main)

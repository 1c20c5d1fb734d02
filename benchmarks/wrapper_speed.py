"""Wrappers: what is lost between an environment, the encoder and an agent, and does it stay so?

Three kinds of rows. `vecenv` steps natively vectorised environments in `GenesisVecEnvWrapper`,
beside the same environments alone and the encoder alone, in turns: the slower of the two is what
could be had if they worked at the same time. They cannot, since actions need latents and latents
need frames, so `lost_ms` is what a step takes beyond both one after the other; `encoded` counts its
frames, terminal ones among them, which the encoder alone is not given. On a GPU there is a row for
frames that go through main memory and one for frames that stay on the device.
`singles` encodes the frames of that many environments one by one, as wrappers around each do, and
together. `varying` encodes batches of N to 2 N frames, as terminal frames make them: how many
graphs are captured, how much longer than the median does the slowest call take after the first
twentieth, and do main and device memory grow?

    python -m benchmarks.wrapper_speed
    python -m benchmarks.wrapper_speed --no-graphs
    python -m benchmarks.wrapper_speed --device cpu --envs 8 --singles 4 --calls 200
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from benchmarks.speed_rows import Row, checkpoint_or_untrained, resolve_precision
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch

ROUNDS = 5
WARM = {"cpu": 3, "cuda": 60}  # calls: what is a habit by then has its graph


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--checkpoint", help="shipped id or folder (default: an untrained GENESIS)")
    parser.add_argument("--slots", type=positive_int, default=5, help="of the untrained GENESIS")
    parser.add_argument("--env-id", default="GenesisRL/SpriteGoal-v0")
    parser.add_argument("--envs", type=positive_int, nargs="+", default=[256, 1024])
    parser.add_argument("--singles", type=positive_int, default=64, help="environments one by one")
    parser.add_argument("--calls", type=positive_int, default=100_000, help="of varying size")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    parser.add_argument("--seconds", type=positive_number, default=5.0, help="roughly, per row")
    parser.add_argument(
        "--no-graphs", action="store_true", help="launch the environments' kernels one by one"
    )
    args = parser.parse_args(argv)
    device = prepare_device(args.device, args.threads)
    common: Row = {"device": str(device), "precision": args.precision}
    with checkpoint_or_untrained(args.checkpoint, args.slots) as checkpoint:
        rows = [
            vecenv_row(
                checkpoint,
                args.env_id,
                count,
                common,
                args.seconds,
                on_device=on_device,
                graphs=not args.no_graphs,
            )
            for count in args.envs
            for on_device in ((False, True) if device.type == "cuda" else (False,))
        ]
        rows.append(singles_row(checkpoint, args.singles, common, args.seconds))
        rows.append(varying_row(checkpoint, args.singles, common, args.calls))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    values = {
        "rows": rows,
        "checkpoint": args.checkpoint or "untrained",
        "slots": None if args.checkpoint else args.slots,
        "precision": resolve_precision(args.precision, device),
        "graphs": not args.no_graphs,
    }
    save_result("wrapper_speed", values, device=device, seed=0, folder=args.results_dir, argv=argv)


def vecenv_row(
    checkpoint: str,
    env_id: str,
    count: int,
    common: Row,
    seconds: float,
    *,
    on_device: bool = False,
    graphs: bool = True,
) -> Row:
    """Compares wrapped environments with the slower of environments and encoder; frames a second.

    Args:
        checkpoint: Of the encoder.
        env_id: Of the environments.
        count: How many there are.
        common: Device and precision.
        seconds: Roughly, for all.
        on_device: Whether frames stay there, or go through main memory, as they must for
            Stable-Baselines3 without the wrapper.
        graphs: Whether the environments may replay CUDA graphs.
    """
    import gymnasium as gym
    import numpy as np
    import torch

    import envs  # noqa: F401  registers the ids
    from benchmarks.timing import synchronise
    from genesis_rl import GenesisEncoder, GenesisVecEnvWrapper
    from genesis_rl.wrappers.sb3_adapter import SB3VecEnv

    encoder = GenesisEncoder.from_checkpoint(checkpoint, **common)
    device = torch.device(common["device"])

    def make() -> SB3VecEnv:
        env = gym.make_vec(
            env_id,
            num_envs=count,
            vectorization_mode="vector_entry_point",
            autoreset_mode="SameStep",
            device=common["device"],
            tensors=on_device,
            graphs=graphs,
            image_size=encoder.image_size,
        )
        venv = SB3VecEnv(env, copy=False)
        venv.seed(0)
        return venv

    bare, slots = make(), GenesisVecEnvWrapper(make(), checkpoint, **common)
    frames = torch.as_tensor(bare.reset()).permute(0, 3, 1, 2)
    slots.reset()
    generator = np.random.default_rng(0)
    actions = generator.integers(0, bare.action_space.n, (64, count))  # type: ignore[attr-defined]
    turn = steps = 0

    def step(venv: Any) -> None:
        nonlocal turn
        turn += 1
        venv.step(actions[turn % len(actions)])

    def alone() -> None:
        step(bare)
        synchronise(device)

    def together() -> None:
        nonlocal steps
        steps += 1
        step(slots)

    encoded = slots.num_encoded
    per_second = in_turns(
        {"env": alone, "encoder": lambda: encoder.encode(frames).cpu(), "together": together},
        count,
        seconds,
        warm=WARM[device.type],
    )
    bare.close()
    slots.close()
    ms = {f"{name}_ms": round(count / rate * 1e3, 3) for name, rate in per_second.items()}
    of_slower = per_second["together"] / min(per_second["env"], per_second["encoder"])
    return {
        "what": "vecenv",
        "envs": count,
        "frames": "device" if on_device else "memory",
        **per_second,
        **ms,
        "lost_ms": round(ms["together_ms"] - ms["env_ms"] - ms["encoder_ms"], 3),
        "encoded": round((slots.num_encoded - encoded) / steps, 1),  # frames a step
        "of_slower": round(of_slower, 4),
    }


def singles_row(checkpoint: str, count: int, common: Row, seconds: float) -> Row:
    """Compares frames encoded one by one, by wrappers around each, with all of them together."""
    import numpy as np
    import torch
    from gymnasium import spaces

    from genesis_rl import GenesisEncoder
    from genesis_rl.wrappers.latents import LatentObserver, LatentOptions

    size = GenesisEncoder.from_checkpoint(checkpoint, **common).image_size
    frames = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    observer = LatentObserver("wrapper_speed", checkpoint, LatentOptions(**common), space)

    def one_by_one() -> None:
        for frame in frames:
            observer(frame[None])

    calls = {"singles": one_by_one, "together": lambda: observer(frames)}
    warm = WARM[torch.device(common["device"]).type]
    per_second = in_turns(calls, count, seconds, warm=warm)
    times = per_second["together"] / per_second["singles"]
    return {"what": "singles", "envs": count, **per_second, "times": round(times, 2)}


def varying_row(checkpoint: str, count: int, common: Row, calls: int) -> Row:
    """Encodes batches of N to 2 N frames, and watches graphs, stalls and memory."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from genesis_rl import GenesisEncoder

    encoder = GenesisEncoder.from_checkpoint(checkpoint, **common)
    size = encoder.image_size
    images = torch.randint(0, 256, (2 * count, 3, size, size), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    counts = np.random.default_rng(0).integers(count, 2 * count + 1, calls).tolist()
    warm, seconds, memory = calls // 20, [], {}
    before = captures(encoder)
    for i, batch in enumerate(tqdm([count, count, *counts], desc="varying", disable=None)):
        started = time.perf_counter()
        encoder.encode(images[:batch]).cpu()
        if i >= warm:
            seconds.append(time.perf_counter() - started)
        if i == warm:
            memory = memory_in_use(encoder.device)
    median = statistics.median(seconds)
    grown = {
        f"{name}_growth": round(now / memory[name] - 1, 5)
        for name, now in memory_in_use(encoder.device).items()
    }
    return {
        "what": "varying",
        "envs": count,
        "calls": calls,
        "captures": captures(encoder) - before,
        "median_ms": round(median * 1e3, 4),
        "slowest": round(max(seconds) / median, 2),  # of the median
        "above_3": sum(one > 3 * median for one in seconds),
        **grown,
    }


def in_turns(
    calls: dict[str, Callable[[], object]], frames: int, seconds: float, warm: int = 3
) -> dict[str, float]:
    """Times calls in turns, so that all meet the same machine; returns frames a second.

    Args:
        calls: Each ends when its result is in main memory.
        frames: In each call.
        seconds: Roughly, for all.
        warm: Calls of each before, which compile, capture and grow buffers.
    """
    for call in calls.values():
        for _ in range(warm):
            call()
    rates: dict[str, list[float]] = {name: [] for name in calls}
    share = seconds / ROUNDS / len(calls)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - started < share:
                call()
                done += 1
            rates[name].append(done * frames / (time.perf_counter() - started))
    return {name: round(statistics.median(rate), 1) for name, rate in rates.items()}


def captures(encoder: Any) -> int:
    """How many CUDA graphs the encoder has captured; none on a CPU."""
    return int(getattr(encoder._start(), "captures", 0))


def memory_in_use(device: torch.device | None) -> dict[str, int]:
    """Bytes in use now: of main memory (Linux) and of the device."""
    import os

    import torch

    found = {}
    accounts = Path("/proc/self/statm")
    if accounts.exists():
        found["main"] = int(accounts.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if device is not None and device.type == "cuda":
        found["device"] = torch.cuda.memory_reserved(device)
    return found


if __name__ == "__main__":
    run_cli(main)

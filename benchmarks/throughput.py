"""Throughput: how fast are encoding, training, environments and wrapper, and why not faster?

Each speed stands beside its arithmetic floor: the FLOP of the model, counted, over the matrix peak
of the device, measured in the same run by a square product (2048 on a CPU, 8192 on a GPU). On a
shared machine that fraction is the number to compare, not the speed.

    python -m benchmarks.throughput --what encode wrapper --device cpu --threads 2
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import argument_parser, positive_int, prepare_device, run_cli, save_result
from benchmarks.speed_rows import (
    Row,
    checkpoint_or_untrained,
    floor_of,
    resolve_precision,
    speed_row,
)
from pretrain.command_line import positive_number

if TYPE_CHECKING:
    import torch

PARTS = ("encode", "train", "env", "loop", "wrapper")
BATCHES = {"cpu": (1, 4, 16), "cuda": (1, 16, 64, 256, 1024)}
HOST_BATCHES = (1, 64)  # of these, frames that lie in main memory are encoded as well


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=(*PARTS, "all"), default=["all"])
    parser.add_argument("--checkpoint", help="shipped id or folder (default: an untrained GENESIS)")
    parser.add_argument("--slots", type=positive_int, default=5, help="of the untrained GENESIS")
    parser.add_argument("--batches", type=positive_int, nargs="+", help="batch sizes of encode")
    parser.add_argument("--train-batch", type=positive_int, default=32)
    parser.add_argument("--envs", type=positive_int, nargs="+", default=[64, 1024])
    parser.add_argument("--env-id", default="GenesisRL/SpriteGoal-v0")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "tf32", "bf16"))
    parser.add_argument("--seconds", type=positive_number, default=2.0, help="roughly, per row")
    parser.add_argument("--profile", action="store_true", help="name the kernels of encode")
    args = parser.parse_args(argv)
    measure(args, argv)


def measure(args: Any, argv: Sequence[str] | None) -> None:
    """Measures what the arguments name, prints the table, and saves the rows."""
    device = prepare_device(args.device, args.threads)
    parts = PARTS if "all" in args.what else args.what
    rows: list[Row] = []
    with checkpoint_or_untrained(args.checkpoint, args.slots) as checkpoint:
        if "encode" in parts:
            for batch in args.batches or BATCHES[device.type]:
                given = (checkpoint, batch, device, args.precision, args.seconds)
                rows.append(encode_row(*given, profile=args.profile))
                if device.type == "cuda" and batch in HOST_BATCHES:
                    rows.append(encode_row(*given, host=True))
        if "train" in parts:
            from benchmarks.training_speed import train_row
            from pretrain.config import Config

            precision = resolve_precision(args.precision, device)
            config = Config(num_slots=args.slots, batch_size=args.train_batch, precision=precision)
            rows.append(train_row(config, device, args.seconds))
        if "env" in parts:
            rows.extend(env_rows(args.env_id, args.envs, device, args.seconds))
        if "loop" in parts:
            for count in args.envs:
                rows.append(
                    loop_row(checkpoint, args.env_id, count, device, args.precision, args.seconds)
                )
        if "wrapper" in parts:
            rows.append(wrapper_row(checkpoint, device, args.precision, args.seconds))
    for line in table(rows):
        print(line)
    slots = None if args.checkpoint else args.slots
    values = {
        "rows": rows,
        "checkpoint": args.checkpoint or "untrained",
        "slots": slots,
        "env_id": args.env_id,
    }
    save_result("throughput", values, device=device, seed=0, folder=args.results_dir, argv=argv)


def encode_row(
    checkpoint: str,
    batch: int,
    device: torch.device,
    precision: str,
    seconds: float,
    *,
    host: bool = False,
    profile: bool = False,
) -> Row:
    """Times `GenesisEncoder.encode` on uint8 frames that are on the device, and so are latents.

    With `host` both are in main memory, latents as float32; on a CPU that is the same.
    """
    import torch

    from benchmarks import timing
    from genesis_rl import GenesisEncoder, load_checkpoint

    encoder = GenesisEncoder.from_checkpoint(checkpoint, device=str(device), precision=precision)
    size = encoder.image_size
    model = load_checkpoint(checkpoint)
    flops = timing.count_flops(lambda: model.encode(torch.zeros(1, 3, size, size)))
    lie = "cpu" if host else device
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=lie)

    def encode() -> torch.Tensor:
        latents = encoder.encode(images)
        return latents.cpu() if host else latents

    timing.reset_peak_memory(device)
    used = resolve_precision(precision, device)
    clock = timing.time_against_peak(encode, device, used, seconds=seconds)
    row = {
        **speed_row(
            "encode host" if host else "encode", batch, used, device, clock.timing.interval
        ),
        **floor_of(clock, flops, batch),
    }
    if profile:
        from benchmarks.profiling import print_profile

        print(f"encode, batch {batch}")
        row["families"] = print_profile(encode, device, row["ms"], top=20)
    return row


def wrapper_row(checkpoint: str, device: torch.device, precision: str, seconds: float) -> Row:
    """Compares a step of `GenesisObsWrapper` with the bare encoder on the same frames, in turn."""
    import torch

    from benchmarks.timing import synchronise
    from genesis_rl import GenesisEncoder, GenesisObsWrapper

    encoder = GenesisEncoder.from_checkpoint(checkpoint, device=str(device), precision=precision)
    still = _still_env(encoder.image_size)
    env = GenesisObsWrapper(still, checkpoint, device=str(device))
    env.reset(seed=0)
    frame = torch.from_numpy(still.frame).permute(2, 0, 1)[None]  # [1, 3, S, S] uint8

    def bare() -> None:
        encoder.encode(frame.to(device))
        synchronise(device)

    calls: dict[str, Callable[[], object]] = {"bare": bare, "wrapped": lambda: env.step(0)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(5):
            call()
    stop = time.perf_counter() + 2 * seconds
    while time.perf_counter() < stop or len(times["bare"]) < 20:
        # Alternating, and each first in turn: what else the machine does hits both alike.
        order = list(calls) if len(times["bare"]) % 2 else list(reversed(calls))
        for name in order:
            started = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - started)
    wrapped, alone = (statistics.median(times[name]) for name in ("wrapped", "bare"))
    return {
        **speed_row("wrapper", 1, resolve_precision(precision, device), device, wrapped),
        "bare_ms": round(alone * 1e3, 4),
        "overhead": round(wrapped / alone - 1, 4),
    }


def env_rows(env_id: str, counts: Sequence[int], device: torch.device, seconds: float) -> list[Row]:
    """Times random actions in one environment and in natively vectorised ones."""
    import gymnasium as gym
    import torch

    import envs  # noqa: F401  registers the ids
    from benchmarks.timing import time_calls

    env = gym.make(env_id)
    env.reset(seed=0)
    env.action_space.seed(0)

    over = False

    def step() -> None:  # a frame, as of the vectorised ones: a reset brings one, too
        nonlocal over
        if over:
            env.reset()
            over = False
            return
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated

    cpu = torch.device("cpu")
    alone = time_calls(step, cpu, seconds=seconds)
    rows = [speed_row("single env", 1, "uint8", cpu, alone.interval)]
    env.close()
    for count in counts:
        with _vector_env(env_id, count, device) as step_all:
            clock = time_calls(step_all, device, seconds=seconds)
        rows.append(speed_row("env", count, "uint8", device, clock.interval))
    return rows


def loop_row(
    checkpoint: str,
    env_id: str,
    count: int,
    device: torch.device,
    precision: str,
    seconds: float,
) -> Row:
    """Times environments and encoder together: every step's frames are encoded where they are."""
    from benchmarks import timing
    from genesis_rl import GenesisEncoder

    encoder = GenesisEncoder.from_checkpoint(checkpoint, device=str(device), precision=precision)
    timing.reset_peak_memory(device)
    with _vector_env(env_id, count, device, image_size=encoder.image_size) as step_all:
        clock = timing.time_calls(
            lambda: encoder.encode(step_all().permute(0, 3, 1, 2)), device, seconds=seconds
        )
    return speed_row("loop", count, resolve_precision(precision, device), device, clock.interval)


@contextmanager
def _vector_env(
    env_id: str, count: int, device: torch.device, **options: Any
) -> Iterator[Callable[[], torch.Tensor]]:
    """Yields what takes a random step in N native environments; frames stay on the device."""
    import gymnasium as gym

    import envs  # noqa: F401  registers the ids

    env = gym.make_vec(
        env_id,
        num_envs=count,
        vectorization_mode="vector_entry_point",
        device=str(device),
        tensors=True,
        **options,
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(32)])
    yield lambda: env.step(next(actions))[0]
    env.close()


def table(rows: Sequence[Row]) -> list[str]:
    """Returns the lines of a table for people."""
    lines = [
        f"{'what':<12}{'batch':>6} {'dtype':<6}{'per second':>12}{'ms':>10}{'latency ms':>12}"
        f"{'of floor':>10}{'peak TFLOP/s':>14}{'memory MB':>11}"
    ]
    for row in rows:
        share = f"{row['of_floor']:10.1%}" if "of_floor" in row else f"{'':10}"
        peak = f"{row['matrix_tflops']:14.3f}" if "matrix_tflops" in row else f"{'':14}"
        latency = f"{row['latency_ms']:12.3f}" if "latency_ms" in row else f"{'':12}"
        line = f"{row['what']:<12}{row['batch']:>6} {row['dtype']:<6}{row['per_second']:12.1f}"
        line += f"{row['ms']:10.3f}{latency}{share}{peak}{row['peak_memory_mb']:11.0f}"
        if "overhead" in row:
            line += f"   {row['overhead']:+.1%} over the bare encoder ({row['bare_ms']:.3f} ms)"
        lines.append(line)
    return lines


def _still_env(size: int) -> Any:
    """Returns an environment that costs nothing: it shows one frame for ever."""
    import gymnasium as gym
    import numpy as np

    class Still(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
        action_space = gym.spaces.Discrete(2)
        frame = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            return self.frame.copy(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            return self.frame.copy(), 0.0, False, False, {}

    return Still()


if __name__ == "__main__":
    run_cli(main)

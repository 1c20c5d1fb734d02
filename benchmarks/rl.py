"""RL: does an agent learn faster, or further, from slots than from pixels, and how far from truth?

Protocol: after OCRL (Yoon et al., ICML 2023). Stable-Baselines3's PPO on each representation with
the same settings: the true state, NatureCNN end to end on pixels, the latents of a frozen VAE, the
slots of a frozen GENESIS, and those of an untrained one. Every policy, the random one included,
plays the same evaluation episodes. Each (task, representation, head, seed) is a row with a folder
of its own; a row that fails is reported and left out, and `--resume` skips those that are finished.

    python -m benchmarks.rl --representations state genesis --seeds 0 1 2 --steps 500000
    python -m benchmarks.rl --env-id GenesisRL/SpritePush-v0 --heads mlp transformer
    python -m benchmarks.rl --random --episodes 1000
    python -m benchmarks.rl --report
    python -m benchmarks.rl --quick
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.common import (
    RESULTS,
    argument_parser,
    positive_int,
    prepare_device,
    run_cli,
    save_result,
)
from benchmarks.rl_jobs import train_in_processes
from benchmarks.rl_plan import check_encoders, check_same, folder_of, plan
from benchmarks.rl_report import REPRESENTATIONS, read_rows, report, slug
from pretrain.command_line import output_file, output_folder

ENVIRONMENT = "GenesisRL/SpriteGoal-v0"
HEADS = ("mlp", "deepsets", "relation", "transformer")  # genesis_rl.heads takes seconds to import
# Reaching a single object in few steps can be learnt from a few thousand frames.
QUICK = {
    "latents": "mask",  # where things are is all that the task asks, in a sixth of the time
    "normalise": True,  # latents differ in spread by orders of magnitude
    "steps": 6144,
    "envs": 8,
    "rollout": 256,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "evaluate_every": 1_000_000,  # before and after
    "episodes": 24,
    "env_options": {"num_objects": 1, "max_episode_steps": 12},
    "transfer": {},
}

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = _parser().parse_args(argv)
    args.env_options = dict(args.env_options)
    if args.transfer is not None:
        args.transfer = {f"{name}={value}": {name: value} for name, value in args.transfer}
    if args.quick:
        if args.representations:
            raise ValueError(
                "--quick trains one row, on slots of --checkpoint; leave out --representations, or "
                "--quick"
            )
        apply_quick(args)
    picture = args.picture or args.out / "curve.png"
    if args.report:
        report(read_rows(args.results_dir, args.env_id), picture)
    else:
        args.env_id = args.env_id or [ENVIRONMENT]
        train(args, picture, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argument_parser(__doc__)
    parser.add_argument("--env-id", nargs="+", help=f"tasks (default: {ENVIRONMENT})")
    parser.add_argument(
        "--representations",
        nargs="+",
        choices=REPRESENTATIONS,
        help="default: all; vae only with --vae-checkpoint",
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=HEADS,
        default=["mlp"],
        help="what reads the state, or the slots; others than mlp leave cnn and vae out",
    )
    parser.add_argument("--checkpoint", default="multi_dsprites", help="shipped id or folder")
    parser.add_argument("--vae-checkpoint", help="folder of a bd_vae or dc_vae, for vae")
    parser.add_argument("--latents", choices=("both", "mask", "component"), default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=positive_int, default=2_000_000, help="of the environment")
    parser.add_argument("--envs", type=positive_int, default=256, help="stepped together")
    parser.add_argument("--rollout", type=positive_int, default=8192, help="steps per update")
    parser.add_argument("--batch-size", type=positive_int, default=512)
    parser.add_argument("--epochs", type=positive_int, default=10)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--evaluate-every", type=positive_int, default=100_000)
    parser.add_argument("--episodes", type=positive_int, default=100, help="per evaluation")
    parser.add_argument("--normalise", action="store_true", help="scale vectors by running moments")
    parser.add_argument(
        "--env-options", type=option, nargs="+", default=[], help="such as num_objects=2"
    )
    parser.add_argument(
        "--transfer",
        type=option,
        nargs="*",
        help="what trained agents are tried in too (default: colours=ood, and one object more, "
        "where the task has these)",
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=1, help="rows at a time, over all GPUs there are"
    )
    parser.add_argument(
        "--out", type=output_folder, default=Path("runs/rl"), help="folder of the rows"
    )
    parser.add_argument("--picture", type=output_file, help="the curve (default: <out>/curve.png)")
    parser.add_argument("--resume", action="store_true", help="skip rows that are finished")
    parser.add_argument("--random", action="store_true", help="only play the random policy")
    parser.add_argument("--report", action="store_true", help="only redraw what is in the results")
    parser.add_argument("--quick", action="store_true", help="a minute on two cores, see docs")
    return parser


def option(text: str) -> tuple[str, Any]:
    """Parses `name=value`; the value is a number where it can be one."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"needs name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def apply_quick(args: Any) -> None:
    """Turns the arguments into the smallest run that still learns: one row, about a minute."""
    for name, value in QUICK.items():
        setattr(args, name, value)
    args.representations, args.heads, args.seeds = ["genesis"], ["mlp"], args.seeds[:1]
    if args.out == Path("runs/rl"):
        args.out = Path("runs/rl-quick")
    if args.results_dir == RESULTS:  # a taste, not a measurement
        args.results_dir = args.out


def train(args: Any, picture: Path, argv: Sequence[str] | None) -> None:
    """Trains the rows that the arguments name, then reports on all of them."""
    # Environment, encoder and policy take turns on the CPU: threads that spin while they wait cost
    # several times what they save as soon as anything else runs. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = prepare_device(args.device, args.threads)
    from benchmarks.rl_training import finished

    configs = plan(args)
    if args.random:
        play_randomly([config for config, _ in configs])
        return
    done = {folder: finished(folder) for _, folder in configs if not args.quick}
    kept = [folder for folder, row in done.items() if row]
    if kept and not args.resume:
        raise ValueError(
            f"{kept[0]} already holds a finished row; add --resume to skip finished rows, or "
            "choose another --out"
        )
    for config, folder in configs:  # mistakes show before hours are spent
        check_same(config, done.get(folder), folder)
    check_encoders([config for config, _ in configs])

    open_rows = [(config, folder) for config, folder in configs if not done.get(folder)]
    if args.jobs > 1:
        words = sys.argv[1:] if argv is None else argv
        failed = train_in_processes(open_rows, words, jobs=args.jobs, devices=_devices(device))
        done = {folder: finished(folder) for _, folder in configs}
    else:
        random = play_randomly([config for config, _ in configs])
        failed = []
        for config, folder in open_rows:
            try:
                trained = train_and_save(config, folder, random[config.env_id], device, args, argv)
                done[folder] = trained
            except Exception:  # whatever a row meets, the next one may do without
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "error.txt").write_text(traceback.format_exc())
                print(f"{folder} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                failed.append(folder)
    rows = [row for _, folder in configs if (row := done.get(folder))]
    if rows and args.quick:
        print(quick_report(rows[0]))
    if rows:
        report(rows, picture)
    if failed:
        sys.exit(
            f"{len(failed)} of {len(configs)} rows failed, see {failed[0]}; once "
            "that is mended, add --resume to train the rest"
        )


def play_randomly(configs: Sequence[Any]) -> dict[str, Row]:
    """Returns and prints what a random policy gets in each task."""
    from benchmarks.rl_playing import evaluate_random

    scores = {}
    for config in {config.env_id: config for config in configs}.values():
        scores[config.env_id] = score = evaluate_random(config)
        shown = [f"success {score['success']:.3f}", f"return {score['return']:.3f}"]
        shown += [f"success with {name} {value:.3f}" for name, value in score["transfer"].items()]
        print(f"{config.env_id}, random policy: {', '.join(shown)}", flush=True)
    return scores


def train_and_save(
    config: Any, folder: Path, random: Row, device: Any, args: Any, argv: Sequence[str] | None
) -> Row:
    """Trains a row, leaves its result in its folder and appends it to the results."""
    from benchmarks.rl_training import train_row
    from genesis_rl.durable import replace_file

    title = f"{slug(config.env_id)} {folder_of(config)}"
    with _progress(config.steps, title) as progress:
        row = train_row(config, folder, device=device, progress=progress)
    row = {**row, "random": random}
    stored = {name: value for name, value in row.items() if name != "training_curve"}
    save_result("rl", stored, device=device, seed=config.seed, folder=args.results_dir, argv=argv)
    replace_file(folder / "result.json", (json.dumps(row, indent=1) + "\n").encode())
    return row


def quick_report(row: Row) -> str:
    """Returns the curve of a single row as text."""
    from benchmarks.curves import ascii_curve

    return ascii_curve(
        row["training_curve"]["steps"],
        row["training_curve"]["success"],
        title=f"{row['env_id']} {row['env_options']}: mean return of the last 100 episodes",
        reference=row["random"]["return"],
    )


@contextmanager
def _progress(steps: int, title: str) -> Iterator[Callable[[int, str], None]]:
    """Yields what advances a bar and shows how well the agent did last."""
    from tqdm import tqdm

    with tqdm(total=steps, unit="step", desc=title, disable=None) as bar:

        def advance(done: int, status: str) -> None:
            bar.update(done)
            if status:
                bar.set_postfix_str(status)
                if bar.disable:
                    print(f"{title}: {status}", flush=True)

        yield advance


def _devices(device: Any) -> list[str]:
    """All GPUs where no certain one was asked for."""
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


if __name__ == "__main__":
    run_cli(main)

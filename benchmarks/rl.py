"""RL: does an agent learn faster, or further, from slots than from pixels, and how far from truth?

Protocol: after OCRL (Yoon et al., ICML 2023). Stable-Baselines3's PPO on each representation with
the same settings: the true state, NatureCNN end to end on pixels, the slots of a frozen GENESIS,
and the slots of an untrained one. Every policy, the random one included, plays the same evaluation
episodes. Each (representation, seed) is a row with a folder of its own; `--resume` skips those that
are finished.

    python -m benchmarks.rl --representations state genesis --seeds 0 1 2 --steps 500000
    python -m benchmarks.rl --report
    python -m benchmarks.rl --quick
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    read_lines,
    run_cli,
    save_result,
)

# As in `rl_training`, which takes seconds to import.
REPRESENTATIONS = ("state", "cnn", "genesis", "random-genesis")
# Reaching a single object in few steps can be learnt from a few thousand frames.
QUICK = {
    "normalise": True,  # latents differ in spread by orders of magnitude
    "steps": 6144,
    "envs": 8,
    "rollout": 256,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "evaluate_every": 1_000_000,  # before and after
    "episodes": 24,
    "env_options": {"num_objects": 1, "max_episode_steps": 12},
}

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--env-id", default="GenesisRL/SpriteGoal-v0")
    parser.add_argument(
        "--representations", nargs="+", choices=REPRESENTATIONS, default=list(REPRESENTATIONS)
    )
    parser.add_argument("--checkpoint", default="multi_dsprites", help="shipped id or folder")
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
    parser.add_argument("--out", type=Path, default=Path("runs/rl"), help="folder of the rows")
    parser.add_argument("--picture", type=Path, help="the curve (default: <out>/curve.png)")
    parser.add_argument("--resume", action="store_true", help="skip rows that are finished")
    parser.add_argument("--report", action="store_true", help="only redraw what is in the results")
    parser.add_argument("--quick", action="store_true", help="a minute on two cores, see docs")
    args = parser.parse_args(argv)
    args.env_options = dict(args.env_options)
    if args.quick:
        apply_quick(args)
    picture = args.picture or args.out / "curve.png"
    if args.report:
        report(read_rows(args.results_dir, args.env_id), args.env_id, picture)
    else:
        train(args, picture, argv)


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
    args.representations, args.seeds = ["genesis"], args.seeds[:1]
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
    from benchmarks.rl_training import evaluate_random, finished, train_row
    from genesis_rl.checkpoint import checkpoint_sha256

    configs = [
        (_config(args, name, seed), args.out / _slug(args.env_id) / f"{name}-seed{seed}")
        for name in args.representations
        for seed in args.seeds
    ]
    done = {folder: finished(folder) for _, folder in configs if not args.quick}
    kept = [folder for folder, row in done.items() if row]
    if kept and not args.resume:
        raise ValueError(
            f"{kept[0]} already holds a finished row; add --resume to skip finished rows, or "
            "choose another --out"
        )
    for config, folder in configs:  # mistakes show before hours are spent
        check_same(config, done.get(folder), folder)
        if config.checkpoint is not None:
            checkpoint_sha256(config.checkpoint)

    random = evaluate_random(configs[0][0])
    print(f"random policy: success {random['success']:.2f}, return {random['return']:.2f}")
    rows = []
    for config, folder in configs:
        row = done.get(folder)
        if row is None:
            title = f"{config.representation} seed {config.seed}"
            with _progress(config.steps, title) as progress:
                row = train_row(config, folder, device=device, progress=progress)
            row = {**row, "random": random}
            (folder / "result.json").write_text(json.dumps(row, indent=1) + "\n")
            stored = {name: value for name, value in row.items() if name != "training_curve"}
            save_result(
                "rl", stored, device=device, seed=config.seed, folder=args.results_dir, argv=argv
            )
        rows.append(row)
    if args.quick:
        print(quick_report(rows[0]))
    report(rows, args.env_id, picture)


def check_same(config: Any, row: Row | None, folder: Path) -> None:
    """Refuses to mix a finished row with others that were trained in another way."""
    from dataclasses import asdict

    wanted = asdict(config)
    different = [name for name, value in wanted.items() if row and row.get(name) != value]
    if row and different:
        name = different[0]
        raise ValueError(
            f"{folder} was trained with {name} = {row.get(name)!r}, but {wanted[name]!r} is asked "
            "for; repeat the same settings or choose another --out"
        )


def read_rows(folder: Path, env_id: str) -> list[Row]:
    """Returns the stored rows of a task; of repeated ones the last."""
    rows = {
        (label(row), row["steps"], row["seed"]): row
        for row in read_lines(folder / "rl.jsonl")
        if row["env_id"] == env_id
    }
    if not rows:
        raise ValueError(
            f"{folder / 'rl.jsonl'} has no row of {env_id}; make some with "
            f"python -m benchmarks.rl --env-id {env_id}"
        )
    return list(rows.values())


def label(row: Row) -> str:
    """Names what the agent of a row sees."""
    name = str(row["representation"])
    name += "" if row["latents"] == "both" else f", {row['latents']} latents"
    return name + (", normalised" if row["normalise"] else "")


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Returns one line per representation: its final success over seeds, with intervals."""
    import numpy as np

    from benchmarks.curves import bootstrap_interval

    lines = []
    for (name, steps), group in _groups(rows).items():
        success = np.array([row["final"]["success"] for row in group])
        band = bootstrap_interval([success])
        lines.append(
            {
                "representation": name,
                "steps": steps,
                "seeds": [row["seed"] for row in group],
                "success": round(float(success.mean()), 4),
                "success_std": round(float(success.std()), 4),
                "iqm": round(float(band.value), 4),
                "iqm_95": [round(float(band.low), 4), round(float(band.high), 4)],
                "return": round(float(np.mean([row["final"]["return"] for row in group])), 4),
                "frames_per_s": round(float(np.median([row["frames_per_s"] for row in group])), 1),
                "training_s": round(sum(row["training_s"] for row in group), 1),
            }
        )
    return lines


def report(rows: Sequence[Row], env_id: str, picture: Path) -> None:
    """Draws the curves, prints the table, and ends with one line of JSON."""
    import numpy as np

    from benchmarks.curves import Curve, draw_curves

    curves = []
    for (name, _), group in _groups(rows).items():
        steps = np.array(group[0]["curve"]["steps"])
        scores = [np.interp(steps, r["curve"]["steps"], r["curve"]["success"]) for r in group]
        curves.append(Curve(name, steps, np.array(scores)))
    chance = rows[0]["random"]["success"]
    title = env_id.rpartition("/")[2]
    draw_curves(curves, picture, title=title, ylabel="success rate", reference=chance)

    lines = summarise(rows)
    print(f"{env_id}: success of the last evaluation; random policy {chance:.3f}")
    print(f"{'representation':<16}{'steps':>10}{'seeds':>6}{'mean':>8}{'IQM':>8}   95 % interval")
    for line in lines:
        low, high = line["iqm_95"]
        print(
            f"{line['representation']:<16}{line['steps']:>10}{len(line['seeds']):>6}"
            f"{line['success']:8.3f}{line['iqm']:8.3f}   {low:.3f} to {high:.3f}"
            f"{line['frames_per_s']:10.0f} frames/s"
        )
    print(f"curve: {picture}")
    print(json.dumps({"benchmark": "rl", "env_id": env_id, "random": chance, "rows": lines}))


def quick_report(row: Row) -> str:
    """Returns the curve of a single row as text."""
    from benchmarks.curves import ascii_curve

    return ascii_curve(
        row["training_curve"]["steps"],
        row["training_curve"]["success"],
        title=f"{row['env_id']} {row['env_options']}: mean return of the last 100 episodes",
        reference=row["random"]["return"],
    )


def _config(args: Any, representation: str, seed: int) -> Any:
    from benchmarks.rl_training import RowConfig

    return RowConfig(
        env_id=args.env_id,
        representation=representation,
        seed=seed,
        steps=args.steps,
        checkpoint=str(args.checkpoint) if "genesis" in representation else None,
        latents=args.latents if "genesis" in representation else "both",
        num_envs=args.envs,
        rollout=args.rollout,
        batch_size=args.batch_size,
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        evaluate_every=args.evaluate_every,
        episodes=args.episodes,
        normalise=args.normalise,
        env_options=args.env_options or None,
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


def _groups(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """Groups rows by representation and length, in the order of REPRESENTATIONS."""
    groups: dict[tuple[str, int], list[Row]] = {}
    order = {name: i for i, name in enumerate(REPRESENTATIONS)}
    for row in sorted(rows, key=lambda r: (order[r["representation"]], r["steps"], r["seed"])):
        groups.setdefault((label(row), row["steps"]), []).append(row)
    return groups


def _slug(env_id: str) -> str:
    return env_id.rpartition("/")[2].lower()


if __name__ == "__main__":
    run_cli(main)

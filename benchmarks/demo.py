"""The whole of genesis-rl in a few minutes, no data and no GPU: what `make demo` runs.

Three real things, each by the command that a user would type: pretrain a small model, decompose
frames of an environment with the shipped weights, train an agent on its slots.

    python benchmarks/demo.py --out runs/demo
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pretrain.command_line import Parser, output_folder

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = "envs:GenesisRL/SpriteGoal-v0"


def main(arguments: list[str] | None = None) -> int:
    """Runs the three parts and says where their pictures are."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=output_folder, default=Path("runs/demo"), help="folder for everything"
    )
    out: Path = parser.parse_args(arguments).out
    began = time.monotonic()

    title("1/3  Pretrain a small GENESIS on coloured Multi-dSprites (about a minute)")
    pretrained = fresh(out / "pretrain")
    run("pretrain/run.py", "--config", "debug", "--out", str(pretrained))

    title("2/3  See frames of an environment through the shipped weights")
    picture = out / "decomposition.png"
    decompose(picture)

    title("3/3  Train PPO on those slots for a few thousand steps (about a minute)")
    run("benchmarks/rl.py", "--quick", "--out", str(fresh(out / "rl")))

    title(f"Done in {time.monotonic() - began:.0f} seconds")
    print(f"frames, masks and components of the task   {picture}")
    print(f"the small model's pictures                 {pretrained / 'samples'}")
    print(f"PPO's reward curve                         {out / 'rl' / 'curve.png'}")
    print(f"training curves                            tensorboard --logdir {pretrained}")
    print("\nNext, on a GPU:   .venv/bin/python pretrain/run.py --config multi_dsprites")
    print("or wrap your own: env = GenesisObsWrapper(gym.make(...))   (README, quickstart)")
    return 0


def decompose(picture: Path, *, frames: int = 4) -> None:
    """Draws frames of the task as the shipped encoder sees them, and prints an observation."""
    import gymnasium as gym
    import numpy as np

    from benchmarks.sheets import write_png
    from genesis_rl import GenesisObsWrapper

    env = GenesisObsWrapper(gym.make(ENVIRONMENT))
    rows = []
    for seed in range(frames):
        observation, _ = env.reset(seed=seed)
        rows.append(env.render_slots())
    write_png(picture, np.concatenate(rows))
    print(
        f"a frame becomes an observation {list(observation.shape)}: {observation[:4].round(2)} ..."
    )
    print(f"frame | reconstruction | masks | components: {picture}")
    env.close()


def fresh(folder: Path) -> Path:
    """Returns the folder, or a new one beside it where an earlier demo has left its own."""
    candidate, number = folder, 1
    while candidate.exists() and any(candidate.iterdir()):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def run(script: str, *arguments: str) -> None:
    """Runs one of the project's commands, showing it first; stops the demo if it fails."""
    print(f"$ python {script} {' '.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, str(ROOT / script), *arguments]).returncode
    if status:
        sys.exit(status)


def title(text: str) -> None:
    """Prints a heading."""
    print(f"\n=== {text} ===", flush=True)


if __name__ == "__main__":
    sys.exit(main())

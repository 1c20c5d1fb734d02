"""Looks at, checks, generates and unpacks datasets.

    python -m pretrain.data show shapestacks --data-dir DIR
    python -m pretrain.data verify DIR
    python -m pretrain.data generate shapestacks DIR --train-images 50_000
    python -m pretrain.data unpack ARCHIVE DIR --sha256 0123...

Exit status: 0 done; 1 something is broken, or the machine failed; 2 a mistake in the arguments, or
unusable data; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from pretrain.command_line import Parser, is_mistake, positive_int, words


def main(arguments: list[str] | None = None) -> int:
    """Runs a command, and returns the exit status."""
    flags = _parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        status: int = flags.command(flags)
        return status
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("GENESIS_RL_TRACEBACK"):
            raise
        print(f"error: {words(error)}", file=sys.stderr)
        return 2 if is_mistake(error) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m pretrain.data", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="write a contact sheet with masks and labels")
    show.add_argument("what", metavar="DATASET|DIR", help="as in --dataset, or a folder of data")
    show.add_argument("--data-dir", help="folder of the dataset's files")
    show.add_argument("--split", default="val", choices=("train", "val", "test"))
    show.add_argument("--images", type=positive_int, default=32, help="how many to show")
    show.add_argument("--out", help="a .png file; by default named after dataset and split")
    show.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    show.set_defaults(command=_show)

    verify = commands.add_parser("verify", help="check every file of a dataset")
    verify.add_argument("folder", metavar="DIR")
    verify.set_defaults(command=_verify)

    make = commands.add_parser("generate", help="render a look-alike in the published format")
    make.add_argument("dataset", choices=("gqn", "shapestacks"))
    make.add_argument("folder", metavar="DIR", help="a folder of its own")
    make.add_argument("--train-images", type=positive_int, required=True, help="for gqn: scenes")
    make.add_argument("--validation-images", type=positive_int, default=320, help="at least")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--textures", help="gqn: auto, labmaze or procedural; shapestacks: a folder")
    make.add_argument("--shapes", choices=("ccs", "blocks", "both"), help="of shapestacks' blocks")
    make.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    make.add_argument("--workers", type=positive_int, help="processes; one a core, or one on CUDA")
    make.set_defaults(command=_generate)

    unpack = commands.add_parser("unpack", help="unpack an archive that nobody vouches for")
    unpack.add_argument("archive", metavar="ARCHIVE", help="tar, tar.gz, tar.bz2 or zip")
    unpack.add_argument("folder", metavar="DIR", help="nothing is written outside of it")
    unpack.add_argument("--sha256", metavar="HEX", help="what the archive's hash needs to be")
    unpack.set_defaults(command=_unpack)
    return parser


# Modules are imported by the command that needs them: torch takes longer than `--help` may.


def _show(flags: argparse.Namespace) -> int:
    from pretrain.data.show import run

    return run(flags.what, flags.data_dir, flags.split, flags.images, flags.out, flags.device)


def _verify(flags: argparse.Namespace) -> int:
    from pretrain.data.verify import run

    return run(flags.folder)


def _generate(flags: argparse.Namespace) -> int:
    from pretrain.data.generate import generate
    from pretrain.data.lookalike import recipe_for

    if flags.shapes and flags.dataset != "shapestacks":
        raise ValueError("--shapes is for shapestacks only.")
    given = {"textures": flags.textures, "shapes": flags.shapes}
    recipe = recipe_for(
        flags.dataset,
        flags.train_images,
        flags.validation_images,
        flags.seed,
        **{name: value for name, value in given.items() if value},
    )
    root = generate(
        recipe,
        Path(flags.folder),
        device=flags.device,
        workers=flags.workers,
        progress=sys.stderr.isatty(),
    )
    print(f"{root}: {recipe.images:,} images; use it by --data-dir {root}")
    return 0


def _unpack(flags: argparse.Namespace) -> int:
    from pretrain.data.unpack import run

    return run(flags.archive, flags.folder, flags.sha256)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""Pretrains a model: images -> output -> loss -> GECO -> optimiser -> log -> checkpoint.

    python pretrain/run.py --config multi_dsprites --out runs/sprites
    python pretrain/run.py --resume --out runs/sprites

Exit status: 0 done, or stopped by a signal and saved; 1 the machine failed (disk, memory); 2 a
mistake in the settings; 3 unusable data; 4 training diverged; 5 another process is in the folder.
"""

import os
import sys
from pathlib import Path

if not __package__:  # run as a file: the checkout takes the place of this folder on the path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pretrain.flags import parse_arguments


def main(arguments: list[str] | None = None) -> int:
    """Trains, and returns the exit status."""
    config = parse_arguments(arguments)
    # Spinning threads bring a shared machine to its knees: 5 times slower, measured at load 5 on 2
    # cores. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pretrain.trainer import run  # only now: importing torch takes longer than `--help` may

    return run(config)


if __name__ == "__main__":
    sys.exit(main())

"""What of a finished run is worth carrying to another machine: 15 MB instead of hundreds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FILES = ("config.yaml", "env.json", "metrics.jsonl")
_IMAGES = 64  # to compare the compact model with the original on


def bring_home(folders: list[Path], out: Path, *, jobs: int) -> None:
    """Writes, for each run that has a model, a folder like its own under `out`.

    It holds the compact checkpoint, the settings, the metrics and the newest pictures. What fails
    is named on standard error; the other runs are brought all the same.

    Args:
        folders: Run folders.
        out: The folder of the new folders.
        jobs: Models to compress at a time.
    """
    folders = [folder for folder in folders if (folder / "model" / "manifest.json").is_file()]
    while folders:
        batch, folders = folders[:jobs], folders[jobs:]
        started = [(folder, _start(folder, out / folder.name)) for folder in batch]
        for folder, process in started:
            _, errors = process.communicate()
            if process.returncode:
                line = (errors.strip().splitlines() or ["no message"])[-1]
                print(f"{folder.name} was not exported: {line}", file=sys.stderr)


def _start(folder: Path, target: Path) -> subprocess.Popen[str]:
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).is_file():
            shutil.copy2(folder / name, target / name)
    for kind in ("decomposition", "samples"):
        for old in (target / "samples").glob(f"{kind}_*.png"):
            old.unlink()
        for picture in sorted((folder / "samples").glob(f"{kind}_*.png"))[-1:]:
            (target / "samples").mkdir(exist_ok=True)
            shutil.copy2(picture, target / "samples" / picture.name)
    command = [sys.executable, "-m", "pretrain.export", str(folder), str(target / "model")]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [*command, "--compact", f"--images={_IMAGES}"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

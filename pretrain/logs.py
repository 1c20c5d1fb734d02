"""Where a run's numbers go: terminal, `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from tqdm import tqdm

from pretrain.state import MetricsFile

_PLAIN_EVERY = 5.0  # seconds between lines where there is no terminal to draw a bar on


class Logs:
    """Writes scalars and pictures to every place at once.

    Args:
        folder: The run folder.
        start: Steps made before this start; whatever the folder says of later ones is dropped.
        total: Steps to make in all.
    """

    def __init__(self, folder: Path, *, start: int, total: int):
        self.folder = folder
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.replayed = max(0, self.metrics.cut_after(start) - start)
        self._board: Any = _tensorboard(folder, purge_step=start + 1 if start else None)
        self._start, self._total = start, total
        self._began = self._last_plain = time.monotonic()
        self._bar = tqdm(
            total=total, initial=start, unit="it", disable=not sys.stderr.isatty(), smoothing=0.05
        )

    def say(self, line: str) -> None:
        """Prints a line without tearing the bar."""
        tqdm.write(line, file=sys.stderr)

    def scalars(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Logs numbers of one step; text goes to `metrics.jsonl` only."""
        self.metrics.append({"step": step, "split": split, **values})
        if self._board is not None:
            for name, value in values.items():
                if not isinstance(value, str):
                    self._board.add_scalar(f"{split}/{name}", value, step)

    def picture(self, step: int, name: str, image: NDArray[uint8]) -> None:
        """Logs a `[height, width, 3]` picture."""
        from pretrain.report import write_png

        write_png(self.folder / "samples" / f"{name}_{step:08d}.png", image)
        if self._board is not None:
            self._board.add_image(f"pictures/{name}", image, step, dataformats="HWC")

    def progress(self, step: int, status: dict[str, str], *, force: bool = False) -> None:
        """Moves the bar, or prints a line every few seconds where there is no terminal."""
        if not self._bar.disable:
            self._bar.set_postfix(status, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if not force and now - self._last_plain < _PLAIN_EVERY:
            return
        self._last_plain = now
        rate = (step - self._start) / max(now - self._began, 1e-9)
        left = (self._total - step) / rate if rate else float("inf")
        parts = " ".join(f"{name}={value}" for name, value in status.items())
        eta = tqdm.format_interval(left) if left < 1e9 else "?"
        self.say(f"step {step}/{self._total} {rate:.1f} it/s, {eta} left, {parts}")

    def restart(self, step: int) -> None:
        """Forgets everything after a step that the run has been rolled back to."""
        self.metrics.cut_after(step)
        self._bar.n = step

    def close(self) -> None:
        """Flushes everything."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


class NoLogs(Logs):
    """Logs that nobody keeps: those of all ranks but the first."""

    replayed = 0

    def __init__(self) -> None:
        pass

    def say(self, line: str) -> None:
        """Says nothing, like all of this."""

    def scalars(self, step: int, split: str, values: dict[str, Any]) -> None: ...

    def picture(self, step: int, name: str, image: NDArray[uint8]) -> None: ...

    def progress(self, step: int, status: dict[str, str], *, force: bool = False) -> None: ...

    def restart(self, step: int) -> None: ...

    def close(self) -> None: ...


def _tensorboard(folder: Path, *, purge_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f"no TensorBoard files: {error}; pip install tensorboard", file=sys.stderr)
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

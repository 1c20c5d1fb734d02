"""SIGTERM and SIGINT as a request that the training loop sees after the step in hand."""

from __future__ import annotations

import signal
from types import FrameType

from pretrain.state import Stop


class Signals:
    """While open, notes the first signal in `received` instead of dying of it.

    Before `defer` is set there is nothing to save, so the program just ends, with status 0. A
    second signal ends it at once, with status 1; states on disk stay sound whenever that happens.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.defer = False

    def __enter__(self) -> Signals:
        self._before = {s: signal.signal(s, self._on) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = signal.Signals(number).name
        if again or not self.defer:
            raise Stop(int(again), f"stopped by {self.received}; nothing was saved just now")

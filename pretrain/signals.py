"""When to stop early: SIGTERM and SIGINT as requests, a time limit, and ranks that agree on it."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import NoReturn

from pretrain.ranks import Ranks
from pretrain.state import Stop

_PATIENCE = 2.0  # seconds that ranks may train on before they hear of a signal
_TIME_IS_OVER = 0.5  # less than the number of any signal


class Signals:
    """While open, notes the first signal in `received` instead of dying of it.

    Before `defer` is called there is nothing to save, so the program just ends, with status 0. A
    second signal ends it at once, with status 1; states on disk stay sound whenever that happens.

    Args:
        patient: Whether a second signal says no more than the first. A scheduler that stops a job
            signals every process in it, and torchrun then signals its own again.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: str | None = None
        self._deferred = False

    def __enter__(self) -> Signals:
        self._before = {s: signal.signal(s, self._on) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From here on a first signal is only noted, because there is something to save.

        Raises:
            Stop: One came before, and what it raised was swallowed by code that ignores errors.
        """
        self._deferred = True
        if self.received:
            self._stop(again=False)

    def _on(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        if again and self.patient:
            return
        self.received = signal.Signals(number).name
        if again or not self._deferred:
            self._stop(again=again)

    def _stop(self, *, again: bool) -> NoReturn:
        raise Stop(int(again), f"stopped by {self.received}; nothing was saved just now")


class Agreement:
    """Whether to stop after the step in hand: because of a signal to any rank, or the time limit.

    One process looks at every step. Several tell each other at the same steps, every couple of
    seconds and at least at every line of the log, over the host's network: the device goes on.

    Args:
        signals: Of this process. A signal that another rank has got is noted there too.
        ranks: Who has to agree.
        deadline: In the time of `time.monotonic`; None for no limit.
        most: Steps between two questions at most.
    """

    def __init__(self, signals: Signals, ranks: Ranks, *, deadline: float | None, most: int):
        self.signals, self.ranks = signals, ranks
        self.deadline, self.most = deadline, most
        self._asked: tuple[int, float] | None = None
        self._next = 0

    def to_stop(self, step: int) -> bool:
        """Asks, if this is a step to ask at; every rank has to call this at every step."""
        now = time.monotonic()
        if self._asked and self._asked[0] <= step < self._next:
            return False
        reason = float(signal.Signals[self.signals.received]) if self.signals.received else 0.0
        if not reason and self.deadline is not None and self._asked and now > self.deadline:
            reason = _TIME_IS_OVER  # but not before a single step was made
        if self.ranks.world > 1:
            reason = self._ask(step, now, reason)
        self._asked = (step, now)
        if reason > _TIME_IS_OVER:
            self.signals.received = signal.Signals(int(reason)).name
        return reason > 0

    def _ask(self, step: int, now: float, reason: float) -> float:
        seconds = 0.0  # a step, or as if it took long while nobody knows yet
        if self._asked and step > self._asked[0]:
            seconds = (now - self._asked[1]) / (step - self._asked[0])
        reason, seconds = self.ranks.largest(reason, seconds)
        steps = int(_PATIENCE / seconds) if seconds else 1
        self._next = step + max(1, min(self.most, steps))
        return reason

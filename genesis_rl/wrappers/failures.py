"""When one of many environments raises: which one it was, and how to have it raise again.

A traceback out of a vector environment says what went wrong, but neither where nor when. The
wrappers let the error through as it is and add a note to it, which is printed below the traceback.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import gymnasium as gym

T = TypeVar("T")


class FailureNotes:
    """Knows the seeds and the step of a vector environment, and calls it.

    Args:
        name: Of the wrapper, for messages.
        env: A vector environment of Gymnasium or of Stable-Baselines3.
    """

    def __init__(self, name: str, env: Any):
        self.name, self.env = name, env
        self._seeds: list[int | None] = [None] * env.num_envs
        self._steps = 0

    def reset(self, seeds: Sequence[int | None], call: Callable[..., T], **keywords: Any) -> T:
        """Calls what resets the environments; those with a seed start anew with it."""
        # A wrong number of seeds is the environment's to refuse.
        self._seeds[: len(seeds)] = [
            old if new is None else new for old, new in zip(self._seeds, seeds, strict=False)
        ]
        if any(seed is not None for seed in seeds):
            self._steps = 0
        return self._call("reset()", call, **keywords)

    def step(self, call: Callable[..., T], *arguments: Any) -> T:
        """Calls what steps the environments."""
        self._steps += 1
        return self._call(f"step {self._steps}", call, *arguments)

    def _call(self, when: str, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        try:
            return call(*arguments, **keywords)
        except Exception as error:
            _add_note(error, self._note(error, when))
            raise

    def _note(self, error: Exception, when: str) -> str:
        which = _failed(self.env, error)
        if not which:
            return (
                f"{self.name}: raised in {when} by none of the {len(self._seeds)} environments "
                "alone. If their frames change in size, wrap each in "
                "gymnasium.wrappers.ResizeObservation"
            )
        named = ", ".join(f"{i} ({_seeded(self._seeds[i])})" for i in which)
        return f"{self.name}: raised in {when} after seeding by environment {named}"


def _seeded(seed: int | None) -> str:
    return "without a seed" if seed is None else f"seed {seed}"


def _failed(env: Any, error: Exception) -> list[int]:
    """Finds the environments that an error comes from."""
    while hasattr(env, "venv") or isinstance(env, gym.vector.VectorWrapper):
        env = env.venv if hasattr(env, "venv") else env.env
    if hasattr(env, "parent_pipes"):  # gymnasium's workers: the pipe of a failed one is taken away
        return [i for i, pipe in enumerate(env.parent_pipes) if pipe is None]
    if hasattr(env, "remotes") and hasattr(env, "processes"):  # SB3's end, and their pipe with them
        for process in env.processes:
            process.join(0.1)
        return [i for i, process in enumerate(env.processes) if not process.is_alive()]
    speakers = _speakers(error.__traceback__)
    return [
        i
        for i, each in enumerate(getattr(env, "envs", ()))
        if any(speaker is each.unwrapped for speaker in speakers)
    ]


def _speakers(trace: TracebackType | None) -> list[gym.Env[Any, Any]]:
    """The environments whose methods, or whose wrappers' methods, a traceback goes through."""
    found = []
    while trace is not None:
        speaker = trace.tb_frame.f_locals.get("self")
        if isinstance(speaker, gym.Env):
            found.append(speaker.unwrapped)
        trace = trace.tb_next
    return found


def _add_note(error: Exception, note: str) -> None:
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10 prints no notes
        warnings.warn(note, RuntimeWarning, stacklevel=4)

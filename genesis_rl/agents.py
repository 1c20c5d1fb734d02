"""Agents of Stable-Baselines3 that remember whose slots they have learnt to read.

A policy is of no use on the slots of another encoder, and nothing shows it: spaces depend on sizes
alone, so it loads, and then acts at random. Spaces of the wrappers therefore say what made them.
SB3 saves the space with an agent, as text beside the pickle, and `load_agent` compares.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from genesis_rl.checkpoint import StrPath

_ORIGIN = "slots_of"  # the attribute of a space
_NOT_SEEN = ("device", "precision", "clip", "dtype", "stochastic")  # options that change no meaning

Agent = TypeVar("Agent", covariant=True)


class Algorithm(Protocol[Agent]):
    """A class of SB3, such as PPO."""

    def load(self, path: Any, env: Any = None, **keywords: Any) -> Agent:
        """Loads what `save` has saved."""


def stamp(space: Any, checkpoint: str, encoder: Any, options: Mapping[str, Any]) -> None:
    """Notes on an observation space which encoder fills it, and how.

    Args:
        space: Any space; equal spaces stay equal.
        checkpoint: What the user called the encoder.
        encoder: Whose `sha256` is its content, if it has any.
        options: Of the wrapper.
    """
    setattr(
        space,
        _ORIGIN,
        {
            "checkpoint": checkpoint,
            "sha256": getattr(encoder, "sha256", None),
            "num_slots": encoder.num_slots,
            "slot_dim": encoder.slot_dim,
            **{name: value for name, value in options.items() if name not in _NOT_SEEN},
        },
    )


def shows_slots(space: Any) -> bool:
    """Whether a space is that of one of the wrappers."""
    return hasattr(space, _ORIGIN)


def load_agent(
    algorithm: Algorithm[Agent],
    path: StrPath,
    env: Any,
    *,
    other_checkpoint: bool = False,
    **keywords: Any,
) -> Agent:
    """Loads an agent onto an environment, if both speak of the same slots.

    Example:
        >>> model.save("agent")  # doctest: +SKIP
        >>> model = load_agent(PPO, "agent", venv)  # doctest: +SKIP

    Args:
        algorithm: Of SB3: PPO, A2C, DQN, SAC, ...
        path: What `model.save` has written.
        env: An environment in one of the three wrappers.
        other_checkpoint: Whether to go on training with the slots of another checkpoint.
        keywords: For `algorithm.load`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no agent, or one of another encoder; the message says which to take.
    """
    saved, now = _saved_origin(path), _origin(env)
    if now is None:
        raise ValueError(
            "load_agent needs an environment in GenesisVecEnvWrapper (or one of the other two); "
            f"got {type(env).__name__}. Agents that see no slots are loaded by "
            f"{getattr(algorithm, '__name__', 'the algorithm')}.load"
        )
    if saved is None:
        warnings.warn(
            f"{path} does not say whose slots it reads (VecFrameStack drops the note), so nothing "
            "is compared",
            stacklevel=2,
        )
    else:
        _compare(path, saved, now, other_checkpoint)
    return algorithm.load(path, env=env, **keywords)


def _compare(path: StrPath, saved: dict[str, Any], now: dict[str, Any], other: bool) -> None:
    was, now_is = (
        f"checkpoint {o['checkpoint']!r} (K = {o['num_slots']}, D = {o['slot_dim']}, sha256 "
        f"{str(o['sha256'])[:12]})"
        for o in (saved, now)
    )
    identity = {"checkpoint", "sha256", "num_slots", "slot_dim"}
    if any(saved[name] != now[name] for name in ("num_slots", "slot_dim")):
        raise ValueError(
            f"{path} reads the slots of {was}, but the environment shows those of {now_is}, which "
            f"do not fit; pass checkpoint={saved['checkpoint']!r} to the wrapper, or train anew"
        )
    # Encoders that others have registered have no hash, only a name.
    weights, weights_now = (o["sha256"] or o["checkpoint"] for o in (saved, now))
    if weights != weights_now and not other:
        raise ValueError(
            f"{path} reads the slots of {was}, but the environment shows those of {now_is}: other "
            f"weights; pass checkpoint={saved['checkpoint']!r} to the wrapper, or "
            "other_checkpoint=True to go on training"
        )
    for name in sorted((saved.keys() | now.keys()) - identity):
        if saved.get(name) != now.get(name):
            raise ValueError(
                f"{path} was trained with {name}={saved.get(name)!r}, but the environment has "
                f"{name}={now.get(name)!r}; pass {name}={saved.get(name)!r} to the wrapper"
            )


def _saved_origin(path: StrPath) -> dict[str, Any] | None:
    """Reads the note out of a saved agent; nothing is unpickled."""
    file = Path(path)
    if not file.is_file() and file.suffix != ".zip":
        file = Path(f"{file}.zip")  # which SB3 adds
    try:
        with zipfile.ZipFile(file) as archive:
            space = json.loads(archive.read("data"))["observation_space"]
    except FileNotFoundError:
        raise FileNotFoundError(f"no agent {path}: there is no such file") from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no agent that SB3's model.save has written: {error}") from None
    found: dict[str, Any] | None = space.get(_ORIGIN)
    return found


def _origin(env: Any) -> dict[str, Any] | None:
    """The note of the innermost environment that has one."""
    found = None
    while env is not None:
        for name in ("single_observation_space", "observation_space"):
            found = getattr(getattr(env, name, None), _ORIGIN, None) or found
        env = vars(env).get("venv", vars(env).get("env"))
    return found

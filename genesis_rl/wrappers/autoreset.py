"""What a Gymnasium vector environment does when an episode ends."""

from __future__ import annotations

import warnings
from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv


def autoreset_mode(env: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    """Returns the mode that an environment's metadata names; next-step where it names none.

    Args:
        env: The environment.
        name: Of the wrapper, for messages.

    Raises:
        ValueError: It names a mode that there is not.
    """
    if "autoreset_mode" not in env.metadata:
        warnings.warn(
            f"{name}: the environment's metadata has no 'autoreset_mode'; next-step autoreset is "
            "assumed",
            stacklevel=3,
        )
        return AutoresetMode.NEXT_STEP
    found = env.metadata["autoreset_mode"]
    try:
        return AutoresetMode(found)
    except ValueError:
        raise ValueError(
            f"{name} knows the autoreset modes {[mode.value for mode in AutoresetMode]}, but the "
            f"environment's metadata says {found!r}; set metadata['autoreset_mode'] to the "
            "gymnasium.vector.AutoresetMode that it follows"
        ) from None

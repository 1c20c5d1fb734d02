"""Object-centric eyes for reinforcement learning: GENESIS slots as observations.

The public names are imported on first use, so that `import genesis_rl` and the command-line
programs' `--help` stay instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from genesis_rl.checkpoint import load_checkpoint, save_checkpoint
    from genesis_rl.encoder import GenesisEncoder
    from genesis_rl.losses.geco import Geco
    from genesis_rl.models.genesis import Genesis, GenesisConfig
    from genesis_rl.pictures import render_slots
    from genesis_rl.released import load_released_checkpoint
    from genesis_rl.wrappers.observation import GenesisObsWrapper
    from genesis_rl.wrappers.sb3 import GenesisVecEnvWrapper
    from genesis_rl.wrappers.vector import GenesisVectorObsWrapper

_HOME = {
    "Genesis": "genesis_rl.models.genesis",
    "GenesisConfig": "genesis_rl.models.genesis",
    "Geco": "genesis_rl.losses.geco",
    "GenesisEncoder": "genesis_rl.encoder",
    "GenesisObsWrapper": "genesis_rl.wrappers.observation",
    "GenesisVectorObsWrapper": "genesis_rl.wrappers.vector",
    "GenesisVecEnvWrapper": "genesis_rl.wrappers.sb3",
    "load_checkpoint": "genesis_rl.checkpoint",
    "save_checkpoint": "genesis_rl.checkpoint",
    "load_released_checkpoint": "genesis_rl.released",
    "render_slots": "genesis_rl.pictures",
}

__all__ = [
    "Geco",
    "Genesis",
    "GenesisConfig",
    "GenesisEncoder",
    "GenesisObsWrapper",
    "GenesisVecEnvWrapper",
    "GenesisVectorObsWrapper",
    "load_checkpoint",
    "load_released_checkpoint",
    "render_slots",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Imports a public name's module when the name is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'genesis_rl' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

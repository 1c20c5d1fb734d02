"""Files that try to run code, to write elsewhere or to take all memory, and how users read them."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.reliability_archives import HOSTILE, regular, tar


class Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


class Attack(NamedTuple):
    """A file and how it is read.

    Attributes:
        name: What it is.
        read: Reads a path as a user would; raises if it refuses.
        hostile: Writes the attack to a path; gets the marker that code would make.
        sound: Writes a sound file of the same kind.
    """

    name: str
    read: Callable[[Path], object]
    hostile: Callable[[Path, Path], None]
    sound: Callable[[Path], None]


def attacks() -> list[Attack]:
    """The corpus."""
    archives = [
        Attack(
            f"archive: {name}",
            _unpack,
            lambda path, marker, data=data: _write(path, data),  # type: ignore[misc]
            lambda path: _write(path, tar(regular("a"))),
        )
        for name, data in HOSTILE.items()
    ]
    yaml = [
        Attack(f"YAML: {name}", _config, functools.partial(_yaml, text), _sound_yaml)
        for name, text in {
            "tag": "!!python/object/apply:builtins.open [{marker}, w]",
            "tag within": "seed: !!python/object/apply:builtins.open [{marker}, w]",
            "class_path": "class_path: subprocess.Popen\ninit_args: {{args: [touch, {marker}]}}",
            "aliases": "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]",
            "nesting": "seed: " + "[" * 5000 + "]" * 5000,
            "2 MB": "seed: 1 #" + "x" * (2 << 20),
        }.items()
    ]
    return [
        Attack("trainer state: pickle", _state, _hostile_state, _sound_state),
        Attack("released weights: pickle", _released, hostile_pt, _sound_checkpoint),
        Attack("checkpoint: pickle", _checkpoint, _pickled_weights, _sound_checkpoint),
        Attack("checkpoint: header", _checkpoint, _endless_header, _sound_checkpoint),
        Attack("checkpoint: huge model", _checkpoint, _huge_model, _sound_checkpoint),
        Attack("PNG: 8192 x 8192", _picture, _bomb, _sound_picture),
        Attack("TFRecord: length 2^62", _records, _long_record, _sound_records),
        *yaml,
        *archives,
        Attack("SB3 agent: pickle", _agent, _hostile_agent, _sound_agent),
    ]


# --- how users read ------------------------------------------------------------------------------


def _state(path: Path) -> None:
    from pretrain.state import load_state

    said: list[str] = []
    if load_state(path, config="settings", say=said.append) is None:
        raise ValueError(said[0])


def _released(path: Path) -> None:
    from genesis_rl.released import load_released_checkpoint

    if path.is_file():  # a sound one is the authors', whose place any sound weights take here
        load_released_checkpoint(path)
    else:
        _checkpoint(path)


def _checkpoint(path: Path) -> None:
    from genesis_rl.checkpoint import load_checkpoint

    load_checkpoint(path)


def _config(path: Path) -> None:
    from pretrain.config import build
    from pretrain.strict_yaml import load_yaml

    build(load_yaml(path))


def _picture(path: Path) -> None:
    from pretrain.data.pixels import decode_rgb

    decode_rgb(path.read_bytes())


def _records(path: Path) -> None:
    from pretrain.data.tfrecord import read_records

    list(read_records(path))


def _unpack(path: Path) -> None:
    from pretrain.data.unpack import unpack

    unpack(path, path.parent / "target", progress=False)


def _agent(path: Path) -> None:
    from stable_baselines3 import PPO

    from genesis_rl.agents import load_agent

    load_agent(PPO, path.with_name(path.name + ".zip"), _venv())


# --- attacks and sound files ---------------------------------------------------------------------


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _hostile_state(path: Path, marker: Path) -> None:
    _save_state(path, {"weights": [1.0], "bait": Bait(marker)})


def _sound_state(path: Path) -> None:
    _save_state(path, {"weights": [1.0]})


def _save_state(path: Path, state: dict[str, Any]) -> None:
    from pretrain.state import save_state

    (path / "checkpoints").mkdir(parents=True)
    save_state(path, state, step=1, config="settings", keep=1)


def hostile_pt(path: Path, marker: Path) -> None:
    """Writes a pickle that makes a file."""
    from pretrain.state import pack

    path.write_bytes(pack({"model_state_dict": Bait(marker)}))


def _sound_checkpoint(path: Path) -> None:
    from benchmarks.reliability_training import TINY
    from genesis_rl import save_checkpoint
    from genesis_rl.models.genesis import Genesis

    save_checkpoint(path, Genesis(TINY))


def _pickled_weights(path: Path, marker: Path) -> None:
    _sound_checkpoint(path)
    hostile_pt(path / "model.safetensors", marker)
    _resign(path)


def _endless_header(path: Path, marker: Path) -> None:
    _sound_checkpoint(path)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{" + bytes(1000))
    _resign(path)


def _huge_model(path: Path, marker: Path) -> None:
    _sound_checkpoint(path)
    entry = json.loads((path / "config.json").read_text())
    entry["config"] |= {"num_slots": 4096, "image_size": 4096, "width": 4096}
    (path / "config.json").write_text(json.dumps(entry))
    _resign(path)


def _resign(folder: Path) -> None:
    """Makes the manifest fit, as whoever writes all three files can."""
    files = {}
    for name in ("model.safetensors", "config.json"):
        data = (folder / name).read_bytes()
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def _yaml(text: str, path: Path, marker: Path) -> None:
    path.write_text(text.format(marker=marker) if "{marker}" in text else text)


def _sound_yaml(path: Path) -> None:
    path.write_text("seed: 1\n")


def _bomb(path: Path, marker: Path) -> None:
    path.write_bytes(_png(8192))


def _sound_picture(path: Path) -> None:
    path.write_bytes(_png(64))


def _png(side: int) -> bytes:
    """A black RGB picture."""
    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    pixels = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _long_record(path: Path, marker: Path) -> None:
    from pretrain.data.tfrecord import masked_crc32c

    length = struct.pack("<Q", 1 << 62)
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + bytes(1000))


def _sound_records(path: Path) -> None:
    from pretrain.data.tfrecord import write_records

    write_records(path, [b"record"])


def _venv() -> Any:
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv

    from genesis_rl import GenesisVecEnvWrapper

    venv = DummyVecEnv([lambda: gym.make("envs:GenesisRL/SpriteGoal-v0")])
    return GenesisVecEnvWrapper(venv, "multi_dsprites", device="cpu")


def _hostile_agent(path: Path, marker: Path) -> None:
    _save_agent(path, Bait(marker))


def _sound_agent(path: Path) -> None:
    _save_agent(path, None)


def _save_agent(path: Path, passenger: Any) -> None:
    from stable_baselines3 import PPO

    agent = PPO("MlpPolicy", _venv(), n_steps=8, batch_size=8, device="cpu")
    vars(agent)["passenger"] = passenger
    agent.save(path.with_name(path.name + ".zip"))

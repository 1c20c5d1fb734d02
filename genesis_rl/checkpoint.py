"""Writes and reads checkpoints: an id or a path alone rebuilds a model.

A checkpoint is a folder of three files, none of which can run code when it is read:

    model.safetensors   the weights
    config.json         the model's name and configuration, and whatever the writer wants to note
    manifest.json       SHA-256 and size of the two files above; safetensors has no checksum itself

Ids are the folders under `genesis_rl/weights`; everything else is taken for a path.
"""

import dataclasses
import difflib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import genesis_rl
from genesis_rl.checkpoint_files import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    hash_checked,
    manifest_of,
    read_checked,
    read_manifest,
)
from genesis_rl.durable import parse_json, replace_folder, to_json, write_durably

StrPath: TypeAlias = str | os.PathLike[str]

MODELS = {
    "genesis": ("genesis_rl.models.genesis", "Genesis", "GenesisConfig"),
    "genesis_s": ("genesis_rl.models.genesis_s", "GenesisS", "GenesisSConfig"),
    "monet": ("genesis_rl.models.monet", "Monet", "MonetConfig"),
    "bd_vae": ("genesis_rl.models.vae", "BdVae", "VaeConfig"),
    "dc_vae": ("genesis_rl.models.vae", "DcVae", "VaeConfig"),
}
SHIPPED = Path(__file__).parent / "weights"

_MAX_HEADER_BYTES = 1 << 20
_MAX_NUMBER = 4096  # no slot count, image size or width comes near
_QUANTISED_FROM = 1_000_000  # elements; only GENESIS's two "fully connected" layers are larger
_SCALE_SUFFIX = "::scale"  # no parameter name can hold a colon


def save_checkpoint(
    folder: StrPath,
    model: nn.Module,
    *,
    metadata: Mapping[str, Any] | None = None,
    compact: bool = False,
) -> Path:
    """Writes a model to `folder`, all of it or nothing.

    An older checkpoint there is replaced; files that are not part of one (a model card, say) stay.

    Args:
        folder: Where to write; made if missing.
        model: One of this library's models, with its `config`.
        metadata: JSON values worth keeping beside the weights, such as steps or a dataset's name.
        compact: Stores the two largest layers as int8 with one scale per row and the other matrices
            as float16: 15 MB instead of 50 MB for the default GENESIS.

    Returns:
        The folder.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a checkpoint needs a folder")
    # Only a bare folder or an older checkpoint may be replaced: the folder is swapped as a whole.
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} holds files but no checkpoint, so it is not replaced; choose a new folder"
        )
    name = _name_of(model)
    tensors = {key: _detached(value) for key, value in model.state_dict().items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"not saved to {folder}: {key} holds NaN or infinite values")
    tensors = _compress(tensors) if compact else tensors
    config = {
        "model": name,
        "config": dataclasses.asdict(model.config),  # type: ignore[call-overload]
        "metadata": dict(metadata or {}),
        "genesis_rl": genesis_rl.__version__,
    }
    files = {WEIGHTS: safetensors.torch.save(tensors), CONFIG: to_json(config)}
    files[MANIFEST] = manifest_of(files)

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system.
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for file, data in files.items():
            write_durably(fresh / file, data)
        fresh.chmod(0o755)  # mkdtemp's folders are private
        replace_folder(fresh, folder, files=list(files))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def load_checkpoint(id_or_path: StrPath) -> Any:
    """Rebuilds the model that an id or a path names: float32, on the CPU, in eval mode.

    Every file is checked against the manifest, and every tensor against the model, before a single
    weight is set. The global random state is left as it was.

    Raises:
        FileNotFoundError: There is no such checkpoint, or a part of it is missing.
        ValueError: It is damaged, or does not fit the model it claims to be.
    """
    folder = resolve_checkpoint(id_or_path)
    model_class, config = _model_config(_entry(folder), folder)
    try:
        with _ShapesOnly():
            expected = dict(model_class(config).state_dict())
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{folder / CONFIG} describes no possible model: {error}") from error
    most = sum(4 * math.prod(t.shape) + 8 for t in expected.values()) + _MAX_HEADER_BYTES
    data = read_checked(folder, WEIGHTS, read_manifest(folder), limit=most)
    try:
        stored = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from error
    tensors = _decompress(stored, folder / WEIGHTS)
    _check_tensors(tensors, expected, folder / WEIGHTS)

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = model_class(config)  # draws weights, only to have them replaced
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def checkpoint_name(id_or_path: StrPath) -> str:
    """Returns an id or a path as text.

    Raises:
        TypeError: It is neither, such as None or a model.
    """
    if not isinstance(id_or_path, str | os.PathLike):
        raise TypeError(
            "a checkpoint is a shipped id such as 'multi_dsprites' or a folder that "
            f"save_checkpoint(folder, model) has written, but got {type(id_or_path).__name__}"
        )
    return str(os.fspath(id_or_path))


def resolve_checkpoint(id_or_path: StrPath) -> Path:
    """Turns a shipped id or a path into the checkpoint's folder.

    Raises:
        FileNotFoundError: Neither a shipped id nor a folder; the message lists the ids.
        TypeError: It is neither text nor a path.
        ValueError: The path is something else than a folder.
    """
    text = checkpoint_name(id_or_path)
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
    if text in shipped:
        return SHIPPED / text
    if len(text) > _MAX_NUMBER or "\n" in text:
        raise FileNotFoundError(
            f"no checkpoint {text[:40]!r}...: needed is an id or a folder; a model is saved first, "
            "by save_checkpoint(folder, model)"
        )
    path = Path(text).expanduser()
    if path.name in (WEIGHTS, CONFIG, MANIFEST) and path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(
            f"a checkpoint is a folder with {WEIGHTS} and {CONFIG}, but {path} is a file; files of "
            "the official release are read by load_released_checkpoint"
        )
    close = difflib.get_close_matches(text, shipped, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    ids = ", ".join(map(repr, shipped)) or "none"
    raise FileNotFoundError(
        f"no checkpoint {text!r}: it is neither a folder nor one of the shipped ids ({ids}).{hint}"
    )


def read_config(id_or_path: StrPath) -> dict[str, Any]:
    """Reads and checks `config.json` without touching the weights.

    Returns:
        `{"model": name, "config": {...}, "metadata": {...}, "genesis_rl": version}`, where `config`
        holds every field of the model's configuration, defaults included.
    """
    folder = resolve_checkpoint(id_or_path)
    entry = _entry(folder)
    _, config = _model_config(entry, folder)
    return {**entry, "config": dataclasses.asdict(config)}


def checkpoint_sha256(id_or_path: StrPath) -> str:
    """Names a checkpoint by its content: the SHA-256 of weights and config, both verified."""
    folder = resolve_checkpoint(id_or_path)
    manifest = read_manifest(folder)
    parts = [hash_checked(folder, file, manifest) for file in (CONFIG, WEIGHTS)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


class _ShapesOnly(TorchFunctionMode):
    """Makes parameters without memory, so that a hostile config cannot take all of it.

    `torch.device("meta")` would also catch `torch.tensor`, whose values constructors may need.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _name_of(model: nn.Module) -> str:
    for name, (module, model_class, _) in MODELS.items():
        if (type(model).__module__, type(model).__qualname__) == (module, model_class):
            return name
    known = [model_class for _, model_class, _ in MODELS.values()]
    raise TypeError(f"a checkpoint holds one of {known}, but got {type(model).__name__}")


def _model_config(entry: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Looks up the model's class and builds its configuration, or says what is wrong with it."""
    path = folder / CONFIG
    name, values = entry.get("model"), entry.get("config")
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"{path}: unknown model {name!r}; this version knows {sorted(MODELS)}")
    if not isinstance(values, dict):
        raise ValueError(f"{path}: 'config' must be an object, but is {type(values).__name__}")
    module, model_class, config_class = MODELS[name]
    config_type = getattr(import_module(module), config_class)
    fields = [field.name for field in dataclasses.fields(config_type)]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{path}: unknown config keys {unknown}; the fields are {fields}")
    try:
        for key, value in values.items():
            if isinstance(value, int | float) and not abs(value) <= _MAX_NUMBER:
                raise ValueError(f"{key} is {value}, beyond any model")
        config = config_type(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return getattr(import_module(module), model_class), config


def _entry(folder: Path) -> dict[str, Any]:
    return parse_json(read_checked(folder, CONFIG, read_manifest(folder)), folder / CONFIG)


def _compress(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stores large matrices as int8 with a scale per row, other matrices as float16."""
    packed = {}
    for key, value in tensors.items():
        if not value.is_floating_point() or value.dim() < 2:
            packed[key] = value  # biases and normalisation: nothing to gain, much to lose
        elif value.dim() == 2 and value.numel() >= _QUANTISED_FROM:
            # float32 scales: the weights are about 1e-2, so scales in float16 would be subnormal.
            scale = value.abs().amax(dim=1).clamp(min=1e-30) / 127
            packed[key] = (value / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            packed[key + _SCALE_SUFFIX] = scale.float()
        else:
            half = value.half()
            packed[key] = half if bool(torch.isfinite(half).all()) else value
    return packed


def _decompress(stored: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    tensors = {}
    for key, value in stored.items():
        if key.endswith(_SCALE_SUFFIX):
            continue
        if value.dtype == torch.int8:
            scale = stored.get(key + _SCALE_SUFFIX)
            if scale is None or scale.shape != value.shape[:1] or scale.dtype != torch.float32:
                raise ValueError(f"{path}: {key} is int8, but its scales are missing or misshapen")
            value = value.float() * scale[:, None]
        tensors[key] = value.float() if value.dtype == torch.float16 else value
    orphans = {key for key in stored if key.endswith(_SCALE_SUFFIX)}
    orphans -= {key + _SCALE_SUFFIX for key in stored if stored[key].dtype == torch.int8}
    if orphans:
        raise ValueError(f"{path}: scales without a matrix: {sorted(orphans)[:3]}")
    return tensors


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{path} does not fit its config: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    for key, value in tensors.items():
        wanted = expected[key]
        if value.shape != wanted.shape or value.dtype != wanted.dtype:
            raise ValueError(
                f"{path} does not fit its config: {key} must be {list(wanted.shape)} "
                f"{_short(wanted)}, but is {list(value.shape)} {_short(value)}"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {key} holds NaN or infinite values, so it is not loaded")


def _detached(value: Tensor) -> Tensor:
    """A plain copy: safetensors refuses views of one storage and permuted layouts."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

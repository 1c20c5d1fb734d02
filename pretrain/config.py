"""A training run is a dataclass, filled strictly; `flags.py` fills it from the command line.

Imports neither torch nor numpy, so that `--help` is instant.
"""

import hashlib
import json
import re
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pretrain.command_line import suggest
from pretrain.data import DATASETS, parse_name
from pretrain.strict_yaml import dump_yaml

PRESETS = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line and says what would."""


def _fixed(default: Any) -> Any:
    """A field that decides what is learnt, so a run keeps it from its first to its last step."""
    return field(default=default, metadata={"fixed": True})


@dataclass(frozen=True)
class Config:
    """Settings of one training run.

    Attributes:
        dataset: multi_dsprites, dm_multi_dsprites, gqn, shapestacks, or env:ID of an environment.
        data_dir: Folder of the dataset's files; without it all but dm_multi_dsprites are made here.
        train_images: Training images to use; 0 takes the dataset's own number.
        unique_colours: multi_dsprites: no two things in an image share a colour.
        on_corrupt: gqn and dm_multi_dsprites: a damaged record is an error, or skipped up to 0.1 %.
        crop: env: side of the central square that is cut out of a frame first; 0 for all of it.
        num_envs: env: environments that are stepped in turn while frames are collected.
        model: Which model to train.
        num_slots: Slots K, the background included. The VAEs have one, whatever this says.
        image_size: Side of the square images in pixels: 32, 64 or 128.
        mask_latents: genesis: numbers that say where an object is.
        component_latents: genesis and monet: numbers that say what it looks like.
        latents: genesis_s and the VAEs: numbers that say both.
        width: Filters of the first layer; all others follow.
        norm: genesis and genesis_s: normalisation of the gated convolutions.
        std: Standard deviation of every slot's pixels, on the scale [0, 1].
        first_std: The same for slot 1 alone; none means as the others.
        likelihood: One mixture a channel (the release) or a pixel; or a Gaussian around the blend.
        objective: geco minimises the KL once the goal is met; beta weighs it by hand.
        goal: GECO's reconstruction error to reach, in nats per pixel and channel.
        geco_step: GECO's learning rate of log beta, per nat of the summed error at 64x64 pixels.
        geco_speedup: GECO: factor on that rate while the goal is met.
        geco_decay: GECO: weight of the past in the running error.
        geco_first_beta: GECO: the beta to start with.
        geco_beta_min: GECO: beta's lower bound.
        geco_beta_max: GECO: beta's upper bound.
        geco_largest_step: GECO: bound on a step's change of log beta; 0 for none.
        goal_half_life: GECO: steps that halve the way from first_goal to goal; 0 starts at goal.
        first_goal: GECO: an easier goal to start from; none takes the first error seen.
        beta: Weight of the KL with the beta objective.
        beta_warmup: Fraction of the steps over which that weight grows from 0.
        steps: Updates to make in all.
        batch_size: Images per update.
        optimiser: rmsprop is Adam without momentum (betas 0 and 0.99), bias correction kept.
        learning_rate: Of the optimiser.
        learning_rate_warmup: Steps over which it grows from 0 first.
        learning_rate_schedule: After that: constant, or the half cosine that is 0 after all steps.
        gradient_clip: Largest norm of the gradient, as in train/gradient_norm; 0 for any.
        weight_average: Decay of the average of weights that is judged and exported; 0 for none.
        start_from: Checkpoint (id or folder) whose weights training starts from; none draws them.
        seed: Of weights, data order and noise.
        device: auto takes CUDA where there is one.
        precision: Of convolutions; losses are always float32. auto: bf16 on CUDA, fp32 on CPU.
        compile: torch.compile and one CUDA graph for the whole step. auto: on CUDA only.
        fused: Own kernels for batch norm, gate, Adam and more on CUDA: the same numbers up to
            rounding. auto: where Triton is.
        deterministic: Bitwise repeatable on CUDA too, at a price in speed.
        log_every: Steps between lines of metrics.
        validate_every: Steps between validations; 0 for none.
        validation_images: Images to validate on.
        picture_every: Steps between picture grids; 0 for none.
        checkpoint_every: Steps between saved states; one is always saved at the end.
        keep: Saved states to keep, newest first.
        max_minutes: Stop and save after that many minutes; 0 for no limit.
        out: Run folder. Default: runs/ and the dataset's name.
        resume: Continue the run in the folder from its newest sound state.
    """

    dataset: str = _fixed("multi_dsprites")
    data_dir: str | None = _fixed(None)
    train_images: int = _fixed(0)
    unique_colours: bool = _fixed(False)
    on_corrupt: Literal["stop", "skip"] = _fixed("stop")
    crop: int = _fixed(0)
    num_envs: int = _fixed(8)
    model: Literal["genesis", "genesis_s", "monet", "bd_vae", "dc_vae"] = _fixed("genesis")
    num_slots: int = _fixed(5)
    image_size: int = _fixed(64)
    mask_latents: int = _fixed(64)
    component_latents: int = _fixed(16)
    latents: int = _fixed(64)
    width: int = _fixed(32)
    norm: Literal["batch", "instance"] = _fixed("batch")
    std: float = _fixed(0.7)
    first_std: float | None = _fixed(None)
    likelihood: Literal["mixture_per_channel", "mixture_per_pixel", "gaussian_composite"] = _fixed(
        "mixture_per_channel"
    )
    objective: Literal["geco", "beta"] = _fixed("geco")
    goal: float = _fixed(0.5655)
    geco_step: float = _fixed(1e-5)
    geco_speedup: float = _fixed(10.0)
    geco_decay: float = _fixed(0.99)
    geco_first_beta: float = _fixed(1.0)
    geco_beta_min: float = _fixed(1e-10)
    geco_beta_max: float = _fixed(1e10)
    geco_largest_step: float = _fixed(0.0)
    goal_half_life: float = _fixed(0.0)
    first_goal: float | None = _fixed(None)
    beta: float = _fixed(0.5)
    beta_warmup: float = _fixed(0.2)
    steps: int = 500_000
    batch_size: int = _fixed(32)
    optimiser: Literal["adam", "rmsprop"] = _fixed("adam")
    learning_rate: float = _fixed(1e-4)
    learning_rate_warmup: int = _fixed(0)
    learning_rate_schedule: Literal["constant", "cosine"] = _fixed("constant")
    gradient_clip: float = _fixed(0.0)
    weight_average: float = _fixed(0.0)
    start_from: str | None = _fixed(None)
    seed: int = _fixed(0)
    device: str = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = _fixed("auto")
    compile: Literal["auto", "on", "off"] = "auto"
    fused: Literal["auto", "on", "off"] = "auto"
    deterministic: bool = False
    log_every: int = 100
    validate_every: int = 5_000
    validation_images: int = 320
    picture_every: int = 25_000
    checkpoint_every: int = 10_000
    keep: int = 2
    max_minutes: float = 0.0
    out: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuses values that no run could use."""
        kind = self.dataset.partition(":")[0]
        if kind not in DATASETS:
            raise ConfigError(f"unknown dataset {self.dataset!r}{suggest(kind, list(DATASETS))}")
        try:
            parse_name(self.dataset)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for name, owner in (("unique_colours", "multi_dsprites"), ("crop", "env")):
            if getattr(self, name) and kind != owner:
                raise ConfigError(f"{name} is for dataset {owner} only, but this is {self.dataset}")
        if self.image_size not in (32, 64, 128):
            raise ConfigError(f"image_size must be 32, 64 or 128, but got {self.image_size}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, but got {self.device!r}")
        for names, low, high in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not low <= value <= high:  # NaN is outside of everything
                    raise ConfigError(f"{name} must be between {low} and {high}, but got {value}")
        if self.first_goal is not None and not self.goal_half_life:
            raise ConfigError("first_goal needs a goal_half_life above 0, or it stays")
        if self.first_std is not None and self.likelihood == "gaussian_composite":
            raise ConfigError("first_std needs a mixture; a gaussian_composite has one deviation")
        if self.geco_beta_min > self.geco_beta_max:
            raise ConfigError(f"geco_beta_min {self.geco_beta_min} is above geco_beta_max")
        if not self.geco_beta_min <= self.geco_first_beta <= self.geco_beta_max:
            bounds = f"{self.geco_beta_min} and {self.geco_beta_max}"
            raise ConfigError(
                f"geco_first_beta must be between the bounds of beta, {bounds}, but got "
                f"{self.geco_first_beta}"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out or "runs/" + re.sub(r"[^\w.-]+", "-", self.dataset)).expanduser()

    def fixed_values(self) -> dict[str, Any]:
        """The settings that may not change when a run is resumed."""
        names = {f.name for f in fields(self) if f.metadata.get("fixed")}
        if self.objective == "beta" or self.learning_rate_schedule == "cosine":
            names.add("steps")  # warm-up and cosine are fractions of them
        return {name: value for name, value in asdict(self).items() if name in names}

    def fingerprint(self) -> str:
        """SHA-256 of the settings that may not change."""
        return hashlib.sha256(json.dumps(self.fixed_values(), sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """All settings, readable by `--config`."""
        return dump_yaml(asdict(self))


_RANGES: list[tuple[str, float, float]] = [
    ("num_slots", 2, 64),
    ("mask_latents component_latents latents width", 1, 1024),
    ("std first_std", 1e-3, 10),
    ("goal first_goal", -10, 10),
    ("geco_first_beta geco_beta_min geco_beta_max", 1e-30, 1e30),
    ("geco_largest_step weight_average", 0, 1),
    ("goal_half_life learning_rate_warmup gradient_clip", 0, 10**9),
    ("geco_step", 0, 1),
    ("geco_speedup", 1, 1e4),
    ("geco_decay", 0, 1),
    ("beta", 0, 1e6),
    ("beta_warmup", 0, 1),
    ("steps batch_size log_every validation_images checkpoint_every", 1, 10**9),
    ("train_images validate_every picture_every", 0, 10**9),
    ("num_envs", 1, 1024),
    ("crop", 0, 10**5),
    ("learning_rate", 1e-9, 1),
    ("seed", 0, 2**31 - 1),
    ("keep", 2, 10**6),  # with a single one, damage to the newest would end the run
    ("max_minutes", 0, 10**6),
]
_NAMES = [f.name for f in fields(Config)]
_TYPES = typing.get_type_hints(Config)


def build(values: dict[str, Any], base: Config | None = None) -> Config:
    """Converts every value by its field's type, on top of `base` or the defaults.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or is out of range.
    """
    for name in values:
        if name not in _NAMES:
            raise ConfigError(f"unknown key {name!r}{suggest(str(name), _NAMES)}")
    converted = {name: _convert(name, value, _TYPES[name]) for name, value in values.items()}
    return replace(base or Config(), **converted)


def find_config(name_or_path: str) -> Path:
    """Returns the file of a preset's name or a path."""
    preset = PRESETS / f"{name_or_path}.yaml"
    if re.fullmatch(r"[\w-]+", name_or_path) and preset.is_file():
        return preset
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    hint = suggest(name_or_path, preset_names())
    raise ConfigError(f"no config {name_or_path!r}: neither a file nor a preset{hint}")


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Turns a YAML or command-line value into the field's type, never by guessing."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        value = {True: "on", False: "off"}.get(value, value) if type(value) is bool else value
        if value not in choices:
            raise ConfigError(f"{name} must be one of {list(choices)}, but got {value!r}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float) and isinstance(value, str):  # from the command line
        try:
            return kind(value)
        except ValueError:
            pass
    if type(value) is not kind:
        raise ConfigError(f"{name} must be {_WORDS[kind]}, but got {value!r}")
    return value


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def preset_names() -> list[str]:
    """Returns the names that `find_config` knows."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))

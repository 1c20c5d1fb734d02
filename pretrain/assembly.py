"""From settings to the parts of a run: device, data, model and objective."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genesis_rl.checkpoint import MODELS, load_checkpoint
from genesis_rl.losses.geco import BetaWarmup, Geco, Objective
from genesis_rl.losses.mixture import LIKELIHOODS, Likelihood
from genesis_rl.models.layers import full_precision
from genesis_rl.models.slots import Inference, SlotModel
from pretrain.config import Config
from pretrain.data import can_generate, load
from pretrain.data.images import ImageDataset
from pretrain.engine import Precision
from pretrain.kernels import why_not
from pretrain.state import Stop

# RMSprop is Adam without a first moment; what is left of Adam is the bias correction.
BETAS = {"adam": (0.9, 0.999), "rmsprop": (0.0, 0.99)}


class LoadedSplit(NamedTuple):
    """A split of a dataset in the device's memory.

    Attributes:
        images: `[N, H, W, 3]` uint8 RGB.
        masks: `[N, H, W]` uint8, 0 for the background; None: unknown.
        source: Where they come from, in words.
    """

    images: Tensor
    masks: Tensor | None
    source: str


def load_split(config: Config, split: str, size: int | None, device: torch.device) -> LoadedSplit:
    """Puts a split of the run's dataset into the device's memory.

    Raises:
        Stop: The data cannot be used (status 3).
    """
    try:
        dataset = open_split(config, split, size, device)
        images, masks = dataset.all(progress=sys.stderr.isatty(), device=device)
        return LoadedSplit(images, masks, dataset.source)
    except (ValueError, OSError) as error:
        raise Stop(3, str(error)) from error


def open_split(config: Config, split: str, size: int | None, device: torch.device) -> ImageDataset:
    """Opens a split of the run's dataset; gqn and shapestacks are generated if nobody gave them."""
    options: dict[str, Any] = {"unique_colours": True} if config.unique_colours else {}
    match config.dataset.partition(":")[0]:
        case "env":
            options = {"crop": config.crop, "num_envs": config.num_envs}
        case "gqn" | "dm_multi_dsprites":
            options = {"on_corrupt": config.on_corrupt}
    data_dir: str | Path | None = config.data_dir
    if data_dir is None and can_generate(config.dataset):
        from pretrain.data.lookalike import provide  # only who generates needs a renderer

        train = config.train_images or None
        validation = config.validation_images
        data_dir = provide(config.dataset, train=train, validation=validation, device=device)
    return load(
        config.dataset,
        split,
        size=size,
        image_size=config.image_size,
        data_dir=data_dir,
        device=device,
        **options,
    )


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """Returns the device of that name; auto prefers CUDA.

    Args:
        name: auto, cpu, cuda or cuda:N.
        local_rank: Which of several processes on its machine this is; each has a GPU of its own.

    Raises:
        Stop: There is no such GPU (status 2).
    """
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and not available:
        raise Stop(2, f"--device {name} needs a CUDA GPU, but torch sees none; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Stop(2, f"--device {name}: there are only {torch.cuda.device_count()} GPUs")
    if local_rank and name.startswith("cuda:") and device.index != local_rank:
        raise Stop(2, f"--device {name} is one GPU for several processes; use --device cuda")
    return device


def pick_precision(config: Config, device: torch.device) -> Precision:
    """Returns the precision of the convolutions; auto means bf16 on CUDA."""
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return config.precision


def pick_kernels(config: Config, device: torch.device) -> bool:
    """Returns whether norm and gate run on our own kernels; auto means where they can.

    Raises:
        Stop: They are asked for and cannot run (status 2).
    """
    if config.fused == "off" or (config.fused == "auto" and device.type != "cuda"):
        return False
    reason = why_not(device)
    if reason and config.fused == "on":
        raise Stop(2, f"--fused on: {reason}")
    if reason:
        warnings.warn(f"{reason}; training is slower without", RuntimeWarning, stacklevel=2)
    return not reason


def set_up_torch(config: Config, device: torch.device) -> None:
    """Sets torch's global switches; to be called before CUDA has been used.

    Raises:
        Stop: The device lacks what the configuration asks for (status 2).
    """
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # torch 2.11 wants a number
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # A warning, not an error: cumsum is on torch's list, but over K slots it is deterministic.
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"


def build_model(config: Config) -> SlotModel:
    """Draws a model's first weights from the global generator.

    A model takes those of the run's settings that its own configuration has by the same name.
    """
    home, model, settings = MODELS[config.model]
    module = import_module(home)
    settings_type = getattr(module, settings)
    names = [f.name for f in fields(settings_type) if hasattr(config, f.name)]
    values = {name: getattr(config, name) for name in names}
    built: SlotModel = getattr(module, model)(settings_type(**values))
    if config.likelihood != "mixture_per_channel":  # which is what models measure by themselves
        built.register_forward_hook(partial(_measure_by, LIKELIHOODS[config.likelihood]))
    return built


def take_weights(model: SlotModel, checkpoint: str) -> None:
    """Starts a model from a checkpoint's weights and normalisation statistics.

    Args:
        model: A new one; the number of its slots may be another.
        checkpoint: A shipped id or a folder.

    Raises:
        Stop: There is no such checkpoint, or its model is another one (status 2).
    """
    try:
        source = load_checkpoint(checkpoint)
        if type(source) is not type(model):
            raise ValueError(f"it holds a {type(source).__name__}, not a {type(model).__name__}")
        theirs, mine = source.state_dict(), model.state_dict()
        for name, tensor in mine.items():
            here, there = list(tensor.shape), list(theirs[name].shape)
            if here != there:
                advice = _differing(source, model)
                raise ValueError(f"its {name} is {there}, that of these settings {here}{advice}")
    except (OSError, ValueError, KeyError) as error:
        raise Stop(2, f"start_from {checkpoint}: {error}") from error
    model.load_state_dict(theirs)


def _differing(source: SlotModel, model: SlotModel) -> str:
    """Says which settings would have to be those of a checkpoint's model."""
    theirs, mine = asdict(source.config), asdict(model.config)
    names = [name for name in theirs if theirs[name] != mine[name] and name != "num_slots"]
    return f"; set {', '.join(f'{name}={theirs[name]}' for name in names)}" if names else ""


def _measure_by(
    likelihood: Likelihood, model: SlotModel, arguments: tuple[Any, ...], output: Inference
) -> Inference:
    """Replaces the error in a model's output, in training and in validation alike.

    A hook, because the likelihood is a choice of the training: a checkpoint knows nothing of it.
    """
    with full_precision(output.components):
        stds, images = model.stds, arguments[0].float()
        error = likelihood(images, output.log_masks, output.components.float(), stds)
    return replace(output, error=error)


def build_objective(config: Config) -> Objective:
    """Returns what turns error and KL into a loss."""
    if config.objective == "beta":
        return BetaWarmup(config.beta, warmup_steps=round(config.beta_warmup * config.steps))
    return Geco.for_image_size(
        config.image_size,
        goal=config.goal,
        step_size=config.geco_step,
        speedup=config.geco_speedup,
        decay=config.geco_decay,
        first_beta=config.geco_first_beta,
        beta_range=(config.geco_beta_min, config.geco_beta_max),
        largest_step=config.geco_largest_step or math.inf,
        half_life=config.goal_half_life,
        first_goal=config.first_goal,
    )


def engine_options(config: Config) -> dict[str, Any]:
    """Returns what an engine has to know of the settings, by the names of its arguments."""
    return {
        "learning_rate": config.learning_rate,
        "betas": BETAS[config.optimiser],
        "schedule": learning_rate_schedule(config),
        "clip": config.gradient_clip,
        "average": config.weight_average,
    }


def learning_rate_schedule(config: Config) -> Callable[[int], float] | None:
    """Returns the factor on the learning rate as a function of steps made; None where it is 1."""
    warmup, steps = config.learning_rate_warmup, config.steps
    cosine = config.learning_rate_schedule == "cosine"
    if not warmup and not cosine:
        return None

    def factor(step: int) -> float:
        if step < warmup:  # 1) a straight line; its first step is not 0, which would be wasted
            return (step + 1) / warmup
        if cosine:  # 2) from 1 at the end of the warm-up to 0 at the end of the run
            done = (step - warmup) / max(steps - warmup, 1)
            return 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0))
        return 1.0

    return factor

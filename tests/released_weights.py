"""Deterministic stand-ins for released checkpoints: weights drawn from their own names.

The numbers that the authors' release computes from these very weights are in `tests/data`.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"


def fixture(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text())


def released_state_dict(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(_draw(name, shape)) for name, shape in shapes.items()}


def fixture_images(record: dict) -> Tensor:
    shape = (record["batch"], 3, record["img_size"], record["img_size"])
    pixels = np.random.default_rng(record["input_seed"]).random(shape)
    return torch.as_tensor(pixels.astype(np.float32))


def _draw(name: str, shape: list[int]) -> np.ndarray:
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name == "std":
        return np.full(shape, 0.7, np.float32)
    if name.endswith("num_batches_tracked"):
        return np.array(100)
    if name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name.endswith("running_mean"):
        n = 0.1 * n
    elif len(shape) >= 2:
        n = n / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight"):
        n = 1 + 0.1 * n
    else:
        n = 0.1 * n
    return np.asarray(n, np.float32)

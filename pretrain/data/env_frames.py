"""Frames of any Gymnasium environment, for pretraining on what an agent will see.

    python pretrain/run.py --dataset env:CartPole-v1 --num-slots 4

Environments that observe RGB images give those, others what they render as "rgb_array".
"""

import re
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from envs.base import usable_device
from genesis_rl.wrappers.frames import FrameFormat
from pretrain.data import cache
from pretrain.data.cache import Arrays, CachedImages, cache_folder, fill
from pretrain.data.cached import ConvertedDataset
from pretrain.data.images import SPLITS, check_split

Policy = Callable[[Any], Any]
"""From the observations of n environments to their n actions."""

_SIZES = {"train": 50_000, "val": 10_000, "test": 10_000}


class EnvFrames(ConvertedDataset):
    """One split of frames that are collected once and then kept.

    Every 4,096 frames begin with new episodes, whose seeds depend on seed, split and the number of
    the shard: collecting that was interrupted goes on where it was, and gives the same frames.
    There are no masks.

    Args:
        split: "train", "val" or "test"; they differ in the seeds of the episodes.
        seed: Of episodes and random actions.
        size: Number of frames to collect; 50,000 or 10,000 unless given.
        image_size: Height and width. Frames are resized by area, as the wrappers do it.
        variant: The environment's id; `module:Name-v0` imports a module that registers it.
        crop: Side of the central square that is cut out first; the wrappers do not crop, so an
            agent's environment has to do the same. 0 takes the whole frame.
        num_envs: Environments that are stepped in turn.
        policy: From the observations of all environments to their actions; random unless given.
        policy_name: What tells this policy's frames from another's; needed with `policy`.
        data_dir: Where to keep the frames, by split. Frames that lie there, whichever policy they
            come from, are used if they are enough.
        device: Where batches are returned.

    Example:
        >>> frames = EnvFrames("val", variant="CartPole-v1", size=100)  # doctest: +SKIP
    """

    num_slots = 5

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        size: int | None = None,
        image_size: int = 64,
        variant: str | None = None,
        crop: int = 0,
        num_envs: int = 8,
        policy: Policy | None = None,
        policy_name: str | None = None,
        data_dir: str | Path | None = None,
        device: Any = "cpu",
    ):
        check_split(split)
        if not variant:
            raise ValueError("name the environment, as in env:CartPole-v1.")
        if (policy is None) != (policy_name is None):
            raise ValueError("a policy needs a policy_name, and the other way round.")
        if size is not None and size < 1:
            raise ValueError(f"size needs to be at least 1 frame, but got {size}.")
        if num_envs < 1 or crop < 0:
            raise ValueError(f"num_envs is {num_envs} and crop {crop}, but cannot be negative.")
        self.name, self.source = f"env:{variant}", f"frames of {variant}"
        self.split, self.image_size = split, image_size
        self.device = usable_device(device)
        self.size, self.first = size or _SIZES[split], 0
        key = {
            "environment": variant,
            "split": split,
            "seed": seed,
            "image_size": image_size,
            "crop": crop,
            "num_envs": num_envs,
            "policy": policy_name or "random",
        }
        self.kept = self._collected(data_dir, key, policy)

    def _collected(
        self, data_dir: str | Path | None, key: dict[str, Any], policy: Policy | None
    ) -> CachedImages:
        given = None if data_dir is None else Path(data_dir).expanduser() / self.split
        if given is not None and (given / "manifest.json").is_file():
            kept = CachedImages(given)
            fixed = ("environment", "split", "image_size", "crop")
            if len(kept) >= self.size and all(kept.manifest["key"][n] == key[n] for n in fixed):
                return kept
        folder = cache_folder(self.name, key, given)
        if not folder.exists():  # a first frame, so that what gives none leaves no folder behind
            with closing(collect(key, 0, 1, policy)) as frames:
                next(frames)
        return fill(
            folder,
            key,
            self.size,
            lambda first, last: collect(key, first // cache.SHARD, last - first, policy),
            label=f"collecting {self.name} {self.split}",
            progress=sys.stderr.isatty(),
        )


def collect(
    key: dict[str, Any], shard: int, count: int, policy: Policy | None = None
) -> Generator[Arrays, None, None]:
    """The first frames of a shard's episodes, `[<= num_envs, S, S, 3]` uint8 at a time.

    Args:
        key: `environment`, `seed`, `split`, `num_envs`, `crop` and `image_size` of the frames.
        shard: Decides the episodes, together with seed and split.
        count: Frames to take.
        policy: Gives actions; random ones unless given.
    """
    envs, rendered = make_envs(key["environment"], key["num_envs"])
    entropy = (key["seed"], SPLITS.index(key["split"]), shard)
    seeds = np.random.SeedSequence(entropy).generate_state(key["num_envs"] + 1)
    try:
        envs.action_space.seed(int(seeds[-1]))
        observations, _ = envs.reset(seed=[int(seed) for seed in seeds[:-1]])
        while True:
            shown = np.stack(envs.render()) if rendered else observations
            yield _to_images(shown, key["crop"], key["image_size"])[:count], None
            count -= key["num_envs"]
            if count <= 0:
                return
            actions = envs.action_space.sample() if policy is None else policy(observations)
            observations, *_ = envs.step(actions)
    except gym.error.Error as error:
        raise ValueError(f"env:{key['environment']}: {_one_line(error)}") from error
    finally:
        envs.close()


def make_envs(env_id: str, count: int) -> tuple[SyncVectorEnv, bool]:
    """Environments that are stepped together, and whether frames have to be rendered.

    Raises:
        ValueError: There is no such environment, or it gives no pictures.
    """
    try:
        env = gym.make(env_id)
        space = env.observation_space
        modes = env.metadata.get("render_modes") or []
        env.close()
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"env:{env_id} cannot be made: {_one_line(error)}") from error
    observed = (
        isinstance(space, gym.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and 3 in (space.shape[0], space.shape[-1])
    )
    if not observed and "rgb_array" not in modes:
        raise ValueError(
            f"env:{env_id} neither observes uint8 RGB images ({space}) nor renders rgb_array "
            f"(it renders {modes or 'nothing'})."
        )
    render_mode = None if observed else "rgb_array"
    return SyncVectorEnv([lambda: gym.make(env_id, render_mode=render_mode)] * count), not observed


def _to_images(frames: Any, crop: int, size: int) -> np.ndarray:
    """`[n, S, S, 3]` uint8 RGB of `[n, ...]` frames, as the wrappers would show them."""
    frames = np.asarray(frames)
    shape = frames.shape[1:]
    high = 255 if frames.dtype == np.uint8 else 1
    layout = FrameFormat.of(shape, frames.dtype, 0, high)
    if crop:
        rows, columns = (1, 2) if layout.channels_first else (0, 1)
        if crop > min(shape[rows], shape[columns]):
            raise ValueError(f"crop is {crop}, but frames are {list(shape)}.")
        index: list[slice] = [slice(None)] * frames.ndim
        for axis in (rows, columns):
            start = (shape[axis] - crop) // 2
            index[axis + 1] = slice(start, start + crop)
        frames = frames[tuple(index)]
        layout = FrameFormat.of(frames.shape[1:], frames.dtype, 0, high)
    return layout.to_images(frames, size).permute(0, 2, 3, 1).numpy()


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))

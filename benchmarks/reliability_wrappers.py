"""Rows of the scoreboard about observations: both libraries' checkers, and batches of any size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from benchmarks.reliability_runs import Outcome, Tick

KINDS = ("hwc", "chw", "grey", "flat_grey", "float", "opaque")
OWN = tuple(
    f"envs:GenesisRL/{name}-v0"
    for name in (
        *("SpriteGoal", "SpritePush", "SpriteObjectComparison", "SpritePropertyComparison"),
        *("RoomReach", "StackTower"),
    )
)
TOLERANCE = 1e-5


class Scribble(gym.Env[Any, Any]):
    """Shows random pixels, drawn from its own generator, that the action brightens.

    Args:
        kind: How the frame is laid out, one of `KINDS`.
        length: Steps of an episode.
        size: Height and width of the frame.
        truncate: Whether episodes are cut off in place of ending.
        render_mode: As in Gymnasium.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        kind: str = "hwc",
        length: int = 5,
        size: tuple[int, int] = (32, 32),
        truncate: bool = False,
        render_mode: str | None = None,
    ):
        height, width = size
        shape, high, dtype = {
            "hwc": ((height, width, 3), 255, np.uint8),
            "chw": ((3, height, width), 255, np.uint8),
            "grey": ((height, width, 1), 255, np.uint8),
            "flat_grey": ((height, width), 255, np.uint8),
            "float": ((height, width, 3), 1, np.float32),
            "opaque": ((height, width, 4), 255, np.uint8),
        }[kind]
        self.observation_space = gym.spaces.Box(0, high, shape, dtype)
        self.action_space = gym.spaces.Discrete(3)
        self.kind, self.length, self.truncate = kind, length, truncate
        self.size, self.render_mode = (height, width), render_mode
        self.time = 0
        self.pixels = np.zeros((height, width, 4), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._draw(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time >= self.length
        frame = self._draw(int(action))
        reward = float(frame.mean()) * (1 if self.kind == "float" else 1 / 255)
        return frame, reward, over and not self.truncate, over and self.truncate, {}

    def render(self) -> Any:
        return self.pixels[..., :3].copy()

    def _draw(self, action: int) -> NDArray[Any]:
        # Blocks of one colour, so that frames differ in more than noise.
        blocks = self.np_random.integers(0, 200, (4, 4, 4), dtype=np.uint8) + np.uint8(20 * action)
        height, width = self.size
        self.pixels = np.kron(blocks, np.ones((-(-height // 4), -(-width // 4), 1), np.uint8))
        self.pixels = self.pixels[:height, :width]
        return laid_out(self.pixels, self.kind)


def laid_out(pixels: NDArray[Any], kind: str) -> NDArray[Any]:
    """Lays out `[..., H, W, 4]` pixels as an environment of that kind would."""
    match kind:
        case "hwc":
            return pixels[..., :3].copy()
        case "chw":
            return np.moveaxis(pixels[..., :3], -1, -3).copy()
        case "grey":
            return pixels[..., :1].copy()
        case "flat_grey":
            return pixels[..., 0].copy()
        case "float":
            return pixels[..., :3].astype(np.float32) / np.float32(255)
    return pixels.copy()


class _Elsewhere(gym.ObservationWrapper[Any, Any, Any]):
    """Shows observations that are not in its space."""

    def observation(self, observation: Any) -> Any:
        return observation + np.float32(1e6)


def checked(count: int, folder: Path, tick: Tick) -> Outcome:
    """`check_env` of Gymnasium and of Stable-Baselines3 on environments seen through slots."""
    for kind in KINDS:
        if f"reliability/Scribble_{kind}-v0" not in gym.registry:
            options = {"kind": kind, "length": 20, "size": (64, 64)}
            place = f"{__name__}:Scribble"
            gym.register(f"reliability/Scribble_{kind}-v0", entry_point=place, kwargs=options)
    names = [f"reliability/Scribble_{kind}-v0" for kind in KINDS] + list(OWN)
    errors: list[str] = []
    passed = 0
    names = names[:count]
    for name in names:
        found = [error for check in _checkers() if (error := _refusal(check, _seen(name)))]
        errors += [f"{name}: {error}" for error in found]
        passed += not found
        tick()
    noticed = [_refusal(check, _Elsewhere(_seen(names[0]))) for check in _checkers()]
    void = "" if all(noticed) else "a broken environment passes, too"
    facts = {"kinds_of_frames": len(KINDS), "checkers": len(noticed), "errors": errors}
    return Outcome(len(names), passed, f"{len(errors)} errors", void, facts)


def _seen(name: str) -> gym.Env[Any, Any]:
    from genesis_rl import GenesisObsWrapper

    return GenesisObsWrapper(gym.make(name, render_mode="rgb_array"), device="cpu")


def _checkers() -> list[Callable[[Any], None]]:
    from gymnasium.utils.env_checker import check_env
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    return [check_env, sb3_check_env]


def _refusal(check: Callable[[Any], None], env: Any) -> str:
    """What a checker has to say against an environment; warnings are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(env)
        except Exception as error:  # a checker, or what it checks, may raise anything
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def batched(count: int, folder: Path, tick: Tick) -> Outcome:
    """Encodes frames all at once, and again 1, 3 and 8 at a time."""
    import torch

    from genesis_rl.checkpoint import SHIPPED
    from genesis_rl.encoder import open_encoder

    env = gym.make(OWN[0])
    env.action_space.seed(0)
    frames = [env.reset(seed=0)[0]]
    while len(frames) < count:
        frames.append(env.step(env.action_space.sample())[0])
        if len(frames) % 10 == 0:
            frames[-1] = env.reset()[0]
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    models = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
    held, bitwise, worst, least = 0, 0, 0.0, float("inf")
    largest = {}
    for name in models:
        encoder = open_encoder(name, "cpu", "fp32")
        whole = encoder.encode(images)
        apart = torch.zeros(len(images))
        for size in (1, 3, 8):
            parts = torch.cat([encoder.encode(part) for part in images.split(size)])
            apart = torch.maximum(apart, (parts - whole).abs().flatten(1).amax(1))
        held += int((apart <= TOLERANCE).sum())
        bitwise += int((apart == 0).sum())
        worst = max(worst, float(apart.max()))
        largest[name] = {"apart": float(apart.max()), "latent": float(whole.abs().max())}
        least = min(least, float((whole - whole[:1]).abs().max()))
        for _ in images:
            tick()
    void = "" if least > TOLERANCE else "all frames have the same latents"
    facts = {"frames_equal_to_the_last_bit": bitwise, "largest": largest}
    return Outcome(len(models) * len(images), held, f"{worst:.1e} apart", void, facts)

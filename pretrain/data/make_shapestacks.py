"""Generates ShapeStacks: towers drawn by `envs.towers`, in the published set's own format.

    shapestacks/recordings/env_<scenario>/rgb-w=W-f=F-l=L-c=unique-cam_N-mono-0.png
    shapestacks/iseg/env_<scenario>/iseg-w=0-f=0-l=0-c=original-cam_N-mono-0.map
    shapestacks/splits/<default|blocks_all|ccs_all>/{train,eval,test}.txt, and their _bgr_mean.npy
    shapestacks/meta/blacklist_{stable,unstable}.txt     whose simulation contradicts the name

Pictures have 224 pixels and one ray each, as the published ones: it is their resizing that smooths
them. Where MuJoCo is installed every tower is simulated, and those that do not do what their names
say are left out of the splits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from envs.raycast import Renderer
from envs.textures import SurfaceTextures, stack_textures
from envs.tower_blocks import Towers
from envs.tower_physics import mujoco_module, stays
from envs.towers import SHAPES, VIEWS, Shapes, draw_towers, stack_camera, tower_scene
from pretrain.data.generate import Written, put_file
from pretrain.data.pixels import in_threads
from pretrain.data.shapestacks import NATIVE, parse_scenario

SPLIT_COUNTS = {"train": 13_618, "eval": 2_916, "test": 2_916}
"""Scenarios of the published default lists; generated ones are divided in this proportion."""

_VARIANTS = {"default": "env_", "blocks_all": "env_blocks-", "ccs_all": "env_ccs-"}
_LATER = ("eval", "test")
_REVISION = 2  # goes up whenever the same settings give other bytes


@dataclass(frozen=True)
class ShapeStacksRecipe:
    """Towers of two to six blocks, sixteen views each.

    A tower is a pure function of seed and number, so that a larger set begins with the towers of a
    smaller one; which split they belong to may differ.

    Args:
        at_least: Images that are wanted; as many whole scenarios are made as hold them.
        seed: Another one is another dataset.
        shapes: "ccs" (cuboids, cylinders, spheres), "blocks" (cubes), or "both", a third of cubes.
        textures: The release's `mjcf/textures`, for the genuine surfaces; procedural unless given.
        physics: Whether to simulate every tower; "auto" does so if MuJoCo is installed.
        scenarios_per_unit: How many are lost at most by a worker that is interrupted.
    """

    at_least: int = 50_000
    seed: int = 0
    shapes: Shapes = "ccs"
    textures: str | None = None
    physics: bool | Literal["auto"] = "auto"
    scenarios_per_unit: int = 16
    name: str = field(default="shapestacks", init=False)
    bytes_per_image: int = field(default=75_000, init=False)

    def __post_init__(self) -> None:
        for what in ("at_least", "scenarios_per_unit"):
            if (value := getattr(self, what)) < 1:
                raise ValueError(f"{what} needs to be at least 1, but is {value}.")
        if self.shapes not in SHAPES:
            raise ValueError(f"shapes need to be ccs, blocks or both, but are {self.shapes!r}.")

    @property
    def scenarios(self) -> int:
        """Towers; three at least, one for each split."""
        return max(len(SPLIT_COUNTS), -(-self.at_least // VIEWS))

    @property
    def images(self) -> int:
        """Pictures in all."""
        return VIEWS * self.scenarios

    def settings(self) -> dict[str, Any]:
        """What the bytes depend on; textures and physics by what they turned out to be."""
        return {
            "scenarios": self.scenarios,
            "seed": self.seed,
            "shapes": self.shapes,
            "textures": _textures(self.textures).source,
            "physics": _simulator(self.physics),
            "scenarios_per_unit": self.scenarios_per_unit,
            "revision": _REVISION,
        }

    def units(self) -> int:
        """One for each run of some scenarios."""
        return -(-self.scenarios // self.scenarios_per_unit)

    def write(self, unit: int, root: Path, device: torch.device) -> dict[str, Written]:
        """Writes pictures and masks of some scenarios."""
        first = unit * self.scenarios_per_unit
        numbers = range(first, min(first + self.scenarios_per_unit, self.scenarios))
        towers = draw_towers(torch.tensor(numbers), self.seed, shapes=self.shapes)
        each = towers[torch.arange(len(towers)).repeat_interleave(VIEWS)]
        camera = stack_camera(torch.arange(1, VIEWS + 1).repeat(len(towers)))
        renderer = _renderer(self.textures, device)
        images, masks, _ = renderer.render(tower_scene(each, camera), size=NATIVE, samples=1)
        notes = self._notes(towers, images)
        pixels, labels = images.cpu().numpy(), masks.cpu().numpy()

        def put(view: int) -> dict[str, Written]:
            tower, number = view // VIEWS, view % VIEWS + 1
            rgb, iseg = _paths(towers[tower : tower + 1], number)
            note = notes[tower] if number == 1 else None
            return {
                rgb: put_file(root / rgb, encode_picture(pixels[view]), note=note),
                iseg: put_file(root / iseg, encode_mask(labels[view])),
            }

        pieces = in_threads(put, list(range(len(each))))
        return {name: written for piece in pieces for name, written in piece.items()}

    def finish(self, root: Path, files: Mapping[str, Written]) -> dict[str, Written]:
        """Writes blacklists, split lists and the splits' mean colours."""
        notes = {
            name.split("/")[2]: written.note for name, written in files.items() if written.note
        }
        stable = {name: parse_scenario(name)[1] == 0 for name in notes}
        wrong = [name for name, note in notes.items() if note["stands"] not in (None, stable[name])]
        done = {}
        for kind, expected in (("stable", True), ("unstable", False)):
            listed = [name for name in wrong if stable[name] == expected]
            path = f"shapestacks/meta/blacklist_{kind}.txt"
            done[path] = put_file(root / path, _lines(listed))
        splits = divide([name for name in notes if name not in set(wrong)])
        for variant, prefix in _VARIANTS.items():
            chosen = {s: [n for n in names if n.startswith(prefix)] for s, names in splits.items()}
            if not all(chosen.values()):
                continue  # an empty list is none
            for split, names in chosen.items():
                path = f"shapestacks/splits/{variant}/{split}"
                mean = io.BytesIO()
                sums = np.array([notes[name]["bgr"] for name in names])
                np.save(mean, sums.sum(0) / (len(names) * VIEWS * NATIVE**2))
                done[f"{path}.txt"] = put_file(root / f"{path}.txt", _lines(names))
                done[f"{path}_bgr_mean.npy"] = put_file(
                    root / f"{path}_bgr_mean.npy", mean.getvalue()
                )
        return done

    def _notes(self, towers: Towers, images: Tensor) -> list[dict[str, Any]]:
        """For `finish`: each tower's sums of blue, green and red, and whether it stands."""
        rgb = images.flatten(0, 2).unflatten(0, (len(towers), -1)).sum(1, dtype=torch.int64)
        stands: list[bool] | list[None] = [None] * len(towers)
        if _simulator(self.physics) != "none":
            # On a CPU there are as many processes as cores already.
            threads = 1 if images.device.type == "cpu" else None
            stands = stays(towers, self.seed, threads=threads).tolist()
        sums = rgb.flip(1).tolist()
        return [{"bgr": bgr, "stands": held} for bgr, held in zip(sums, stands, strict=True)]


def encode_picture(picture: np.ndarray) -> bytes:
    """`[224, 224, 3]` uint8 RGB to a PNG file.

    OpenCV's own choice: 2.0 ms and 57 kB, where levels 1 and 6 take 3.9 and 9.7 ms for 50 and 46.
    """
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def encode_mask(labels: np.ndarray) -> bytes:
    """`[224, 224]` uint8 labels to a `.map` file: a PNG of 32 times the label, with opacity."""
    levels = labels * 32
    return cv2.imencode(".png", np.dstack([levels] * 3 + [np.full_like(levels, 255)]))[1].tobytes()


def divide(names: list[str]) -> dict[str, list[str]]:
    """Scenarios by split, in the published proportion; each split gets one at least."""
    total = sum(SPLIT_COUNTS.values())
    held_out = {split: max(1, round(len(names) * SPLIT_COUNTS[split] / total)) for split in _LATER}
    first = len(names) - sum(held_out.values())
    splits = {"train": names[:first]}
    for split, count in held_out.items():
        splits[split], first = names[first : first + count], first + count
    return splits


def _paths(tower: Towers, view: int) -> tuple[str, str]:
    """Where picture and mask of this view of one tower go, below the root."""
    folder = f"env_{tower.names()[0]}"
    room = f"w={int(tower.wall)}-f={int(tower.floor)}-l={int(tower.light)}-c=unique"
    return (
        f"shapestacks/recordings/{folder}/rgb-{room}-cam_{view}-mono-0.png",
        f"shapestacks/iseg/{folder}/iseg-w=0-f=0-l=0-c=original-cam_{view}-mono-0.map",
    )


def _lines(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _simulator(physics: bool | Literal["auto"]) -> str:
    """What simulates, and its version; "none" if nothing does."""
    if physics is False:
        return "none"
    try:
        return f"MuJoCo {mujoco_module().__version__}"
    except ModuleNotFoundError as error:
        if physics is True:
            raise ValueError(str(error)) from error
        return "none"


@lru_cache(maxsize=2)
def _renderer(folder: str | None, device: torch.device) -> Renderer:
    return Renderer(_textures(folder), device)


@lru_cache(maxsize=2)
def _textures(folder: str | None) -> SurfaceTextures:
    return stack_textures(folder)

"""The ray caster against MuJoCo's OpenGL renderer, in the way the published images were made."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.raycast import Renderer
from envs.textures import stack_textures
from envs.towers import draw_towers, stack_camera, tower_scene

pytest.importorskip("mujoco")

SCENES = 64
TEXTURES = stack_textures(size=512)


def towers(crop):
    """Towers of all heights under all cameras, with all lights, floors and walls."""
    index = torch.arange(SCENES)
    return tower_scene(draw_towers(index, seed=1), stack_camera(index % 16 + 1, crop))


def mujoco_pictures(scene, size, masks, folder):
    """Images, or masks, that MuJoCo draws; skips the test where it cannot."""
    solids, stage, camera = scene.solids, scene.stage, scene.camera
    np.savez(
        folder / "scenes.npz",
        floors=TEXTURES.floors,
        walls=TEXTURES.walls,
        pixels=size,
        masks=masks,
        fovy=camera.fovy,
        camera_position=camera.position,
        camera_rotation=camera.rotation,
        **{name: getattr(stage, name) for name in ("floor", "wall", "light")},
        **{name: getattr(solids, name) for name in vars(solids)},
    )
    script = Path(__file__).with_name("mujoco_towers.py")
    run = subprocess.run(
        [sys.executable, script, folder / "scenes.npz", folder / "pictures.npy"],
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        pytest.skip(f"no OpenGL through EGL: {run.stderr.strip().splitlines()[-1]}")
    return torch.from_numpy(np.load(folder / "pictures.npy"))


def to_64(images):
    """Published 224-pixel images as models see them: the central 196 pixels, resized to 64."""
    crop = images[:, 14:210, 14:210].permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(crop, size=64, mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1)


def errors(images, reference):
    """`[B]`: mean absolute differences in grey levels."""
    return (images.float() - reference.float()).abs().mean((1, 2, 3))


def overlaps(masks, reference, least=1):
    """Intersection over union of every object with so many pixels in the reference."""
    found = []
    for mask, true in zip(masks, reference, strict=True):
        for owner in range(1, 7):
            a, b = mask == owner, true == owner
            if b.sum() >= least:
                found.append(float((a & b).sum() / (a | b).sum()))
    return torch.tensor(found)


@pytest.fixture(scope="module")
def by_mujoco(tmp_path_factory):
    """64-pixel images of 64 towers, made from 224 pixels."""
    return to_64(mujoco_pictures(towers(crop=False), 224, False, tmp_path_factory.mktemp("mujoco")))


def test_images_with_four_rays_per_pixel_differ_from_those_of_mujoco_by_three_grey_levels(
    by_mujoco,
):
    images = Renderer(TEXTURES).render(towers(crop=True), size=64, samples=2).images
    error = errors(images, by_mujoco)
    print(f"mean {error.mean():.2f}, worst {error.max():.2f}")
    assert error.mean() <= 3.0
    assert error.max() <= 5.0


def test_masks_are_those_of_mujoco(tmp_path):
    masks = Renderer(TEXTURES).render(towers(crop=True), size=64, samples=2).masks
    # OpenGL rounds corners to 1/256 pixel: the middle one of 5 x 5 is seen more exactly than a
    # pixel of a 64-pixel image.
    reference = mujoco_pictures(towers(crop=True), 5 * 64, True, tmp_path)[:, 2::5, 2::5]
    every, large = (overlaps(masks, reference, least) for least in (1, 8))
    print(f"mean {every.mean():.4f}, min {every.min():.3f}, min of 8 px {large.min():.3f}")
    assert len(every) > 3 * SCENES
    assert every.mean() >= 0.99
    assert large.min() >= 0.95


def test_published_size_one_ray_per_pixel_then_resized_differs_by_less(by_mujoco):
    images = Renderer(TEXTURES).render(towers(crop=False), size=224, samples=1, masks=False).images
    error = errors(to_64(images), by_mujoco)
    print(f"mean {error.mean():.2f}, worst {error.max():.2f}")
    assert error.mean() <= 2.0

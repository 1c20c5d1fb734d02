"""The ray caster against ShapeStacks' example recording, whose textures and poses are not here.

What can be compared without them is the room's geometry: the recording brings depth pictures.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from envs.raycast import Renderer
from envs.solids import Camera, Solids, SolidScene, StackStage
from envs.textures import SurfaceTextures
from envs.towers import stack_camera

SAMPLES = Path(os.environ.get("GENESIS_RL_SAMPLES") or "nowhere") / "shapestacks_example"
CAMERAS = (1, 2)
PLAIN = SurfaceTextures(*(torch.zeros(1, 2, 2, 3, dtype=torch.uint8) for _ in "fw"), "plain")

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="GENESIS_RL_SAMPLES is not set")


def recorded_depth(camera):
    name = f"depth-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.png"
    return cv2.imread(str(SAMPLES / name), cv2.IMREAD_UNCHANGED).astype(float)


def empty_room_depth(eye_shift):
    """`[2, 224, 224]`: depth of the room without a tower, from a camera moved to its right."""
    zeros = torch.zeros(len(CAMERAS), 1, dtype=torch.int64)
    size = torch.ones(len(CAMERAS), 1, 3)
    frames = torch.eye(3).expand(len(CAMERAS), 1, 3, 3)
    camera = stack_camera(torch.tensor(CAMERAS))  # at the left eye, .034 to the left
    position = camera.position + (0.034 + eye_shift) * camera.rotation[..., 0]
    scene = SolidScene(
        Solids(zeros, size, 0 * size, frames, size, zeros),
        StackStage(*(zeros[:, 0] for _ in range(3))),
        Camera(position, camera.rotation, camera.fovy),
    )
    return Renderer(PLAIN).render(scene, 224, samples=1, masks=False, depth=True).depth.numpy()


def residuals(depth, recorded):
    """How far the recorded levels are from a multiple of 1 / depth plus a constant.

    That is what a depth buffer holds; its two planes are those of the recording. Levels at the ends
    of the range are cut off, and where the tower stands the room is not seen: both are left out.
    """
    terms = np.stack([1 / depth, np.ones_like(depth)], axis=-1)
    seen = (recorded > 3) & (recorded < 252)
    for _ in range(4):
        factors = np.linalg.lstsq(terms[seen], recorded[seen], rcond=None)[0]
        apart = np.abs(terms @ factors - recorded)
        seen &= apart < 5
    return apart[seen]


def test_the_room_has_the_recorded_depth_to_the_rounding_of_its_levels():
    for depth, camera in zip(empty_room_depth(-0.034), CAMERAS, strict=True):
        apart = residuals(depth, recorded_depth(camera))
        print(f"camera {camera}: {apart.mean():.3f} levels")
        assert len(apart) > 0.5 * 224**2
        assert apart.mean() < 0.35  # rounding alone gives .25


def test_the_recording_is_that_of_the_left_eye():
    means = []
    for shift in (-0.034, 0.0, 0.034):
        rooms = zip(empty_room_depth(shift), CAMERAS, strict=True)
        means.append(np.mean([residuals(d, recorded_depth(c)).mean() for d, c in rooms]))
    assert means[0] < means[1] < means[2]

"""Textures of the recorded ShapeStacks room, as its own pictures show them.

The release's textures cannot be shipped. A recorded pixel divided by the light that the ray caster
computes there is a sample of them; laid out on floor and walls, such samples make textures that the
caster can draw the room with from another side. They are as coarse as the pixels were.

Shapes: S texels to a side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.shapestacks_tower import NATIVE, RECORDED, Seen, scenes
from envs.raycast.planes import Plane
from envs.raycast.stack import StackLook
from envs.textures import SurfaceTextures

GREY = 137  # in the strongest light, 1.85 times as bright, just below 255
TEXELS = 512


class RoomTextures(NamedTuple):
    """What is known of a room's surfaces.

    Attributes:
        textures: Floor and wall; what is not known has the mean colour of what is.
        known: The same places, `GREY` where a texel is known and black elsewhere.
    """

    textures: SurfaceTextures
    known: SurfaceTextures


def plain_textures(grey: int = 0) -> SurfaceTextures:
    """A floor and a wall of one grey."""
    surface = torch.full((1, 2, 2, 3), grey, dtype=torch.uint8)
    return SurfaceTextures(surface, surface, "plain")


def recorded_textures(seen: Seen, light: NDArray[np.float64], view: int) -> RoomTextures:
    """Floor and wall from one view. Both walls have one texture: it is the mean of the two.

    What is brighter than a picture can show gets the least brightness that would look so.

    Args:
        seen: The recording.
        light: `[224, 224]`: what the caster multiplies textures with in this view.
        view: Which one, 0 or 1.
    """
    # Neither pixels at the tower nor those at the edges of shadows have a colour of their own.
    nearby = np.ones((3, 3), np.uint8)
    shade = light.astype(np.float32)
    even = cv2.dilate(shade, nearby) - cv2.erode(shade, nearby) < 0.1
    usable = (even & (seen.parts[view].max(axis=-1) == 0)).astype(np.float32)
    colours = (seen.rgb[view] / np.maximum(light, 0.1)[..., None]).astype(np.float32)

    surfaces = []
    for wall in (False, True):
        total, weight = np.zeros((TEXELS, TEXELS, 3)), np.zeros((TEXELS, TEXELS, 1))
        for plane in StackLook.planes:
            if plane.is_wall == wall:
                columns, rows = _pixels(_points(plane), view)
                share = cv2.remap(usable, columns, rows, cv2.INTER_LINEAR)
                found = (share > 0.999)[..., None]
                total += found * cv2.remap(colours, columns, rows, cv2.INTER_LINEAR)
                weight += found
        known = weight[..., 0] > 0
        texture = np.empty((TEXELS, TEXELS, 3))
        texture[known] = (total / np.maximum(weight, 1))[known]
        texture[~known] = texture[known].mean(axis=0)
        grey = np.repeat(known[..., None] * GREY, 3, axis=-1)
        surfaces.append([_tensor(texture), _tensor(grey)])
    (floor, floor_known), (walls, walls_known) = surfaces
    return RoomTextures(
        SurfaceTextures(floor, walls, f"recorded, view {view}"),
        SurfaceTextures(floor_known, walls_known, "known"),
    )


def _tensor(picture: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(picture.round().clip(0, 255).astype(np.uint8))[None]


def _points(plane: Plane) -> NDArray[np.float64]:
    """`[S, S, 3]`: where the texels' middles lie on a plane."""
    ticks = (np.arange(TEXELS) + 0.5) / TEXELS
    u, v = np.meshgrid(ticks, ticks)
    points = np.full((TEXELS, TEXELS, 3), plane.at)
    for value, factors, axes in ((u, plane.u, (0, 1)), (v, plane.v, (1, 2))):
        for factor, axis in zip(factors, axes, strict=False):
            if factor:
                points[..., axis] = (value - factors[2]) / factor
    return points


def _pixels(points: NDArray[np.float64], view: int) -> list[NDArray[np.float32]]:
    """Columns and rows at which a view shows points; outside of the picture if it does not."""
    camera = scenes([RECORDED]).camera
    position, rotation = (x[view].double().numpy() for x in (camera.position, camera.rotation))
    right, up, backward = np.moveaxis((points - position) @ rotation, -1, 0)
    ahead = np.where(backward < -0.1, -backward, np.nan)
    focal = NATIVE / 2 / math.tan(math.radians(camera.fovy) / 2)
    middle = (NATIVE - 1) / 2
    places = (middle + focal * x / ahead for x in (right, -up))
    return [np.nan_to_num(x, nan=-9).clip(-9, NATIVE + 9).astype(np.float32) for x in places]

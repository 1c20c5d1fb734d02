"""Triton kernels say what their twins in plain torch say, in Triton's interpreter, without a GPU.

The first test runs the others in a process with TRITON_INTERPRET=1, which has to be set before
Triton is imported. They need `pip install triton`, which CUDA builds of torch bring. On a GPU the
same is compared in test_raycast.py and test_inference.py.
"""

import os

import numpy as np
import pytest
import torch

from envs.raycast import Renderer
from envs.solids import SOLIDS
from on_triton import INTERPRETED, run_in_interpreter, starts_the_interpreter
from test_raycast import GREEN, NOISE, PLAIN, looking, rooms, scene, towers

here = pytest.mark.skipif(not INTERPRETED, reason="runs in test_the_kernels_agree...")


@starts_the_interpreter
def test_the_kernels_agree_in_the_interpreter():
    folder = os.path.dirname(__file__)
    encoder = os.path.join(folder, "test_inference.py::test_kernels_equal_their_definition")
    run_in_interpreter(__file__, encoder)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch):
    """The module, with tiles of whole images: the interpreter takes its time per program."""
    pytest.importorskip("triton")
    from envs.raycast import kernels

    if not loops_are_interpreted():
        pytest.skip("this Triton cannot interpret loops with this NumPy")
    monkeypatch.setattr(kernels, "_TILE_WIDTH", 16)
    monkeypatch.setattr(kernels, "_TILE_HEIGHT", 16)
    return kernels


def loops_are_interpreted() -> bool:
    """Triton up to 3.6 turns a bound into an int as NumPy from 2.4 on forbids."""
    import triton
    from packaging.version import Version

    return Version(triton.__version__) >= Version("3.7") or Version(np.__version__) < Version("2.4")


def drawn_both_ways(scenes, size, samples=1, textures=NOISE):
    renderer = Renderer(textures)
    plain = renderer.render(scenes, size, samples, depth=True)
    renderer.fused = True  # only a GPU is allowed to ask for that
    with np.errstate(all="ignore"):  # 1 / 0 and the like, for rays that meet nothing
        return plain, renderer.render(scenes, size, samples, depth=True)


def assert_same_pictures(plain, fused):
    assert (plain.images.int() - fused.images.int()).abs().max() <= 1
    assert torch.equal(plain.masks, fused.masks)
    torch.testing.assert_close(fused.depth, plain.depth, rtol=1e-5, atol=1e-5)


@here
@pytest.mark.parametrize("make", [towers, rooms])
@pytest.mark.parametrize(("count", "size", "samples"), [(2, 16, 1), (1, 7, 2), (1, 2, 3)])
def test_kernels_draw_what_torch_draws(kernels, make, count, size, samples):
    plain, fused = drawn_both_ways(make(count), size, samples)
    assert_same_pictures(plain, fused)


@here
@pytest.mark.parametrize("kind", SOLIDS)
def test_kernels_know_every_shape(kernels, kind):
    solid = (kind, (0.5, 0.3, 0.4), (0.2, 0.1, 0.4), GREEN, 1)
    camera = looking((-3, 1, 2), (0, 0, 0.4), fovy=30)
    plain, fused = drawn_both_ways(scene(solid, camera=camera, light=1), 32, textures=PLAIN)
    assert 50 < plain.masks.sum() < 700
    assert_same_pictures(plain, fused)


@here
def test_one_program_for_an_image_and_several_small_ones_draw_the_same(kernels, monkeypatch):
    once = drawn_both_ways(rooms(1), 9)[1]
    monkeypatch.setattr(kernels, "_TILE_WIDTH", 8)
    monkeypatch.setattr(kernels, "_TILE_HEIGHT", 4)
    tiled = drawn_both_ways(rooms(1), 9)[1]
    assert all(torch.equal(a, b) for a, b in zip(once, tiled, strict=True))


@here
def test_masks_and_depth_are_drawn_only_if_asked_for(kernels):
    renderer = Renderer(NOISE)
    renderer.fused = True
    with np.errstate(all="ignore"):
        bare = renderer.render(rooms(1), 8, 1, masks=False)
        deep = renderer.render(rooms(1), 8, 1, masks=False, depth=True)
    assert bare.masks.shape == bare.depth.shape == (0, 8, 8)
    assert deep.masks.shape == (0, 8, 8)
    torch.testing.assert_close(deep.depth, Renderer(NOISE).render(rooms(1), 8, depth=True).depth)


@here
def test_no_scene_at_all_is_no_launch(kernels):
    renderer = Renderer(NOISE)
    renderer.fused = True
    assert renderer.render(rooms(2)[:0], 8).images.shape == (0, 8, 8, 3)

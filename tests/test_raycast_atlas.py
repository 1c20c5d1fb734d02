import pytest
import torch

from envs.raycast.atlas import Atlas

# 4 x 4, all channels alike: rows 0, 40, 80, 120 plus columns 0, 1, 2, 3.
RAMP = (torch.arange(4)[:, None] * 40 + torch.arange(4))[..., None].expand(4, 4, 3).byte()
FLAT = torch.full((4, 4, 3), 200, dtype=torch.uint8)
ATLAS = Atlas(torch.stack([RAMP, FLAT]))


def sample(u, v, footprint=1.0, texture=0):
    """The red channel, in grey levels."""
    u, v, footprint = (torch.tensor([float(x)]) for x in (u, v, footprint))
    return float(ATLAS.sample(torch.tensor([texture]), ATLAS.taps(u, v, footprint))[0, 0] * 255)


def test_the_middle_of_a_texel_has_its_colour():
    assert sample(0.125, 0.125) == pytest.approx(0)
    assert sample(0.875, 0.125) == pytest.approx(3)  # u is to the right
    assert sample(0.125, 0.875) == pytest.approx(120)  # v is down


def test_between_texels_colours_are_mixed():
    assert sample(0.25, 0.125) == pytest.approx(0.5)
    assert sample(0.125, 0.25) == pytest.approx(20)
    assert sample(0.1875, 0.125) == pytest.approx(0.25)


def test_textures_repeat():
    assert sample(0, 0.125) == pytest.approx(1.5)  # between columns 3 and 0
    for turns in (-3, 1, 5):
        assert sample(0.375 + turns, 0.625 - turns) == pytest.approx(sample(0.375, 0.625), abs=1e-3)


def test_a_wide_footprint_sees_the_means_of_texels():
    # 0, 1, 40, 41 have the mean 20.5, which is 21 as a byte; 21, 23, 101, 103 have the mean 62.
    assert sample(0.25, 0.25, footprint=2) == pytest.approx(21)
    assert sample(0.25, 0.25, footprint=4) == pytest.approx(62)
    assert sample(0.25, 0.25, footprint=1e6) == pytest.approx(62)
    assert sample(0.25, 0.25, footprint=2**1.5) == pytest.approx((21 + 62) / 2)


def test_textures_do_not_mix_with_one_another():
    for footprint in (1, 1.7, 3, 100):
        assert sample(0.01, 0.99, footprint, texture=1) == pytest.approx(200, abs=1e-3)


def test_a_texture_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"power of two, got 6 x 6"):
        Atlas(torch.zeros(1, 6, 6, 3, dtype=torch.uint8))

import subprocess
import sys

import numpy as np
import pytest
import torch

from envs.counter_rng import bits, fold, integers, without_repeats
from envs.scene import COLOUR_LEVELS
from pretrain.data import DATASETS, load
from pretrain.data.multi_dsprites import MultiDsprites


def equal(ours, theirs):
    return torch.equal(ours.images, theirs.images) and torch.equal(ours.masks, theirs.masks)


def test_splits_have_the_sizes_of_the_paper():
    assert [len(MultiDsprites(split)) for split in ("train", "val", "test")] == [
        50_000,
        10_000,
        10_000,
    ]


def test_an_image_depends_on_its_index_and_on_nothing_else():
    dataset = MultiDsprites("train", seed=3)
    together = dataset.batch([7, 49_999, 7, 0])
    assert together.images.shape == (4, 64, 64, 3)
    assert together.masks.shape == (4, 64, 64)
    assert together.images.dtype == together.masks.dtype == torch.uint8
    assert torch.equal(together.images[0], together.images[2])
    many = dataset.batch(np.arange(100))
    assert torch.equal(together.images[0], many.images[7])
    another = MultiDsprites("train", seed=3, size=60_000)
    assert equal(together, another.batch(torch.tensor([7, 49_999, 7, 0])))


def test_seeds_and_splits_give_other_images():
    images = [
        MultiDsprites(split, seed=seed).batch(range(4)).images
        for split in ("train", "val", "test")
        for seed in (0, 1, -1)
    ]
    stacked = torch.stack(images).flatten(2).transpose(0, 1)  # [4, 9, pixels]
    for one in stacked:
        assert len(one.unique(dim=0)) == 9


def test_seed_zero_makes_the_same_images_for_ever():
    """Recorded here. A change of any of these numbers is a change of the dataset."""
    dataset = MultiDsprites("train")
    scenes = dataset.scenes([0, 1])
    assert scenes.background.tolist() == [[127, 191, 0], [191, 63, 63]]
    assert (scenes.scale > 0).sum(1).tolist() == [4, 1]
    batch = dataset.batch(range(64))
    weights = torch.arange(batch.images.numel()) % 8191
    assert int((batch.images.flatten().long() * weights).sum()) == 418_103_474_806
    assert batch.masks.bool().sum() == 24_496


def test_masks_agree_with_images():
    dataset = MultiDsprites("val")
    batch, scenes = dataset.batch(range(200)), dataset.scenes(range(200))
    palette = torch.cat([scenes.background[:, None], scenes.colour], dim=1)
    rows = torch.arange(200)[:, None, None]
    assert torch.equal(palette[rows, batch.masks.long()], batch.images)
    present = scenes.scale > 0
    labels = torch.arange(1, 5)
    seen = (batch.masks.flatten(1)[:, :, None] == labels).any(1)  # [200, 4]
    assert not (seen & ~present).any()
    assert seen[present].float().mean() > 0.97  # a covered sprite may vanish


def test_the_recipe_has_the_paper_s_statistics():
    scenes = MultiDsprites("train").scenes(range(20_000))
    present = scenes.scale > 0
    number = present.sum(1)
    assert torch.equal(present, torch.arange(4) < number[:, None])
    shares = torch.bincount(number, minlength=5) / 20_000
    torch.testing.assert_close(shares[1:], torch.full((4,), 0.25), atol=0.015, rtol=0)
    assert shares[0] == 0
    for colours in (scenes.background, scenes.colour[present]):
        levels, counts = colours.flatten().unique(return_counts=True)
        assert tuple(levels.tolist()) == COLOUR_LEVELS
        expected = torch.full((5,), 0.2)
        torch.testing.assert_close(counts / counts.sum(), expected, atol=0.01, rtol=0)
        assert len(colours.unique(dim=0)) == 125
    shape = torch.bincount(scenes.shape[present]) / present.sum()
    torch.testing.assert_close(shape, torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    scale = scenes.scale[present]
    assert scale.unique().tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert scale.mean() == pytest.approx(0.75, abs=0.01)
    centre = scenes.centre[present]
    assert (centre.min(), centre.max()) == (0.25, 0.75)
    torch.testing.assert_close(centre.mean(0), torch.full((2,), 0.5), atol=0.005, rtol=0)
    # Colours repeat as often as chance has it: a sprite is invisible in 1 of 125 images.
    hidden = (scenes.colour[:, 0] == scenes.background).all(1).float().mean()
    assert hidden == pytest.approx(1 / 125, abs=0.004)


def test_unique_colours_are_unique():
    scenes = MultiDsprites("train", unique_colours=True).scenes(range(20_000))
    palette = torch.cat([scenes.background[:, None], scenes.colour], dim=1).int()
    code = palette @ torch.tensor([65536, 256, 1], dtype=torch.int32)  # [B, 5]
    same = code[:, :, None] == code[:, None, :]
    assert same.sum() == 20_000 * 5  # only with themselves
    _, counts = palette.view(-1, 3).unique(dim=0, return_counts=True)
    assert len(counts) == 125
    assert counts.max() / counts.min() < 1.25


def test_draws_without_repeats_are_those_of_redrawing():
    """All draws of three from four: every ordered triple without a repeat comes out once."""
    draws = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(2))
    chosen = without_repeats(draws)
    assert len(chosen.unique(dim=0)) == len(chosen) == 24
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    assert chosen.max() == 3


def test_the_generator_is_splitmix64():
    """The first outputs for seed 1234567, as published with the algorithm."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    ours = bits(torch.tensor([1234567]), 5)[0].tolist()
    assert [x % 2**64 for x in ours] == expected
    assert bits(torch.tensor([1234567]), 2, skip=3)[0].tolist() == ours[3:]


def test_integers_cover_their_range_evenly():
    draws = integers(bits(fold(0, torch.arange(1000)), 120), 5)
    torch.testing.assert_close(
        torch.bincount(draws.flatten()) / draws.numel(), torch.full((5,), 0.2), atol=0.005, rtol=0
    )


def test_all_is_every_batch_in_order():
    dataset = MultiDsprites("test", size=1100, image_size=32)
    whole = dataset.all(progress=False)
    assert whole.images.shape == (1100, 32, 32, 3)
    assert equal(whole, dataset.batch(range(1100)))


def test_image_size_is_free():
    for size in (32, 64, 128):
        assert MultiDsprites("val", image_size=size).batch([0]).images.shape == (1, size, size, 3)


def test_an_empty_batch_is_empty():
    assert MultiDsprites("val").batch([]).images.shape == (0, 64, 64, 3)


def test_load_finds_a_dataset_by_name():
    dataset = load("multi_dsprites", "val", size=3)
    assert (dataset.name, dataset.split, len(dataset), dataset.num_slots) == (
        "multi_dsprites",
        "val",
        3,
        5,
    )
    assert "multi_dsprites" in DATASETS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("multi_dsprite"), "Did you mean 'multi_dsprites'"),
        (lambda: load("imagenet"), "unknown dataset 'imagenet'. There are: multi_dsprites"),
        (lambda: MultiDsprites("training"), "one of train, val, test, but got 'training'"),
        (lambda: MultiDsprites(size=0), "at least 1 image, but got 0"),
        (lambda: MultiDsprites(device="cuda:99"), "use device='cpu'"),
        (lambda: MultiDsprites(image_size=4), "at least 8 pixels, but got 4"),
    ],
)
def test_a_mistake_is_answered_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_indices_outside_the_split_are_refused():
    dataset = MultiDsprites("val", size=10)
    with pytest.raises(IndexError, match="has images 0 to 9, but index 10 was asked for"):
        dataset.batch([0, 10])
    with pytest.raises(IndexError, match="index -1"):
        dataset.batch([-1])
    with pytest.raises(TypeError, match="integer indices"):
        dataset.batch(np.array([0.5]))


def test_listing_datasets_does_not_import_torch():
    code = "import sys; from pretrain.data import DATASETS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("unique", [False, True])
def test_cpu_and_cuda_make_the_same_images(unique):
    cuda = MultiDsprites("train", unique_colours=unique, device="cuda")
    batch = cuda.batch(range(5000))
    assert batch.images.is_cuda
    ours = MultiDsprites("train", unique_colours=unique).batch(range(5000))
    assert torch.equal(batch.images.cpu(), ours.images)
    assert torch.equal(batch.masks.cpu(), ours.masks)

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genesis_rl.metrics import (
    adjusted_rand_index,
    segment,
    segmentation_covering,
    segmentation_scores,
)

FIXTURE = json.loads((Path(__file__).parent / "data" / "segmentation_metrics.json").read_text())


def label_maps(seed, objects, slots, noise, background):
    """The rule written in the fixture file."""
    rng = np.random.default_rng(seed)
    block = np.ones((8, 8), int)
    true = np.kron(rng.integers(0 if background else 1, objects + 1, (8, 8)), block)
    base = np.kron(rng.integers(0, slots, (8, 8)), block)
    u = rng.random((64, 64))
    inner = np.where(u < noise + 0.3, base, true % slots)
    return true, np.where(u < noise, rng.integers(0, slots, (64, 64)), inner)


def batch(*images):
    return torch.tensor(np.stack(images))


def test_reproduces_every_reference_label_map_in_one_batch():
    cases = FIXTURE["segmentation"]
    maps = [label_maps(*case["case"]) for case in cases]
    for (true, predicted), case in zip(maps, cases, strict=True):
        assert (true.sum(), predicted.sum()) == (case["gt_sum"], case["pred_sum"])

    true, predicted = batch(*(m[0] for m in maps)), batch(*(m[1] for m in maps))
    ours = {
        "ari_fg": adjusted_rand_index(true, predicted),
        "ari": adjusted_rand_index(true, predicted, foreground_only=False),
    }
    ours["sc_fg"], ours["msc_fg"] = segmentation_covering(true, predicted)
    ours["sc"], ours["msc"] = segmentation_covering(true, predicted, foreground_only=False)
    for name, values in ours.items():
        np.testing.assert_allclose(values, [case[name] for case in cases], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("size", [7, 64, 320])  # 320: where 32-bit pair counts overflow
def test_equals_scikit_learn_to_1e12(size):
    cluster = pytest.importorskip("sklearn.metrics.cluster")
    rng = np.random.default_rng(size)
    true = rng.integers(0, 6, (8, size, size))
    predicted = np.where(rng.random(true.shape) < 0.7, true, rng.integers(0, 16, true.shape))
    true[0], predicted[1], true[2], predicted[2] = 3, 2, 1, 4  # one cluster on either side, on both
    true[3] = rng.integers(0, 2, (size, size))  # a single object on a background
    ari = adjusted_rand_index(batch(*true), batch(*predicted), foreground_only=False)
    ari_fg = adjusted_rand_index(batch(*true), batch(*predicted))
    for i in range(len(true)):
        t, p = true[i].ravel(), predicted[i].ravel()
        assert abs(ari[i].item() - cluster.adjusted_rand_score(t, p)) < 1e-12
        assert abs(ari_fg[i].item() - cluster.adjusted_rand_score(t[t > 0], p[t > 0])) < 1e-12


def test_one_object_is_all_or_nothing():
    true = torch.ones(2, 4, 4, dtype=torch.long)
    predicted = torch.zeros(2, 4, 4, dtype=torch.long)
    predicted[1, 0, 0] = 1  # a single pixel is split off
    assert adjusted_rand_index(true, predicted).tolist() == [1.0, 0.0]


def test_images_without_foreground_are_skipped_and_counted():
    true = torch.zeros(3, 4, 4, dtype=torch.uint8)
    true[1, :2] = 1
    true[1, 2:] = 2
    scores = segmentation_scores(true, true.clone())
    assert scores.scored.tolist() == [False, True, False]
    expected = {"ari_fg": 1.0, "ari": 1.0, "sc": 1.0, "msc": 1.0, "images": 1, "skipped": 2}
    assert scores.means() == expected
    assert all(torch.isfinite(score).all() for score in scores[:4])


def test_no_image_at_all_gives_finite_means():
    empty = torch.zeros(0, 4, 4, dtype=torch.long)
    assert segmentation_scores(empty, empty).means()["images"] == 0


def test_covering_weighs_objects_by_area_or_alike():
    # Object 1 has 12 of 16 pixels and is found; object 2 has 4, half of them in a slot of its own.
    true = torch.ones(1, 4, 4, dtype=torch.long)
    true[0, 3] = 2
    predicted = torch.zeros(1, 4, 4, dtype=torch.long)
    predicted[0, 3, :2], predicted[0, 3, 2:] = 1, 2
    sc, msc = segmentation_covering(true, predicted)
    assert msc.item() == pytest.approx((1 + 0.5) / 2)
    assert sc.item() == pytest.approx((12 * 1 + 4 * 0.5) / 16)


def test_a_segment_that_leaks_into_the_background_covers_less():
    true = torch.zeros(1, 4, 4, dtype=torch.long)
    true[0, :2] = 1
    everything = torch.zeros(1, 4, 4, dtype=torch.long)
    sc, msc = segmentation_covering(true, everything)
    assert sc.item() == msc.item() == 0.5
    assert adjusted_rand_index(true, everything).item() == 1.0  # the ARI does not mind


def test_pixels_with_a_negative_label_do_not_count():
    true = torch.tensor([[[1, 1, 2, 2]]])
    predicted = torch.tensor([[[0, 0, 1, 0]]])
    ignored = true.clone()
    ignored[0, 0, 3] = -1  # the only mistake
    for foreground_only in (True, False):
        assert adjusted_rand_index(ignored, predicted, foreground_only).item() == 1.0
        assert segmentation_covering(ignored, predicted, foreground_only)[1].item() == 1.0
        assert adjusted_rand_index(true, predicted, foreground_only).item() < 1.0


def test_segment_takes_the_most_likely_slot():
    log_masks = torch.full((1, 3, 1, 2, 2), 0.1).log()
    log_masks[0, 2, 0, 0] = log_masks[0, 1, 0, 1] = np.log(0.8)
    assert segment(log_masks).tolist() == [[[2, 2], [1, 1]]]


@pytest.mark.parametrize(
    ("true", "predicted", "error", "message"),
    [
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), ValueError, r"\[1, 4, 5\]"),
        (torch.zeros(4, 4).long(), torch.zeros(4, 4).long(), ValueError, r"\[B, H, W\]"),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4), TypeError, r"segment\(\)"),
        (torch.zeros(1, 4, 4).long(), -torch.ones(1, 4, 4).long(), ValueError, "negative, got -1"),
    ],
)
def test_bad_label_maps_are_refused(true, predicted, error, message):
    with pytest.raises(error, match=message):
        adjusted_rand_index(true, predicted)


@pytest.mark.gpu
def test_the_gpu_counts_the_same_pixels():
    maps = [label_maps(*case["case"]) for case in FIXTURE["segmentation"]]
    true, predicted = batch(*(m[0] for m in maps)), batch(*(m[1] for m in maps))
    here = segmentation_scores(true, predicted)
    there = segmentation_scores(true.cuda(), predicted.cuda())
    for a, b in zip(here, there, strict=True):
        assert torch.allclose(a.double(), b.cpu().double(), atol=1e-15)

"""Matching by hand and against brute force; memory of what was hidden; the last slot's mask."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch

from genesis_rl.alignment import MAX_SLOTS, SlotAligner, assign
from toys import gpu


def shuffled(latents, seed=0):
    """Permutes the slots of every frame `[..., K, D]`."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(latents.shape[:-1], generator=generator).argsort(-1)
    return latents.gather(-2, order[..., None].expand_as(latents))


def random_latents(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the assignment ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 7))
def test_the_assignment_is_the_best_of_all_permutations(size):
    cost = random_latents(100, size, size, seed=size).double()
    permutations = torch.tensor(list(itertools.permutations(range(size))))
    totals = cost[:, torch.arange(size), permutations].sum(dim=2)
    assert torch.equal(assign(cost), permutations[totals.argmin(dim=1)])


def test_nine_slots_agree_with_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    cost = random_latents(50, 9, 9).double()
    expected = np.stack([optimize.linear_sum_assignment(c)[1] for c in cost.numpy()])
    np.testing.assert_array_equal(assign(cost).numpy(), expected)


def test_the_nearest_pair_may_have_to_wait_by_hand():
    # Greedily, the two that cost 0 come first and leave 10; the best total is 1 + 2.
    assert assign(torch.tensor([[[0.0, 1.0], [2.0, 10.0]]])).tolist() == [[1, 0]]


@pytest.mark.parametrize("size", [1, 5, 9])
def test_between_equals_everything_stays(size):
    assert assign(torch.ones(2, size, size)).tolist() == [list(range(size))] * 2


def test_no_frames_are_no_work():
    assert assign(torch.zeros(0, 5, 5)).shape == (0, 5)


# --- the memory ----------------------------------------------------------------------------------


def test_shuffled_slots_find_their_numbers():
    latents = random_latents(20, 3, 5, 8)  # 20 frames of 3 environments that change a little
    latents = latents[0] + 0.05 * latents.cumsum(dim=0)
    aligner = SlotAligner(5, mask_size=6, num_envs=3)
    for time, frame in enumerate(shuffled(latents)):
        frame = latents[0] if time == 0 else frame
        aligned = aligner(frame, begins=range(3) if time == 0 else ())
        assert torch.equal(aligned, latents[time])


def test_the_first_frame_of_an_episode_is_taken_as_it_is():
    slots = random_latents(2, 4, 3)
    aligner = SlotAligner(4, mask_size=1, num_envs=2)
    aligner(slots, begins=[0, 1])
    aligned = aligner(slots.flip(1), begins=[1])
    assert torch.equal(aligned[0], slots[0])
    assert torch.equal(aligned[1], slots[1].flip(0))
    assert aligner.order.tolist() == [[3, 2, 1, 0], [0, 1, 2, 3]]


def test_a_final_frame_is_matched_with_its_episode_and_forgotten():
    old, new = random_latents(2, 1, 4, 3)
    aligner, untouched = (SlotAligner(4, mask_size=1) for _ in range(2))
    aligner(old, begins=[0])
    aligned = aligner(torch.cat([old.flip(1), new]), envs=[0, 0], begins=[0], final=1)
    assert torch.equal(aligned, torch.cat([old, new]))
    untouched(new, begins=[0])
    later = shuffled(new + 0.1)
    assert torch.equal(aligner(later), untouched(later))


def test_environments_do_not_see_each_other():
    frames = random_latents(6, 4, 5, 8)
    together = SlotAligner(5, mask_size=6, num_envs=4)
    alone = [SlotAligner(5, mask_size=6) for _ in range(4)]
    for time, frame in enumerate(frames):
        begins = [0] if time == 0 else ()
        expected = [a(part[None], begins=begins)[0] for a, part in zip(alone, frame, strict=True)]
        aligned = together(frame, begins=range(4) if time == 0 else ())
        assert torch.equal(aligned, torch.stack(expected))


def test_what_was_hidden_for_some_frames_gets_its_number_back():
    # Two things with one number for where and one for what, and a slot that is empty throughout;
    # while the second is hidden its slot is empty too.
    shown = torch.tensor([[[1.0, 1.0], [2.0, -1.0], [0.0, 0.0]]])
    hidden = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    aligner = SlotAligner(3, mask_size=1)
    aligner(shown, begins=[0])
    for _ in range(10):
        assert torch.equal(aligner(hidden.flip(1)), hidden)
    assert torch.equal(aligner(shown[:, [1, 2, 0]]), shown)


def test_the_last_slots_mask_latent_changes_nothing_unless_it_counts():
    def orders(last, counts):
        aligner = SlotAligner(4, mask_size=2, last_mask_counts=counts)
        seen = []
        for time, frame in enumerate(random_latents(30, 1, 4, 3)):
            frame[:, -1, :2] = last * time
            aligner(frame, begins=[0] if time == 0 else ())
            seen.append(aligner.order.tolist())
        return seen

    assert orders(0.0, False) == orders(100.0, False)
    assert orders(0.0, True) != orders(100.0, True)


def test_the_last_slot_is_told_by_what_is_in_it():
    slots = torch.tensor([[[0.0, 1.0], [5.0, 2.0], [0.0, 3.0]]])  # where, what
    aligner = SlotAligner(3, mask_size=1, last_mask_counts=False)
    aligner(slots, begins=[0])
    # What was first is now inferred last, without a place; what was last has one at last.
    now = torch.tensor([[[9.0, 3.0], [5.0, 2.0], [0.0, 1.0]]])
    assert torch.equal(aligner(now), now.flip(1))
    assert torch.equal(aligner(slots), slots)


@pytest.mark.parametrize("mask_size", [0, 8])
def test_either_latent_alone_will_do(mask_size):
    slots = random_latents(1, 5, 8)
    aligner = SlotAligner(5, mask_size=mask_size)
    aligner(slots, begins=[0])
    assert torch.equal(aligner(shuffled(slots)), slots)


def test_it_draws_no_random_numbers():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    aligner = SlotAligner(5, mask_size=6)
    for begins in ([0], []):
        aligner(random_latents(1, 5, 8), begins=begins)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_copy_goes_its_own_way():
    slots = random_latents(1, 5, 8)
    aligner = SlotAligner(5, mask_size=6)
    aligner(slots, begins=[0])
    copied = copy.deepcopy(aligner)
    copied(slots.flip(1), begins=[0])
    assert torch.equal(aligner(shuffled(slots)), slots)


def test_inference_mode_may_come_and_go():
    slots = random_latents(1, 5, 8)
    aligner = SlotAligner(5, mask_size=6)
    with torch.inference_mode():
        aligner(slots, begins=[0])
    assert torch.equal(aligner(shuffled(slots)), slots)


def test_too_many_slots_are_refused():
    with pytest.raises(ValueError, match="has 13; use align=None"):
        SlotAligner(MAX_SLOTS + 1, mask_size=1)


@gpu
def test_cuda_permutes_as_the_cpu_does():
    here, there = (SlotAligner(9, mask_size=64, num_envs=32) for _ in range(2))
    for time, frame in enumerate(random_latents(8, 32, 9, 80)):
        begins = range(32) if time == 0 else [time]
        aligned = there(frame.cuda(), begins=begins)
        assert aligned.is_cuda
        assert torch.equal(here(frame, begins=begins), aligned.cpu())

import gymnasium as gym
import numpy as np
import pytest
import torch

from benchmarks import slot_identity
from benchmarks.common import read_lines
from benchmarks.crossing import crossing
from benchmarks.report_speed import identity_section
from benchmarks.slot_identity import Film, best_numbers, exact_film, owners, score, switch_rate
from toys import tiny_checkpoint


@pytest.fixture(scope="module")
def exact():
    return score(exact_film(3, episodes=16, frames=65, seed=0, size=32), objects=3, seed=0)


def test_aligned_slots_of_an_exact_encoder_follow_crossing_objects(exact):  # check 20
    for row in exact:
        assert row["aligned"] <= 0.01
        assert row["aligned"] <= row["unaligned"] / 10
        assert row["shuffled"] <= 0.01
        assert row["best"] == 0


def test_without_alignment_hardly_an_object_keeps_its_number(exact):
    # Three objects in five slots, shuffled: all stay by chance in one frame of 5 * 4 * 3.
    assert exact[0]["unaligned"] > 0.9


def test_objects_hide_each_other_and_come_back(exact):
    assert 0.9 < exact[0]["share"] < 1
    assert exact[0]["aligned"] < exact[0]["last_frame"]  # what memory is for


def test_a_switch_is_counted_once_and_against_the_last_sight_by_hand():
    number = torch.tensor([[[0, 1], [0, 1], [2, 1], [2, 1], [2, 1]]])
    seen = torch.ones(1, 5, 2, dtype=torch.bool)
    assert switch_rate(number, seen) == pytest.approx(1 / 4)
    seen[0, 2:4, 0] = False  # the object is back in the last frame, in another slot
    assert switch_rate(number, seen) == pytest.approx(1 / 4)
    seen[0, 2:, 0] = False
    assert switch_rate(number, seen) == 0


def test_a_renumbering_that_is_told_undoes_a_swap_but_no_merger_by_hand():
    seen = torch.ones(1, 2, 2, dtype=torch.bool)
    swap = torch.tensor([[[0, 1], [1, 0]]])
    merger = torch.tensor([[[0, 1], [0, 0]]])
    assert switch_rate(best_numbers(swap, seen, 3), seen) == 0
    assert switch_rate(best_numbers(merger, seen, 3), seen) == 1


def test_an_object_belongs_to_the_slot_of_highest_overlap_by_hand():
    true = torch.tensor([[[[1, 1], [0, 0]]]], dtype=torch.uint8)
    labels = torch.tensor([[[[2, 1], [1, 1]]]], dtype=torch.uint8)
    film = Film(torch.zeros(1, 1, 3, 1), labels, true, mask_size=1, last_mask_counts=True)
    owner, overlap, area = owners(film, objects=1)
    assert (owner.item(), overlap.item(), area.item()) == (2, 0.5, 2)


@pytest.mark.parametrize("objects", [1, 7])
def test_things_differ_in_colour_and_meet_in_the_middle(objects):
    scenes = crossing(torch.arange(50), length=3, objects=objects)
    colours = torch.cat([scenes.background[:, None], scenes.colour], dim=1).tolist()
    assert all(len(set(map(tuple, scene))) == objects + 1 for scene in colours)
    first, middle, last = (scenes.centre[time::3] for time in range(3))
    assert ((middle - 0.5).norm(dim=-1) <= 0.031).all()
    torch.testing.assert_close((first + last) / 2, middle)
    assert ((first - last).norm(dim=-1) > 0.7).all()


def test_the_environment_plays_episodes_that_only_its_seed_decides():
    env = gym.make("benchmarks.crossing:Crossing-v0", length=4)
    frames = []
    for seed in (0, 0, 1):
        shown = [env.reset(seed=seed)[0]]
        assert env.unwrapped.masks.max() == 3
        for step in range(3):
            frame, _, terminated, truncated, _ = env.step(0)
            assert (terminated, truncated) == (False, step == 2)
            shown.append(frame)
        frames.append(np.stack(shown))
    np.testing.assert_array_equal(frames[0], frames[1])
    assert (frames[0] != frames[2]).any()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="objects must be 1 to 7, but got 8"):
        crossing(torch.arange(1), 3, 8)
    with pytest.raises(ValueError, match="length must be at least 2 frames, but got 1"):
        crossing(torch.arange(1), 1, 3)


@pytest.mark.parametrize("samples", [[], ["--samples"]])
def test_the_command_writes_its_line(tmp_path, capsys, samples):
    checkpoint = tiny_checkpoint(tmp_path, width=4)
    arguments = ["--checkpoint", checkpoint, "--episodes", "2", "--frames", "5", "--device", "cpu"]
    line = slot_identity.main([*arguments, *samples, "--results-dir", str(tmp_path)])
    assert read_lines(tmp_path / "slot_identity.jsonl") == [line]
    assert [row["encoder"] for row in line["rows"]] == ["exact", "exact", checkpoint, checkpoint]
    assert "objects in sight" in capsys.readouterr().out
    table = identity_section([line])
    assert table.count("objects in sight") == 2 - len(samples)  # the exact encoder has none
    assert f"{line['rows'][2]['aligned']:.2%}" in table

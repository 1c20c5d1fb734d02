"""`StackTower`: rules by physics, pictures by the masks, many at once by single ones."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
import stack_plans
from envs.stack_tower_plan import PALETTES, draw_plans
from envs.tower_blocks import CUBOID, CYLINDER, LYING, SPHERE
from episodes import (
    assert_a_seed_fixes_what_follows,
    assert_render_shows_the_current_frame,
    assert_the_specification_survives_json,
)
from stack_plans import best_move, rows

ID = "GenesisRL/StackTower-v0"
STATE = {"observation": "state"}


def make(**options):
    pytest.importorskip("mujoco")
    return gym.make(ID, **options)


def make_vec(count, **options):
    pytest.importorskip("mujoco")
    return gym.make_vec(ID, num_envs=count, **options)


def worst_move(state):
    """The action that leaves the block farthest from the one below."""
    table = rows(state)
    hanging = int(table[:, 16].argmax())
    apart = table[hanging, :2] + stack_plans.MOVES.numpy() - table[hanging - 1, :2]
    return int(np.linalg.norm(apart, axis=1).argmax())


@pytest.mark.parametrize("name", [ID, f"envs:{ID}"])
def test_both_spellings_of_the_id_make_the_environment(name):
    pytest.importorskip("mujoco")
    env = gym.make(name)
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(20)
    assert gym.make(name, **STATE).observation_space == gym.spaces.Box(0, 1, (102,), np.float32)
    assert envs.__name__ == "envs"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, STATE, {"info_masks": True, "info_state": True}])
def test_passes_the_checks_of_gymnasium_and_stable_baselines(options):
    check_env(make(render_mode="rgb_array", **options).unwrapped)
    sb3_check_env(make(render_mode="rgb_array", **options))


def test_a_player_that_knows_the_truth_completes_every_tower():
    env = make(**STATE)
    for seed in range(12):
        state, info = env.reset(seed=seed)
        assert info == {}
        for block in range(1, 5):
            state, *rest = env.step(best_move(state))
            last = block == 4
            assert rest == [0.25, last, False, {"is_success": last}]


def test_a_block_that_is_let_go_beside_the_tower_ends_the_episode_without_reward():
    env = make(**STATE)
    for seed in range(10):
        state, _ = env.reset(seed=seed)
        state, *_ = env.step(best_move(state))
        *_, reward, terminated, truncated, info = env.step(worst_move(state))
        assert (reward, terminated, truncated, info) == (0, True, False, {"is_success": False})


def test_the_first_move_decides_as_in_version_0():
    """Near an edge the last bit decides what a block does: moves that end there are left out."""
    counts = {}
    for seed in range(6):
        margins = stack_plans.margins(make(**STATE).reset(seed=seed)[0])
        for action in np.flatnonzero(np.abs(margins) > 0.08).tolist():
            env = make(**STATE)
            env.reset(seed=seed)
            _, reward, terminated, *_ = env.step(action)
            counts[seed, action] = reward
            assert (reward, terminated) == ((0.25, False) if margins[action] > 0 else (0, True))
    assert sum(value > 0 for value in counts.values()) > 6


def test_the_next_block_hangs_above_the_tower_and_moves_as_the_camera_sees_it():
    env = make(**STATE)
    state, _ = env.reset(seed=3)
    first, second = rows(state)[:2]
    np.testing.assert_array_equal(rows(state)[:, 15:].argmax(axis=1)[:2], [0, 1])
    assert not state.reshape(6, 17)[2:].any()
    assert second[2] - first[2] == pytest.approx(first[5] + 0.6 + second[5], abs=1e-5)
    move = stack_plans.MOVES[best_move(state)].numpy()
    after = rows(env.step(best_move(state))[0])
    np.testing.assert_allclose(after[1, :2], second[:2] + move, atol=0.01)
    assert after[1, 2] == pytest.approx(first[2] + first[5] + second[5], abs=0.01)
    assert after[:, 15].tolist() == [1, 1, 0, 0, 0, 0]
    assert after[:, 16].tolist() == [0, 0, 1, 0, 0, 0]


def test_masks_show_every_block_where_the_state_says_and_in_its_colour():
    env = make_vec(16, info_masks=True, info_state=True)
    frames, info = env.reset(seed=0)
    for _ in range(2):
        for image, mask, state in zip(frames, info["masks"], info["state"], strict=True):
            table = rows(state)
            seen = table[:, 15:].any(axis=1)
            assert set(np.unique(mask)) <= {0, *(np.flatnonzero(seen) + 1)}
            for number in np.flatnonzero(seen):
                x, y, z = table[number, :3]
                mine = mask == number + 1
                if mine.sum() < 40:
                    continue  # hidden behind another
                deep = ((50**0.5 + y) + (9 - z)) / 2**0.5  # the camera's height is 9
                shown = 31.5 + 32 * x / deep / np.tan(np.radians(39.845 / 2))
                assert abs(np.nonzero(mine)[1].mean() - shown) < 4
                colour, bright = image[mine].mean(axis=0), table[number, 8:11] > 0.5
                assert colour[bright].min() > colour[~bright].max()
        moves = [best_move(state) for state in info["state"]]
        frames, *_, info = env.step(np.array(moves))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_vector_and_single_environments_play_the_same_episodes(mode):
    options = {"info_masks": True, "info_state": True, "num_objects": 3}
    native = make_vec(4, autoreset_mode=mode, threads=3, **options)
    sync = gym.make_vec(ID, 4, "sync", vector_kwargs={"autoreset_mode": mode}, **options)
    ours, theirs = native.reset(seed=5), sync.reset(seed=5)
    assert_same(ours, theirs)
    counts, successes = [], 0
    for step in range(8):
        states = ours[-1]["state"]
        moves = [best_move(s) if i != step % 4 else worst_move(s) for i, s in enumerate(states)]
        ours, theirs = native.step(np.array(moves)), sync.step(np.array(moves))
        assert_same(ours, theirs)
        done = ours[2] | ours[3]
        counts.append(done.sum())
        successes += ours[-1]["is_success"].sum()
        if mode is AutoresetMode.DISABLED and done.any():
            ours, theirs = (e.reset(options={"reset_mask": done}) for e in (native, sync))
            assert_same(ours, theirs)
    assert {1} < set(counts), "one episode that ends alone, and several at once"
    assert mode is AutoresetMode.SAME_STEP or 0 < successes < sum(counts)


def assert_same(ours, theirs):
    """Infos count where their mask says so."""
    for mine, reference in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(mine, reference)
    compare_infos(ours[-1], theirs[-1])


def compare_infos(ours, theirs):
    for key in theirs:
        held = np.flatnonzero(theirs[f"_{key.removeprefix('_')}"])
        if isinstance(theirs[key], dict):
            compare_infos(ours[key], theirs[key])
            continue
        for row in held:
            np.testing.assert_array_equal(ours[key][row], theirs[key][row], err_msg=key)


def test_neither_threads_nor_neighbours_change_a_bit():
    def play(count, threads):
        env = make_vec(count, threads=threads, observation="state", autoreset_mode="SameStep")
        states, _ = env.reset(seed=0)
        shown = [states[:3]]
        for _ in range(4):
            states, *_ = env.step(np.array([best_move(state) for state in states]))
            shown.append(states[:3])
        return np.stack(shown)

    alone = play(3, 1)
    np.testing.assert_array_equal(alone, play(3, 2))
    np.testing.assert_array_equal(alone, play(5, 7))


def test_plans_do_not_depend_on_their_batch_and_only_the_top_is_curved():
    palette = torch.tensor(PALETTES["train"])
    plans = draw_plans(torch.arange(400), 5, palette)
    for whole, part in zip(plans, draw_plans(torch.tensor([7, 133]), 5, palette), strict=True):
        assert torch.equal(whole[[7, 133]], part)
    assert set(plans.kind[:, :-1].unique().tolist()) == {CUBOID, CYLINDER}
    assert set(plans.kind[:, -1].unique().tolist()) == {CUBOID, CYLINDER, LYING, SPHERE}
    assert all(len(colours.unique(dim=0)) == 5 for colours in plans.colour)
    assert plans.size.amin() >= 0.25
    assert plans.size.amax() <= 0.6


def test_what_is_drawn_for_an_episode_is_that_of_version_0():
    """A change here makes old results incomparable, so it needs a new version of the id."""
    plans = draw_plans(torch.arange(300), 5, torch.tensor(PALETTES["all"]))
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in plans))
    assert digest.hexdigest()[:16] == "eb9d206165eb17ba"


def test_out_of_distribution_colours_are_unseen_in_training():
    assert not set(PALETTES["train"]) & set(PALETTES["ood"])
    for colours in ("train", "ood"):
        states, _ = make_vec(40, colours=colours, num_objects=2, **STATE).reset(seed=0)
        seen = {tuple(row[8:11]) for state in states for row in rows(state)[:2]}
        assert seen == set(PALETTES[colours])


@pytest.mark.parametrize("count", [2, 6])
def test_the_number_of_blocks_is_free(count):
    env = make(num_objects=count, **STATE)
    state, _ = env.reset(seed=1)
    rewards = []
    terminated = False
    while not terminated:
        state, reward, terminated, _, info = env.step(best_move(state))
        rewards.append(reward)
    assert rewards == pytest.approx([1 / (count - 1)] * (count - 1))
    assert info["is_success"]


def test_a_seed_fixes_all_episodes_that_follow():
    assert_a_seed_fixes_what_follows(make, 7)


def test_render_shows_the_current_frame():
    assert_render_shows_the_current_frame(make(render_mode="rgb_array"), 7)


def test_the_specification_survives_json():
    assert_the_specification_survives_json(make(num_objects=3, colours="ood"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": "red"}, "colours needs to be one of train, ood, all, but got 'red'"),
        ({"num_objects": 7}, "num_objects needs to be 2 to 6 blocks, but got 7"),
        ({"image_size": 8}, "image_size needs to be at least 16 pixels, but got 8"),
        ({"samples": 5}, "samples needs to be 1, 2 or 3 rays, but got 5"),
        ({"threads": 0}, "threads needs to be at least 1, but got 0"),
        ({"textures": "nowhere"}, "floor/001.png to wall/006.png in nowhere"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but PyTorch .* finds"),
    ],
)
def test_a_mistake_in_the_options_is_answered_in_one_line(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_without_mujoco_one_line_says_what_to_install(without_mujoco):
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'genesis-rl\[env\]'") as error:
        gym.make(ID)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_on_cuda_the_same_episodes_are_played_and_pictures_hardly_differ():
    here, there = make_vec(8, info_state=True), make_vec(8, info_state=True, device="cuda")
    one, other = here.reset(seed=0), there.reset(seed=0)
    for action in range(4):
        np.testing.assert_array_equal(one[-1]["state"], other[-1]["state"])
        assert np.abs(one[0].astype(int) - other[0].astype(int)).mean() < 0.5
        one, other = here.step(np.full(8, action)), there.step(np.full(8, action))

"""`RoomReach`: rules by the true state, pictures by the masks, many at once by single ones."""

from math import dist

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs.room_reach import CLEARANCE, GAP, REACH, RoomReachEnv, scatter
from episodes import (
    assert_a_seed_fixes_what_follows,
    assert_lost,
    assert_render_shows_the_current_frame,
    assert_solved,
    assert_the_specification_survives_json,
)

ID = "GenesisRL/RoomReach-v0"
AWAY, LEFT, TOWARDS, RIGHT = range(4)
STEPS = ((0, 0.2), (-0.2, 0), (0, -0.2), (0.2, 0))
RADII = [0.24 * 2**0.5, 0.3, 0.25, 0.405, 0.2]  # box, sphere, cylinder, cone, capsule
QUICK = {"samples": 1, "textures": "procedural"}


def make(**options):
    return gym.make(ID, **{**QUICK, **options})


def make_vec(count, **options):
    return gym.make_vec(ID, num_envs=count, **{**QUICK, **options})


def rows(state):
    """One line per object: x, y in the room's units, red, green, blue, five shapes."""
    table = np.asarray(state, dtype=np.float64).reshape(-1, 10).copy()
    table[:, :2] = (2 * table[:, :2] - 1) * REACH
    return table


def blue_sphere(state):
    """Its number: the only object with more blue than twice of any other channel."""
    objects = rows(state)[:-1]
    (number,) = np.flatnonzero(objects[:, 4] > 2 * objects[:, 2:4].max(axis=1))
    return int(number)


def reach(state, goal):
    """Actions that take the avatar to an object without touching another; None if walled in."""
    table = rows(state)
    places, radii = table[:, :2].tolist(), [RADII[k] for k in table[:, 5:].argmax(axis=1)]
    start = tuple(places[-1])
    paths, frontier = {start: []}, [start]
    while frontier:
        here = frontier.pop(0)
        for action, move in enumerate(STEPS):
            ahead = tuple(round(min(max(a + b, -1), 1), 6) for a, b in zip(here, move, strict=True))
            room = [dist(ahead, p) - r - 0.2 for p, r in zip(places, radii, strict=True)][:-1]
            if ahead in paths or any(abs(r) < 1e-4 for r in room):
                continue
            paths[ahead] = [*paths[here], action]
            if min(room) > 0:
                frontier.append(ahead)
            elif room.index(min(room)) == goal:
                return paths[ahead]
    return None


@pytest.mark.parametrize("name", [ID, f"envs:{ID}"])
def test_both_spellings_of_the_id_make_the_environment(name):
    env = gym.make(name, **QUICK)
    assert isinstance(env.unwrapped, RoomReachEnv)
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(4)
    assert envs.__name__ == "envs"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{}, {"observation": "state"}, {"info_masks": True, "info_state": True}]
)
def test_passes_the_checks_of_gymnasium_and_stable_baselines(options):
    check_env(make(render_mode="rgb_array", **options).unwrapped)
    sb3_check_env(make(render_mode="rgb_array", **options))


def test_actions_move_the_avatar_as_the_camera_sees_it():
    env = make(observation="state")
    for action, move in enumerate(STEPS):
        state, _ = env.reset(seed=0)
        avatar = rows(state)[-1]
        assert avatar[:2].tolist() == [0, 0]
        np.testing.assert_allclose(avatar[2:], [1, 0.15, 0.15, 0, 0, 0, 0, 1], atol=1e-6)
        moved, *_ = env.step(action)
        np.testing.assert_allclose(rows(moved)[-1, :2], move, atol=1e-6)


def test_in_the_picture_the_avatar_moves_left_and_right_and_shrinks_with_distance():
    def seen(action):
        env = make(info_masks=True, num_objects=1)
        _, info = env.reset(seed=4)
        for _ in range(2):
            *_, info = env.step(action)
        mask = info["masks"] == 2
        return mask.sum(), np.nonzero(mask)[1].mean()

    area, column = zip(*(seen(action) for action in range(4)), strict=True)
    assert column[LEFT] < 26 < 30 < column[AWAY] < 34 < 38 < column[RIGHT]
    assert 1.3 * area[AWAY] < area[TOWARDS]


def test_the_avatar_stays_in_the_part_of_the_floor_that_is_in_view():
    env = make(observation="state", num_objects=1).unwrapped
    env.reset(seed=0)
    env._world._rooms.place[:, 0] = torch.tensor([1.0, 1.0])
    for action, axis in ((LEFT, 0), (TOWARDS, 1)):
        for _ in range(7):
            state, *_ = env.step(action)
        assert rows(state)[-1, axis] == -1


def test_masks_show_every_object_where_the_state_says():
    frames, info = make_vec(40, info_masks=True, info_state=True).reset(seed=0)
    for image, mask, state in zip(frames, info["masks"], info["state"], strict=True):
        table = rows(state)
        for number, (x, y, *colour) in enumerate(table):
            mine = mask == number + 1
            if mine.sum() < 40:
                continue  # hidden behind another
            expected = 32 + 32 * x / (3.5 + y) / np.tan(np.radians(25))
            assert abs(np.nonzero(mine)[1].mean() - expected) < 6
            dominant = np.array(colour[:3]) > 0.9
            shown = image[mine].mean(axis=0)
            assert shown[dominant].min() > shown[~dominant].max(initial=0)
        assert mask.max() == 3


def test_every_target_can_be_reached_and_reaching_it_is_success():
    env = make(observation="state")
    for seed in range(60):
        state, info = env.reset(seed=seed)
        assert info == {}
        assert_solved(env, reach(state, blue_sphere(state)))


def test_touching_another_object_ends_the_episode_without_reward():
    env = make(observation="state")
    for seed in range(20):
        state, _ = env.reset(seed=seed)
        assert_lost(env, reach(state, 1 - blue_sphere(state)))


def test_an_episode_is_cut_after_a_hundred_steps():
    env = make(observation="state")
    env.reset(seed=0)
    for step in range(100):
        *_, terminated, truncated, info = env.step(LEFT if step % 2 else RIGHT)
    assert (terminated, truncated, info["is_success"]) == (False, True, False)


def test_there_is_one_blue_sphere_and_all_hues_differ():
    orders = set()
    states, _ = make_vec(60, observation="state").reset(seed=0)
    for state in states:
        table = rows(state)
        assert len(np.unique(table[:, 2:5].round(4), axis=0)) == 3
        assert table[blue_sphere(state), 5:].tolist() == [0, 1, 0, 0, 0]
        orders.add(blue_sphere(state))
    assert orders == {0, 1}, "its number tells nothing"


def test_out_of_distribution_hues_are_unseen_in_training():
    seen = {}
    for colours in ("train", "ood"):
        states, _ = make_vec(200, observation="state", colours=colours).reset(seed=0)
        objects = states.reshape(200, 3, 10)[:, :2, 2:5].reshape(-1, 3)
        seen[colours] = {tuple(c) for c in np.rint(objects * 255).astype(int).tolist()}
        assert len(seen[colours]) == 7
    assert len(seen["train"] & seen["ood"]) == 1, "the target's blue"


def test_objects_are_clear_of_the_avatar_and_of_each_other():
    places = scatter(torch.arange(2000), 3)
    assert places.abs().max() <= REACH
    assert (places.norm(dim=-1) < CLEARANCE).float().mean() < 0.001
    apart = torch.cdist(places, places) + 9 * torch.eye(3)
    assert (apart.amin((1, 2)) < GAP - 1e-6).float().mean() < 0.02


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_objects_is_free(count):
    _, info = make_vec(8, num_objects=count, info_masks=True).reset(seed=0)
    assert set(np.unique(info["masks"])) == set(range(count + 2))


def test_many_at_once_play_what_each_plays_alone():
    vector, single = make_vec(3), [make() for _ in range(3)]
    for seed, action in enumerate((AWAY, LEFT, TOWARDS, RIGHT)):
        frames, _ = vector.reset(seed=seed)
        alone = [env.reset(seed=seed + i)[0] for i, env in enumerate(single)]
        np.testing.assert_array_equal(frames, np.stack(alone))
        frames, rewards, ended, *_ = vector.step(np.full(3, action))
        results = [env.step(action) for env in single]
        np.testing.assert_array_equal(frames, np.stack([r[0] for r in results]))
        assert rewards.tolist() == [r[1] for r in results]
        assert ended.tolist() == [r[2] for r in results] == [False] * 3, "the start is clear"


def test_a_seed_fixes_rooms_and_views_of_all_episodes_that_follow():
    assert_a_seed_fixes_what_follows(make, LEFT)


def test_render_shows_the_current_frame():
    assert_render_shows_the_current_frame(make(render_mode="rgb_array"), LEFT)


def test_the_specification_survives_json():
    assert_the_specification_survives_json(make(num_objects=1, colours="ood"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": "red"}, "colours needs to be one of train, ood, all, but got 'red'"),
        ({"num_objects": 4}, "num_objects needs to be 1 to 3, but got 4"),
        ({"image_size": 8}, "image_size needs to be at least 16 pixels, but got 8"),
        ({"samples": 5}, "samples needs to be 1, 2 or 3 rays, but got 5"),
        ({"textures": "lab"}, "source is auto, labmaze or procedural, but got 'lab'"),
    ],
)
def test_a_mistake_in_the_options_is_answered_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_on_cuda_the_same_episodes_are_played():
    here, there = make_vec(8, observation="state"), make_vec(8, observation="state", device="cuda")
    np.testing.assert_allclose(here.reset(seed=0)[0], there.reset(seed=0)[0], atol=1e-6)
    for action in range(4):
        for a, b in zip(here.step([action] * 8)[:4], there.step([action] * 8)[:4], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

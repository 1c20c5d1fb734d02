"""The tasks besides SpriteGoal, which has files of its own, and what all four have in common."""

import hashlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs  # noqa: F401  registers the ids
import sprite_plans
from envs.sprite_push import CORNER, GOAL, SpritePush, SpritePushEnv
from envs.sprites import COLOURS, TARGET
from sprite_plans import rows

GOAL_TASK = "GenesisRL/SpriteGoal-v0"
PUSH = "GenesisRL/SpritePush-v0"
OBJECTS = "GenesisRL/SpriteObjectComparison-v0"
PROPERTIES = "GenesisRL/SpritePropertyComparison-v0"
NEW = [PUSH, OBJECTS, PROPERTIES]
UP, LEFT, DOWN, RIGHT = range(4)


def short(name):
    return name.removeprefix("GenesisRL/Sprite").removesuffix("-v0")


def starts(name, count, **options):
    """`[count, N + 1, 8]` sprites of as many first states."""
    env = gym.make_vec(name, num_envs=count, observation="state", **options)
    return env.reset(seed=0)[0].reshape(count, -1, 8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options", [{}, {"observation": "state", "num_objects": 5}], ids=["pixels", "state"]
)
@pytest.mark.parametrize("name", NEW, ids=short)
def test_passes_the_checks_of_gymnasium_and_stable_baselines(name, options):
    check_env(gym.make(name, render_mode="rgb_array", **options).unwrapped)
    sb3_check_env(gym.make(name, render_mode="rgb_array", **options))


@pytest.mark.parametrize("name", NEW, ids=short)
def test_a_player_that_knows_the_truth_solves_the_task(name):
    env, episodes, solved = gym.make(name, observation="state"), 40, 0
    for seed in range(episodes):
        state, _ = env.reset(seed=seed)
        path = sprite_plans.solve(name, state)
        if path is None:
            continue
        for action in path[:-1]:
            _, reward, terminated, _, info = env.step(action)
            assert (reward, terminated, info) == (0, False, {"is_success": False})
        _, reward, terminated, truncated, info = env.step(path[-1])
        assert (reward, terminated, truncated, info) == (1, True, False, {"is_success": True})
        solved += 1
    assert solved >= 0.95 * episodes


V0 = {
    GOAL_TASK: "1ff4b018e066461d",
    PUSH: "3601fe9898c331cd",
    OBJECTS: "63de353c6863e165",
    PROPERTIES: "fcb3d126f8c48661",
}


@pytest.mark.parametrize("name", V0, ids=short)
def test_episodes_are_those_of_version_0(name):
    """A change here makes old results incomparable, so it needs a new version of the id."""
    digest = hashlib.sha256()
    for options in ({}, {"num_objects": 6, "colours": "all", "image_size": 32}):
        env = gym.make_vec(name, num_envs=8, info_masks=True, info_state=True, **options)
        digest.update(env.reset(seed=5)[0].tobytes())
        for actions in np.random.default_rng(0).integers(4, size=(40, 8)):
            *arrays, infos = env.step(actions)
            for array in (*arrays, *(infos[key] for key in ("masks", "state", "is_success"))):
                digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest()[:16] == V0[name]


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_all_objects_but_one_are_equal_and_that_one_differs_in_one_property(count):
    kinds = np.rint(starts(OBJECTS, 300, num_objects=count)[:, :-1, 2:] * 255).astype(int)
    odd, by_colour = set(), []
    for scene in kinds:
        values, counts = np.unique(scene, axis=0, return_counts=True)
        assert sorted(counts) == [1, count - 1]
        different = values[0] != values[1]
        assert different[:3].any() != different[3:].any()
        by_colour.append(different[:3].any())
        odd.add(int((scene == values[counts.argmin()]).all(1).argmax()))
    assert odd == set(range(count))  # its number tells nothing
    assert 0.4 < np.mean(by_colour) < 0.6


@pytest.mark.parametrize(("count", "groups"), [(3, [1, 1, 1]), (4, [2, 2]), (5, [2, 3])])
def test_one_property_tells_the_odd_one_and_the_other_is_dealt_out(count, groups):
    kinds = np.rint(starts(PROPERTIES, 300, num_objects=count)[:, :-1, 2:] * 255).astype(int)
    odd, by_colour = set(), []
    for scene in kinds:
        sizes = []
        for part in (scene[:, :3], scene[:, 3:]):
            values, counts = np.unique(part, axis=0, return_counts=True)
            sizes.append(sorted(counts.tolist()))
            if sizes[-1] == [1, count - 1]:
                odd.add(int((part == values[counts.argmin()]).all(1).argmax()))
        assert sorted(sizes) == sorted([[1, count - 1], groups])
        by_colour.append(sizes[0] == [1, count - 1])
    assert odd == set(range(count))
    assert 0.4 < np.mean(by_colour) < 0.6


@pytest.mark.parametrize("name", NEW, ids=short)
def test_out_of_distribution_colours_are_unseen_in_training(name):
    special = {TARGET[1], GOAL[1]}
    for colours in ("train", "ood"):
        objects = starts(name, 200, colours=colours)[:, :-1, 2:5].reshape(-1, 3)
        seen = {tuple(c) for c in np.rint(objects * 255).astype(int).tolist()}
        assert seen - special == set(COLOURS[colours])
        assert (seen & special == special) == (name == PUSH)
    assert not special & set(COLOURS["all"])


@pytest.mark.parametrize("name", NEW, ids=short)
def test_the_number_of_objects_is_free_and_all_are_in_the_frame(name):
    for count in (3, 6):
        env = gym.make(name, num_objects=count, info_masks=True)
        image, info = env.reset(seed=0)
        assert set(np.unique(info["masks"])) == set(range(count + 2))
        assert (image[info["masks"] == 0] == 63).all()


@pytest.mark.parametrize(("name", "least"), [(PUSH, 2), (OBJECTS, 3), (PROPERTIES, 3)])
def test_too_few_objects_for_a_task_are_refused_in_one_line(name, least):
    gym.make(name, num_objects=least)
    with pytest.raises(ValueError, match=f"num_objects needs to be {least} to 6") as error:
        gym.make(name, num_objects=least - 1)
    assert "\n" not in str(error.value)


def test_pushing_starts_with_the_goal_in_its_corner_and_room_behind_the_square():
    scenes = starts(PUSH, 500)
    np.testing.assert_allclose(scenes[:, 0, :2], np.tile(CORNER, (500, 1)), atol=1e-6)
    np.testing.assert_allclose(scenes[:, -1, :2], np.tile([0.75, 0.25], (500, 1)), atol=1e-6)
    squares = [sprite_plans.blue_square(scene) for scene in scenes]
    assert set(squares) == {1, 2}  # its number tells nothing
    places = scenes[np.arange(500), squares, :2]
    assert places[:, 0].max() <= 0.6
    assert places[:, 1].min() >= 0.4
    apart = np.linalg.norm(scenes[:, :-1, None, :2] - scenes[:, None, :-1, :2], axis=-1)
    nearest = (apart + 9 * np.eye(3)).min((1, 2))
    assert (nearest >= 0.28 - 1e-6).mean() > 0.95
    assert nearest.min() > 0.2


def pushing(*places, num_objects=3):
    """An environment with the objects, and then the agent, at these places."""
    env = SpritePushEnv(observation="state", num_objects=num_objects)
    state, _ = env.reset(seed=0)
    things = [sprite_plans.blue_square(state)]
    things += [i for i in range(1, num_objects) if i not in things]
    for number, place in zip([*things, -1], places, strict=True):
        env._world._scene.centre[0, number] = torch.tensor(place)
    return env, things


def test_an_object_in_the_way_is_pushed_along():
    env, (square, other) = pushing((0.5, 0.5), (0.3, 0.3), (0.64, 0.5))
    for step in (1, 2):
        state, *_ = env.step(LEFT)
        np.testing.assert_allclose(rows(state)[-1, :2], [0.64 - 0.05 * step, 0.5], atol=1e-6)
        np.testing.assert_allclose(rows(state)[square, :2], [0.5 - 0.05 * step, 0.5], atol=1e-6)
        np.testing.assert_allclose(rows(state)[other, :2], [0.3, 0.3], atol=1e-6)


@pytest.mark.parametrize("other", [(0.38, 0.5), (0.74, 0.3)], ids=["object", "edge"])
def test_nothing_moves_if_an_object_would_be_pushed_into_another_or_out(other):
    agent, action = ((0.7, 0.5), LEFT) if other[0] < 0.5 else ((0.58, 0.3), RIGHT)
    env, _ = pushing((0.55, 0.5), other, agent)
    before = env._world.state().clone()
    state, *_ = env.step(action)
    np.testing.assert_array_equal(state, before[0])


@pytest.mark.parametrize("first", [0, 1], ids=["square", "other"])
def test_the_first_object_at_the_goal_decides(first):
    places = [(0.38, 0.7), (0.6, 0.4)][:: 1 - 2 * first]
    env, _ = pushing(*places, (0.52, 0.7))
    steps = 0
    terminated = False
    while not terminated:
        _, reward, terminated, _, info = env.step(LEFT)
        steps += 1
    assert (steps, reward, info["is_success"]) == (1, 1 - first, first == 0)


def test_things_never_overlap_and_never_leave_however_they_are_pushed():
    world = SpritePush(64, num_objects=5)
    world.begin(torch.arange(64), torch.arange(64) * 7919)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        world.advance(torch.randint(4, (64,), generator=generator))
        centre = world._scene.centre[:, 1:]
        assert ((centre >= 0.25) & (centre <= 0.75)).all()
        apart = torch.cdist(centre, centre, compute_mode="donot_use_mm_for_euclid_dist")
        assert (apart + torch.eye(5)).min() > 0.15 - 1e-5

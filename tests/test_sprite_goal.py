import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs.sprite_goal import SpriteGoalEnv
from envs.sprites import CLEARANCE, COLOURS, GAP, TARGET, clear_places, scatter_apart
from episodes import (
    assert_lost,
    assert_render_shows_the_current_frame,
    assert_solved,
    assert_the_specification_survives_json,
)
from sprite_plans import blue_square, reach, rows

ID = "GenesisRL/SpriteGoal-v0"
UP, LEFT, DOWN, RIGHT = range(4)


def make(**options):
    return gym.make(ID, **options)


@pytest.mark.parametrize("name", [ID, f"envs:{ID}"])
def test_both_spellings_of_the_id_make_the_environment(name):
    env = gym.make(name)
    assert isinstance(env.unwrapped, SpriteGoalEnv)
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(4)
    assert envs.__name__ == "envs"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options",
    [{}, {"observation": "state"}, {"info_masks": True, "info_state": True, "image_size": 128}],
)
def test_passes_the_checks_of_gymnasium_and_stable_baselines(options):
    check_env(make(render_mode="rgb_array", **options).unwrapped)
    sb3_check_env(make(render_mode="rgb_array", **options))


def test_actions_move_the_agent_by_a_twentieth_of_the_frame():
    env = make(observation="state")
    for action, move in ((UP, (0, -1)), (LEFT, (-1, 0)), (DOWN, (0, 1)), (RIGHT, (1, 0))):
        state, _ = env.reset(seed=0)
        assert rows(state)[-1].tolist() == [0.5, 0.5, 1, 0, 0, 0, 0, 1]  # a red heart
        moved, *_ = env.step(action)
        np.testing.assert_allclose(rows(moved)[-1, :2], 0.5 + 0.05 * np.array(move), atol=1e-6)


def test_the_agent_stays_where_centres_are_in_multi_dsprites():
    world = SpriteGoalEnv(observation="state", num_objects=1)
    world.reset(seed=0)
    centre = world._world._scene.centre
    centre[:, 0] = torch.tensor([0.75, 0.75])
    for action, axis in ((LEFT, 0), (UP, 1)):
        for _ in range(20):
            state, *_ = world.step(action)
        assert rows(state)[-1, axis] == 0.25


def test_the_frame_shows_the_scene():
    env = make(info_masks=True, info_state=True)
    image, info = env.reset(seed=1)
    assert image[0, 0].tolist() == [63, 63, 63]
    assert image[32, 32].tolist() == [255, 0, 0]
    assert info["masks"][32, 32] == 4
    for number, row in enumerate(rows(info["state"])):
        x, y = (row[:2] * 64).astype(int)
        assert info["masks"][y, x] == number + 1
        np.testing.assert_allclose(image[y, x] / 255, row[2:5], atol=1e-6)
    assert set(np.unique(info["masks"])) == set(range(5))
    assert (image[info["masks"] == 0] == 63).all()


def test_every_target_can_be_reached_and_reaching_it_is_success():
    env = make(observation="state")
    for seed in range(150):
        state, info = env.reset(seed=seed)
        assert info == {}
        assert_solved(env, reach(state, blue_square(state)))


def test_touching_another_object_ends_the_episode_without_reward():
    env = make(observation="state")
    for seed in range(30):
        state, _ = env.reset(seed=seed)
        assert_lost(env, reach(state, (blue_square(state) + 1) % 3))


def test_an_episode_is_cut_after_a_hundred_steps():
    env = make()
    env.reset(seed=0)
    for step in range(100):  # back and forth next to the start touches nothing
        *_, terminated, truncated, info = env.step(LEFT if step % 2 else RIGHT)
    assert (terminated, truncated, info["is_success"]) == (False, True, False)


def test_there_is_one_blue_square_and_all_colours_differ():
    orders = set()
    for seed in range(60):
        state, _ = make(observation="state").reset(seed=seed)
        sprites = rows(state)
        assert len(np.unique(sprites[:, 2:5], axis=0)) == 4
        target = sprites[blue_square(state)]
        assert target[5:].tolist() == [1, 0, 0]
        orders.add(blue_square(state))
    assert orders == {0, 1, 2}  # its number tells nothing


def test_palettes_share_no_colour_and_none_is_close_to_another():
    assert not set(COLOURS["train"]) & set(COLOURS["ood"])
    assert set(COLOURS["all"]) == set(COLOURS["train"]) | set(COLOURS["ood"])
    special = [TARGET[1], (255, 0, 0), (63, 63, 63)]
    for palette in ("train", "ood"):
        colours = np.array([*COLOURS[palette], *special])
        apart = np.abs(colours[:, None] - colours).max(-1) + 999 * np.eye(len(colours))
        assert apart.min() >= 127


def test_out_of_distribution_colours_are_unseen_in_training():
    seen = {}
    for colours in ("train", "ood"):
        env = gym.make_vec(ID, num_envs=100, observation="state", colours=colours)
        state, _ = env.reset(seed=0)
        objects = state.reshape(100, 4, 8)[:, :3, 2:5].reshape(-1, 3)
        seen[colours] = {tuple(c) for c in np.rint(objects * 255).astype(int).tolist()}
    assert seen["train"] == set(COLOURS["train"]) | {TARGET[1]}
    assert seen["ood"] == set(COLOURS["ood"]) | {TARGET[1]}


def test_objects_keep_their_distance():
    places = scatter_apart(torch.arange(2000), [clear_places("cpu")] * 3)
    assert ((places >= 0.25) & (places <= 0.75)).all()
    assert (places - 0.5).norm(dim=-1).min() >= CLEARANCE - 1e-6
    apart = torch.cdist(places, places) + 9 * torch.eye(3)
    assert (apart.amin((1, 2)) >= GAP - 1e-6).float().mean() > 0.99
    assert apart.min() > 0.2


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_number_of_objects_is_free(count):
    env = make(num_objects=count, info_masks=True)
    _, info = env.reset(seed=0)
    assert set(np.unique(info["masks"])) == set(range(count + 2))


def test_a_seed_fixes_all_episodes_that_follow():
    def play(seed):
        env = make()
        frames = [env.reset(seed=seed)[0]]
        for action in (LEFT, UP, UP):
            frames.append(env.step(action)[0])
        frames += [env.reset()[0], env.reset()[0]]
        return np.stack(frames)

    np.testing.assert_array_equal(play(5), play(5))
    assert len(np.unique(play(5)[[0, 4, 5]].reshape(3, -1), axis=0)) == 3
    assert (play(5) != play(6)).any()


def test_nothing_global_is_drawn_from():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    env = make()
    env.reset(seed=0)
    env.step(0)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_every_observation_is_memory_of_its_own():
    env = make(observation="state", info_state=True)
    seen = [env.reset(seed=0)[0]]
    for action in (LEFT, RIGHT, UP):
        state, *_, info = env.step(action)
        seen += [state, info["state"]]
    copies = [state.copy() for state in seen]
    seen[0][:] = -1
    env.step(DOWN)
    for state, copy in zip(seen[1:], copies[1:], strict=True):
        np.testing.assert_array_equal(state, copy)


def test_render_shows_the_current_frame():
    assert_render_shows_the_current_frame(make(render_mode="rgb_array"), LEFT)


def test_the_specification_survives_json():
    assert_the_specification_survives_json(make(num_objects=2, colours="ood", info_masks=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make(colours="blue"),
            "colours needs to be one of train, ood, all, but got 'blue'",
        ),
        (lambda: make(num_objects=7), "num_objects needs to be 1 to 6"),
        (lambda: make(num_objects=0), "num_objects needs to be 1 to 6"),
        (lambda: make(image_size=8), "image_size needs to be at least 16 pixels, but got 8"),
        (lambda: make(observation="rgb"), "observation needs to be one of pixels, state"),
        (lambda: SpriteGoalEnv(render_mode="human"), "render_mode needs to be one of rgb_array"),
    ],
)
def test_a_mistake_in_the_options_is_answered_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_action_that_does_not_exist_is_refused():
    env = SpriteGoalEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"one of Discrete\(4\), but is 4"):
        env.step(4)

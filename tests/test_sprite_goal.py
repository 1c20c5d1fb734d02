import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs.sprites import (
    CLEARANCE,
    COLOURS,
    GAP,
    TARGET,
    SpriteGoalEnv,
    SpriteGoalVectorEnv,
    scatter_apart,
)

ID = "GenesisRL/SpriteGoal-v0"
UP, LEFT, DOWN, RIGHT = range(4)


def make(**options):
    return gym.make(ID, **options)


def rows(state):
    """One line per sprite: x, y, red, green, blue, square, ellipse, heart."""
    return np.asarray(state).reshape(-1, 8)


def target_row(state):
    objects = rows(state)[:-1]
    return int(np.flatnonzero((objects[:, 2:5] == [0, 0, 1]).all(1))[0])


def shortest_path(state, goal):
    """Actions that take the agent to an object without touching another; None if walled in."""
    places = rows(state)[:, :2]
    start = (0, 0)
    paths, frontier = {start: []}, [start]
    while frontier:
        ahead = []
        for cell in frontier:
            for action, (dx, dy) in enumerate(((0, -1), (-1, 0), (0, 1), (1, 0))):
                step = (cell[0] + dx, cell[1] + dy)
                if max(map(abs, step)) > 5 or step in paths:
                    continue
                paths[step] = [*paths[cell], action]
                away = np.hypot(*(places[:-1] - (0.5 + 0.05 * np.array(step))).T)
                if away.min() >= 0.15:
                    ahead.append(step)
                elif away.argmin() == goal:
                    return paths[step]
        frontier = ahead
    return None


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
        path = shortest_path(state, target_row(state))
        assert path is not None
        for action in path[:-1]:
            _, reward, terminated, truncated, info = env.step(action)
            assert (reward, terminated, truncated, info) == (0, False, False, {"is_success": False})
        _, reward, terminated, truncated, info = env.step(path[-1])
        assert (reward, terminated, truncated, info) == (1, True, False, {"is_success": True})


def test_touching_another_object_ends_the_episode_without_reward():
    env = make(observation="state")
    for seed in range(30):
        state, _ = env.reset(seed=seed)
        wrong = (target_row(state) + 1) % 3
        for action in shortest_path(state, wrong):
            _, reward, terminated, _, info = env.step(action)
        assert (reward, terminated, info) == (0, True, {"is_success": False})


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
        target = sprites[target_row(state)]
        assert target[5:].tolist() == [1, 0, 0]
        orders.add(target_row(state))
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
    places = scatter_apart(torch.arange(2000), 3)
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
    env = make(render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), frame)
    frame, *_ = env.step(LEFT)
    np.testing.assert_array_equal(env.render(), frame)


def test_the_specification_survives_json():
    env = make(num_objects=2, colours="ood", info_masks=True)
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset(seed=3)[0], twin.reset(seed=3)[0])


N = 6


def pair(mode, **options):
    """The native vector environment, and Gymnasium's around single ones, which is the law."""
    limit = {"max_episode_steps": 12}
    native = gym.make_vec(ID, num_envs=N, autoreset_mode=mode, **limit, **options)
    assert isinstance(native, SpriteGoalVectorEnv)
    sync = gym.make_vec(ID, N, "sync", vector_kwargs={"autoreset_mode": mode}, **limit, **options)
    return native, sync


def assert_same(ours, theirs):
    """Infos count where their mask says so."""
    if isinstance(theirs, dict):
        for key in theirs:
            if key.startswith("_"):
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
                continue
            held = theirs[f"_{key}"]
            if isinstance(theirs[key], dict):
                assert_same(ours[key], theirs[key])
                continue
            for row in np.flatnonzero(held):
                np.testing.assert_array_equal(ours[key][row], theirs[key][row], err_msg=key)
        for key in set(ours) - set(theirs):
            assert not np.any(ours[key] if key.startswith("_") else ours[f"_{key}"]), key
        return
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize(
    "options",
    [{"info_masks": True, "info_state": True}, {"observation": "state"}],
    ids=["pixels", "state"],
)
def test_vector_and_single_environments_play_the_same_episodes(mode, options):
    native, sync = pair(mode, **options)
    assert native.metadata["autoreset_mode"] is mode
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    for ours, theirs in zip(native.reset(seed=11), sync.reset(seed=11), strict=True):
        assert_same(ours, theirs)
    actions = np.random.default_rng(0).integers(4, size=(60, N))
    ended = successes = 0
    for step in actions:
        mine, reference = native.step(step), sync.step(step)
        for ours, theirs in zip(mine, reference, strict=True):
            assert_same(ours, theirs)
        assert mine[0] in native.observation_space
        done = mine[2] | mine[3]
        ended, successes = ended + done.sum(), successes + mine[1].sum()
        if mode is AutoresetMode.DISABLED and done.any():
            again = [env.reset(options={"reset_mask": done}) for env in (native, sync)]
            for ours, theirs in zip(*again, strict=True):
                assert_same(ours, theirs)
    assert ended > 20
    assert 0 < successes < ended


def test_a_second_reset_goes_on_with_the_same_generators():
    native, sync = pair(AutoresetMode.NEXT_STEP)
    for seed in (None, 3, None, [1, None, 2, None, 3, None]):
        if seed is None and not native._generators:
            native.reset()  # unseeded: nothing to compare
            sync.reset()
            continue
        for ours, theirs in zip(native.reset(seed=seed), sync.reset(seed=seed), strict=True):
            assert_same(ours, theirs)


def test_vector_rendering_gives_one_frame_per_environment():
    env = gym.make_vec(ID, num_envs=2, render_mode="rgb_array")
    frames, _ = env.reset(seed=0)
    rendered = env.render()
    assert len(rendered) == 2
    np.testing.assert_array_equal(rendered, frames)


def test_observations_stay_tensors_when_asked():
    plain, tensors = (
        gym.make_vec(ID, num_envs=4, tensors=kind, autoreset_mode="SameStep") for kind in (0, 1)
    )
    plain.reset(seed=0)
    observations, _ = tensors.reset(seed=0)
    assert isinstance(observations, torch.Tensor)
    for actions in np.random.default_rng(0).integers(4, size=(20, 4)):
        ours, theirs = tensors.step(torch.from_numpy(actions)), plain.step(actions)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_kept_vector_observations_never_change():
    env = gym.make_vec(ID, num_envs=3, observation="state", info_state=True)
    kept = [env.reset(seed=0)[0]]
    for _ in range(15):
        state, *_, infos = env.step(env.action_space.sample())
        kept += [state, infos["state"]]
    copies = [one.copy() for one in kept]
    kept[0][:] = 5
    env.step(env.action_space.sample())
    for one, copy in zip(kept[1:], copies[1:], strict=True):
        np.testing.assert_array_equal(one, copy)


def test_stepping_an_ended_episode_without_autoreset_is_refused():
    env = gym.make_vec(ID, num_envs=2, autoreset_mode="Disabled", max_episode_steps=1)
    env.reset(seed=0)
    env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=r"episodes \[0, 1\] have ended"):
        env.step(np.zeros(2, int))


def test_the_reset_mask_stays_in_the_caller_s_options():
    env = gym.make_vec(ID, num_envs=2, autoreset_mode="Disabled")
    before, _ = env.reset(seed=0)
    options = {"reset_mask": np.array([True, False])}
    after, _ = env.reset(options=options)
    assert "reset_mask" in options
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(before[1], after[1])


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
        (lambda: gym.make_vec(ID, 0), "num_envs needs to be at least 1, but got 0"),
        (
            lambda: gym.make_vec(ID, 1, autoreset_mode="never"),
            "autoreset_mode needs to be one of NextStep, SameStep, Disabled, but got 'never'",
        ),
    ],
)
def test_a_mistake_in_the_options_is_answered_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_actions_is_answered_in_one_line():
    single = SpriteGoalEnv()
    single.reset(seed=0)
    with pytest.raises(ValueError, match=r"one of Discrete\(4\), but is 4"):
        single.step(4)
    vector = SpriteGoalVectorEnv(2)
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        vector.step([0, 0])
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="within 0 and 3, but they reach from -1 to 0"):
        vector.step([0, -1])
    with pytest.raises(ValueError, match=r"2 integers, but are torch.int64 of shape \(3,\)"):
        vector.step([0, 1, 2])
    with pytest.raises(ValueError, match="one for each of 2 environments, but has 3"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask needs to be 2 bools"):
        vector.reset(options={"reset_mask": np.zeros(2, bool)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_play_the_same_episodes():
    cpu, cuda = (
        gym.make_vec(ID, num_envs=64, device=device, info_masks=True, info_state=True)
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(cpu.reset(seed=0), cuda.reset(seed=0), strict=True):
        assert_same(ours, theirs)
    for actions in np.random.default_rng(0).integers(4, size=(150, 64)):
        for ours, theirs in zip(cpu.step(actions), cuda.step(actions), strict=True):
            assert_same(ours, theirs)

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import envs  # noqa: F401  registers the ids
from envs.sprite_goal import SpriteGoalVectorEnv
from envs.vector import SceneVectorEnv

ID = "GenesisRL/SpriteGoal-v0"
PUSH = "GenesisRL/SpritePush-v0"
OBJECTS = "GenesisRL/SpriteObjectComparison-v0"
PROPERTIES = "GenesisRL/SpritePropertyComparison-v0"
N = 6


def pair(mode, name=ID, **options):
    """The native vector environment, and Gymnasium's around single ones, which is the law."""
    limit = {"max_episode_steps": 12}
    native = gym.make_vec(name, num_envs=N, autoreset_mode=mode, **limit, **options)
    assert isinstance(native, SceneVectorEnv)
    sync = gym.make_vec(name, N, "sync", vector_kwargs={"autoreset_mode": mode}, **limit, **options)
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
    ("name", "options"),
    [
        (ID, {"info_masks": True, "info_state": True}),
        (PUSH, {"info_masks": True, "num_objects": 4}),
        (OBJECTS, {"observation": "state"}),
        (PROPERTIES, {"observation": "state", "info_state": True, "num_objects": 4}),
    ],
    ids=["SpriteGoal", "SpritePush", "SpriteObjectComparison", "SpritePropertyComparison"],
)
def test_vector_and_single_environments_play_the_same_episodes(mode, name, options):
    native, sync = pair(mode, name, **options)
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
    assert name == PUSH or 0 < successes < ended


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
            lambda: gym.make_vec(ID, 1, device="cuda:99"),
            "device is 'cuda:99', but PyTorch .* finds",
        ),
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


def test_a_mistake_in_a_call_is_answered_in_one_line():
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
@pytest.mark.parametrize("name", [ID, PUSH, OBJECTS, PROPERTIES])
def test_cpu_and_cuda_play_the_same_episodes(name):
    cpu, cuda = (
        gym.make_vec(name, num_envs=64, device=device, info_masks=True, info_state=True)
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(cpu.reset(seed=0), cuda.reset(seed=0), strict=True):
        assert_same(ours, theirs)
    for actions in np.random.default_rng(0).integers(4, size=(150, 64)):
        for ours, theirs in zip(cpu.step(actions), cuda.step(actions), strict=True):
            assert_same(ours, theirs)

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from genesis_rl.wrappers.sb3_adapter import SB3VecEnv, split_infos


class Walk(gym.Env):
    """A seeded walk that ends at the edge of [0, 9]."""

    observation_space = gym.spaces.Box(0, 9, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    flavour = "plain"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int((options or {}).get("place", self.np_random.integers(2, 8)))
        self.start = self.place
        return self._see(), {"start": self.start}

    def step(self, action):
        self.place += 2 * int(action) - 1
        ended = self.place in (0, 9)
        info = {"is_success": self.place == 9} if ended else {}
        return self._see(), float(self.place == 9), ended, False, info

    def render(self):
        return np.full((4, 4, 3), self.place, np.uint8)

    def _see(self):
        return np.array([self.place, self.start], np.float32)


def make():
    return gym.wrappers.TimeLimit(Walk(), 7)


def native(count, mode):
    return SB3VecEnv(SyncVectorEnv([make] * count, copy=False, autoreset_mode=mode))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_sees_what_a_dummy_vec_env_sees(mode):
    ours, theirs = VecMonitor(native(5, mode)), VecMonitor(DummyVecEnv([make] * 5))
    for venv in (ours, theirs):
        venv.seed(3)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    rng, ends, limits = np.random.default_rng(0), 0, 0
    for _ in range(60):
        actions = rng.integers(0, 2, 5)
        mine, reference = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], reference[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for a, b in zip(mine[3], reference[3], strict=True):
            assert a.keys() == b.keys()
            if "terminal_observation" in a:
                last = a.pop("terminal_observation"), b.pop("terminal_observation")
                np.testing.assert_array_equal(*last)
                assert a["episode"].pop("t") >= 0
                assert b["episode"].pop("t") >= 0
                ends, limits = ends + 1, limits + a["TimeLimit.truncated"]
            assert a == b
        assert ours.reset_infos == theirs.reset_infos
    assert limits > 5  # both ways to end were met
    assert ends - limits > 5


def test_kept_observations_do_not_change_afterwards():
    venv = native(2, AutoresetMode.NEXT_STEP)
    first = venv.reset()
    kept = first.copy()
    second, _, _, _ = venv.step(np.array([0, 1]))
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)


def test_environments_that_make_new_arrays_need_no_copy():
    made = np.zeros((2, 2), np.float32)
    env = SyncVectorEnv([make] * 2)
    env.reset = lambda **_: (made, {})
    assert SB3VecEnv(env, copy=False).reset() is made
    assert not np.shares_memory(SB3VecEnv(env).reset(), made)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("copy", [False, True])
def test_tensors_stay_tensors(mode, copy):
    def sprites(tensors):
        venv = SB3VecEnv(
            gym.make_vec(
                "envs:GenesisRL/SpriteGoal-v0",
                num_envs=16,
                vectorization_mode="vector_entry_point",
                autoreset_mode=mode,
                tensors=tensors,
            ),
            copy=copy,
        )
        venv.seed(0)
        return venv

    ours, theirs, ends = sprites(True), sprites(False), 0
    kept = [(ours.reset(), theirs.reset())]
    for actions in np.random.default_rng(0).integers(0, 4, (20, 16)):
        mine, reference = ours.step(actions), theirs.step(actions)
        kept.append((mine[0], reference[0]))
        np.testing.assert_array_equal(mine[2], reference[2])
        for a, b in zip(mine[3], reference[3], strict=True):
            last = [info.pop("terminal_observation", None) for info in (a, b)]
            assert a == b
            if last[1] is not None:
                ends += 1
                kept.append(tuple(last))
    for tensor, array in kept:
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert ends > 5


def test_learns_with_ppo():
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", native(4, AutoresetMode.SAME_STEP), n_steps=16, batch_size=32, seed=0)
    model.learn(128)
    assert model.num_timesteps == 128


def test_attributes_methods_and_pictures_reach_the_environments():
    venv = native(3, AutoresetMode.SAME_STEP)
    assert venv.get_attr("flavour") == ["plain"] * 3
    venv.set_attr("flavour", "sweet", indices=[1])
    assert venv.get_attr("flavour") == ["plain", "sweet", "plain"]
    venv.set_options({"place": 5})
    assert venv.reset()[:, 0].tolist() == [5, 5, 5]
    assert [frame[0, 0, 0] for frame in venv.env_method("render", indices=0)] == [5]
    assert [image[0, 0, 0] for image in venv.get_images()] == [5, 5, 5]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [True] * 3
    assert venv.env_is_wrapped(gym.wrappers.FrameStackObservation, indices=[0]) == [False]
    assert venv.render_mode == "rgb_array"
    venv.close()


def test_an_environment_that_resets_all_when_one_has_ended_is_refused():
    # Gymnasium's native CartPole takes no mask: all would start anew, silently, again and again.
    venv = SB3VecEnv(gym.make_vec("CartPole-v1", num_envs=3))
    venv.seed(0)
    venv.reset()

    def play():
        for i in range(100):  # two fall over at once, the third is balanced for a while
            venv.step(np.array([0, 1, i % 2]))

    with pytest.raises(ValueError, match=r"takes no options\['reset_mask'\].*'sync'"):
        play()


def test_an_unknown_autoreset_mode_is_refused():
    envs = SyncVectorEnv([make])
    envs.metadata = {"autoreset_mode": "Sometimes"}
    with pytest.raises(ValueError, match=r"SB3VecEnv knows the autoreset modes .*'Sometimes'"):
        SB3VecEnv(envs)


def test_nested_infos_are_split_by_their_masks():
    infos = {
        "episode": {"r": np.array([1.5, 0.0]), "_r": np.array([True, False])},
        "_episode": np.array([True, False]),
        "name": np.array(["a", "b"], dtype=object),
    }
    assert split_infos(infos, 2) == [{"episode": {"r": 1.5}, "name": "a"}, {"name": "b"}]


def test_what_cannot_be_adapted_is_named():
    with pytest.raises(TypeError, match="got TimeLimit; for single environments use"):
        SB3VecEnv(make())
    venv = native(2, AutoresetMode.SAME_STEP)
    venv.set_options([{"place": 5}, {"place": 6}])
    with pytest.raises(ValueError, match="one set of options"):
        venv.reset()

"""Saved agents know whose slots they read, and are refused other ones.

Check 26 of the wrapper contract.
"""

import functools
import json
import warnings
import zipfile

import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from genesis_rl import GenesisObsWrapper, GenesisVecEnvWrapper, GenesisVectorObsWrapper
from genesis_rl.agents import load_agent
from genesis_rl.checkpoint import checkpoint_sha256
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv
from toys import Counter, counters, mean_colour, tiny_checkpoint

make = functools.partial(Counter, size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("agents"), width=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("agents"), seed=1, width=4)


def slots(checkpoint, **options):
    return GenesisVecEnvWrapper(counters(2, size=32), checkpoint, device="cpu", **options)


def saved(venv, folder, policy="MlpPolicy"):
    PPO(policy, venv, n_steps=16, batch_size=16, device="cpu").save(folder / "agent")
    return folder / "agent"


def test_a_saved_agent_is_small_and_holds_the_hash_of_its_encoder(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path, num_slots=5, width=4)
    venv = slots(checkpoint)
    assert venv.observation_space.shape == (400,)
    agent = PPO("MlpPolicy", venv, n_steps=8, batch_size=16, device="cpu").learn(16)
    agent.save(tmp_path / "agent")  # with what Adam remembers
    path = tmp_path / "agent.zip"
    assert path.stat().st_size < 1_000_000
    with zipfile.ZipFile(path) as archive:
        space = json.loads(archive.read("data"))["observation_space"]
    assert space["slots_of"]["sha256"] == checkpoint_sha256(checkpoint)
    assert space["slots_of"]["num_slots"] == 5


@pytest.mark.parametrize(
    ("layout", "policy"), [("flat", "MlpPolicy"), ("dict", "MultiInputPolicy")]
)
def test_other_weights_are_refused_until_they_are_asked_for(
    checkpoint, other, layout, policy, tmp_path
):
    path = saved(slots(checkpoint, layout=layout), tmp_path, policy)
    venv = slots(checkpoint, layout=layout)
    load_agent(PPO, path, venv, device="cpu").learn(16)
    with pytest.raises(
        ValueError, match=rf"agent reads the slots of .*pass checkpoint='{checkpoint}"
    ):
        load_agent(PPO, path, slots(other, layout=layout))
    agent = load_agent(PPO, path, slots(other, layout=layout), other_checkpoint=True, device="cpu")
    agent.learn(16)


def test_another_number_of_slots_or_another_layout_is_named(checkpoint, tmp_path):
    path = saved(slots(checkpoint), tmp_path)
    five = tiny_checkpoint(tmp_path, num_slots=5, width=4)
    with pytest.raises(ValueError, match=r"\(K = 3, .* shows .*\(K = 5, .* do not fit"):
        load_agent(PPO, path, slots(five), other_checkpoint=True)
    with pytest.raises(ValueError, match=r"trained with layout='flat', but .* pass layout='flat'"):
        load_agent(PPO, path, slots(checkpoint, layout="slots"))
    with pytest.raises(ValueError, match="trained with latents='both'"):
        load_agent(PPO, path, slots(checkpoint, latents="mask"))


AROUND = {
    "monitor": VecMonitor,
    "moments": VecNormalize,
    "single": lambda venv: DummyVecEnv([lambda: GenesisObsWrapper(make(), CHECKPOINT[0])]),
    "gymnasium": lambda venv: SB3VecEnv(
        GenesisVectorObsWrapper(SyncVectorEnv([make] * 2), CHECKPOINT[0])
    ),
}
CHECKPOINT = []  # set by the test that uses it: factories are called later


@pytest.mark.parametrize("name", AROUND)
def test_the_note_is_found_through_other_wrappers(checkpoint, other, name, tmp_path):
    CHECKPOINT[:] = [checkpoint]
    venv = AROUND[name](slots(checkpoint))
    path = saved(venv, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_agent(PPO, path, venv, device="cpu")
    with pytest.raises(ValueError, match="other weights"):
        load_agent(PPO, path, slots(other))


def test_the_note_comes_back_from_another_process(checkpoint, other, tmp_path):
    def wrapped():
        return GenesisObsWrapper(Counter(size=32), checkpoint, device="cpu")

    venv = SubprocVecEnv([wrapped], start_method="fork")
    path = saved(venv, tmp_path)
    venv.close()
    with pytest.raises(ValueError, match="other weights"):
        load_agent(PPO, path, slots(other))


def test_where_the_note_was_dropped_a_warning_says_so(checkpoint, tmp_path):
    venv = VecFrameStack(slots(checkpoint), 2)
    path = saved(venv, tmp_path)
    with pytest.warns(UserWarning, match="does not say whose slots it reads"):
        load_agent(PPO, path, venv, device="cpu")


def test_what_is_no_agent_or_shows_no_slots_is_named(checkpoint, tmp_path):
    venv = slots(checkpoint)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_agent(PPO, tmp_path / "nowhere", venv)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.zip is no agent that SB3's model.save"):
        load_agent(PPO, tmp_path / "text.zip", venv)
    path = saved(venv, tmp_path)
    with pytest.raises(ValueError, match="needs an environment in GenesisVecEnvWrapper"):
        load_agent(PPO, path, counters(1))


def test_an_encoder_without_a_hash_is_known_by_its_name(tmp_path):
    mean_colour("one"), mean_colour("two")
    path = saved(GenesisVecEnvWrapper(counters(1), "one"), tmp_path)
    load_agent(PPO, path, GenesisVecEnvWrapper(counters(1), "one"), device="cpu")
    with pytest.raises(ValueError, match=r"'one' .* those of checkpoint 'two'"):
        load_agent(PPO, path, GenesisVecEnvWrapper(counters(1), "two"), device="cpu")


def test_spaces_with_different_notes_are_equal(checkpoint, other):  # check 17
    ours, theirs = slots(checkpoint).observation_space, slots(other).observation_space
    assert ours == theirs
    assert isinstance(ours, gym.spaces.Box)

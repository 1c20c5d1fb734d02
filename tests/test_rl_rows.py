import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401
from benchmarks import rl_playing, rl_report, rl_training
from benchmarks.rl_playing import EVALUATION_SEED
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv
from rl_rows import CPU, ENV, TINY, tiny_genesis, tiny_vae


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_genesis(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_vae(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_the_native_environment_is_to_sb3_what_single_ones_are(mode):
    native = gym.make_vec(
        ENV, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode=mode
    )
    ours, theirs = SB3VecEnv(native), DummyVecEnv([lambda: gym.make(ENV)] * 3)
    for venv in (ours, theirs):
        venv.seed(7)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(40):
        actions = rng.integers(0, 4, 3)
        mine, reference = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], reference[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(mine[3], reference[3], strict=True):
            ends += "terminal_observation" in a
            last = a.pop("terminal_observation", None), b.pop("terminal_observation", None)
            np.testing.assert_array_equal(*last)
            assert a == b
    assert ends > 3


class Countdown:
    """Environment i ends after i + 1 steps and pays i; the odd ones call that a success."""

    def __init__(self, count):
        self.num_envs, self.seeds = count, []

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.time = np.zeros(self.num_envs, int)
        return self.time

    def step(self, actions):
        self.time += 1
        each = np.arange(self.num_envs)
        dones = self.time == each + 1
        self.time[dones] = 0
        infos = [{"is_success": bool(i % 2)} if dones[i] else {} for i in each]
        return self.time, each * dones, dones, infos


def test_only_the_first_episode_of_each_environment_counts():
    venv = Countdown(4)
    scores = rl_playing.evaluate(lambda seen: np.zeros(len(seen)), venv)
    assert scores == {"success": 0.5, "return": (0 + 1 + 2 + 3) / 4, "length": (1 + 2 + 3 + 4) / 4}
    assert venv.seeds == [EVALUATION_SEED]


def test_all_representations_play_the_same_evaluation_episodes(checkpoint):
    starts = []
    for name in ("state", "cnn", "genesis"):
        config = replace(TINY, representation=name, env_options={"info_state": True})
        venv = rl_playing.make_venv(config, 4, checkpoint if name == "genesis" else None, CPU)
        venv.seed(EVALUATION_SEED)
        venv.reset()
        starts.append(np.stack([info["state"] for info in venv.unwrapped.reset_infos]))
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])


def test_the_random_policy_is_the_same_every_time():
    config = replace(TINY, representation="genesis", checkpoint="unused", episodes=30)
    first = rl_playing.evaluate_random(config)
    assert first == rl_playing.evaluate_random(config)
    assert 0 < first["success"] < 1


def test_a_row_is_a_function_of_its_settings(tmp_path):
    rows = []
    for attempt, evaluate_every in enumerate([32, 32, 10**6]):
        config = replace(TINY, evaluate_every=evaluate_every)
        rows.append(rl_training.train_row(config, tmp_path / str(attempt), device=CPU))
    assert rows[0]["curve"] == rows[1]["curve"]
    assert rows[0]["curve"]["steps"] == [0, 32, 64]
    # Evaluating does not disturb training, so the last policy is the same without it.
    assert rows[2]["curve"]["steps"] == [0, 64]
    assert rows[2]["final"]["success"] == rows[0]["final"]["success"]
    assert rows[2]["training_curve"] == rows[0]["training_curve"]
    lines = (tmp_path / "0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [0, 32, 64]


def test_seeds_of_training_and_evaluation_never_meet():
    last_training_seed = 1_000_000 * 999 + TINY.num_envs
    assert last_training_seed < EVALUATION_SEED


@pytest.mark.parametrize(
    ("name", "head", "shape"),
    [
        ("state", "mlp", (32,)),
        ("cnn", "mlp", (3, 64, 64)),
        ("vae", "mlp", (240,)),
        ("genesis", "mlp", (240,)),
        ("random-genesis", "mlp", (240,)),
        ("state", "transformer", (32,)),
        ("genesis", "transformer", (3, 80)),
    ],
)
def test_every_representation_trains_and_its_agent_loads(
    name, head, shape, checkpoint, vae, tmp_path
):
    from stable_baselines3 import PPO

    encoder = vae if name == "vae" else checkpoint if "genesis" in name else None
    config = replace(TINY, representation=name, head=head, steps=32, checkpoint=encoder)
    row = rl_training.train_row(config, tmp_path / "row", device=CPU)
    agent = PPO.load(tmp_path / "row" / "model.zip", device="cpu")
    assert agent.observation_space.shape == shape
    assert (row["checkpoint_sha256"] is not None) == (encoder is not None)
    reads = getattr(agent.policy.features_extractor, "head", None)
    assert (type(reads).__name__ == "SlotTransformer") == (head == "transformer")


def test_agents_are_tried_in_variants_of_their_environment_that_they_can_see(tmp_path):
    variants = {"colours=ood": {"colours": "ood"}, "num_objects=4": {"num_objects": 4}}
    config = replace(TINY, variants=variants, steps=32, episodes=20)
    row = rl_training.train_row(config, tmp_path / "row", device=CPU)
    assert 0 < row["transfer"]["colours=ood"] < 1
    assert row["transfer"]["num_objects=4"] is None  # the state gets longer
    chance = rl_playing.evaluate_random(config)
    assert chance["transfer"].keys() == variants.keys()
    assert all(0 < value < 1 for value in chance["transfer"].values())


def test_the_untrained_genesis_differs_from_the_trained_one_and_by_seed(checkpoint, tmp_path):
    from genesis_rl.checkpoint import checkpoint_sha256

    config = replace(TINY, representation="random-genesis", checkpoint=checkpoint)
    folders = [
        rl_playing.checkpoint_of(replace(config, seed=seed), tmp_path / str(i))
        for i, seed in enumerate([0, 0, 1])
    ]
    hashes = [checkpoint_sha256(folder) for folder in folders]
    assert hashes[0] == hashes[1]
    assert len({checkpoint_sha256(checkpoint), hashes[0], hashes[2]}) == 3


def test_rows_are_summarised_over_their_seeds():
    def row(name, seed, success):
        final = {"success": success, "return": success}
        return {
            "representation": name,
            "latents": "both",
            "normalise": False,
            "steps": 10,
            "seed": seed,
            "final": final,
            "frames_per_s": 100.0,
            "training_s": 1.0,
        }

    lines = rl_report.summarise(
        [row("genesis", 1, 1.0), row("state", 0, 0.9), row("genesis", 0, 0.5)]
    )
    assert [line["representation"] for line in lines] == ["state", "genesis"]
    assert lines[1]["seeds"] == [0, 1]
    assert lines[1]["success"] == 0.75
    assert lines[1]["success_std"] == 0.25
    assert lines[1]["iqm_95"] == [0.5, 1.0]


def test_what_an_agent_sees_is_in_its_label():
    plain = {"representation": "genesis", "latents": "both", "normalise": False}
    assert rl_report.label(plain) == "genesis"
    assert rl_report.label({**plain, "latents": "mask"}) == "genesis, mask latents"
    assert rl_report.label({**plain, "normalise": True}) == "genesis, normalised"
    assert rl_report.label({**plain, "head": "transformer"}) == "genesis, transformer"


def test_evaluation_sees_the_moments_of_training_and_leaves_them_alone(tmp_path):
    config = replace(TINY, normalise=True)
    rows = [
        rl_training.train_row(replace(config, evaluate_every=every), tmp_path / str(i), device=CPU)
        for i, every in enumerate([32, 10**6])
    ]
    assert rows[0]["final"]["return"] == rows[1]["final"]["return"]
    assert rows[0]["training_curve"] == rows[1]["training_curve"]
    assert (tmp_path / "0" / "normalisation.pkl").exists()


@pytest.mark.parametrize(
    ("task", "objects"), [("SpriteGoal", 4), ("RoomReach", 3), ("StackTower", 6)]
)
def test_heads_read_the_true_state_object_by_object(tmp_path, task, objects):
    if task == "StackTower":
        pytest.importorskip("mujoco")
    config = replace(TINY, env_id=f"GenesisRL/{task}-v0", representation="state", head="deepsets")
    rl_training.train_row(config, tmp_path / "row", device=CPU)
    agent = PPO.load(tmp_path / "row" / "model.zip")
    assert agent.policy.features_extractor.num_slots == objects

"""SB3's algorithms learn from slots, and leave the encoder as it was.

Numbers of checks are those of the wrapper contract.
"""

import hashlib

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from genesis_rl import GenesisEncoder, GenesisVecEnvWrapper
from toys import counters, scribbles, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("sb3"), width=4)


class Episodes(BaseCallback):
    """Counts how episodes end, and looks at every terminal observation."""

    def __init__(self, space):
        super().__init__()
        self.space = space
        self.truncated = self.terminated = 0

    def _on_step(self):
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            assert done == ("terminal_observation" in info)
            if done:
                assert info["terminal_observation"] in self.space
                self.truncated += info["TimeLimit.truncated"]
                self.terminated += not info["TimeLimit.truncated"]
        return True


ALGORITHMS = {
    "PPO": lambda venv: PPO("MlpPolicy", venv, n_steps=32, batch_size=64, n_epochs=2, device="cpu"),
    "A2C": lambda venv: A2C("MlpPolicy", venv, device="cpu"),
    "DQN": lambda venv: DQN("MlpPolicy", venv, 1e-3, 2000, learning_starts=50, device="cpu"),
    "SAC": lambda venv: SAC("MlpPolicy", venv, 1e-3, 2000, learning_starts=50, device="cpu"),
    "PPO, dict": lambda venv: PPO(
        "MultiInputPolicy", venv, n_steps=32, batch_size=64, n_epochs=2, device="cpu"
    ),
    "SAC, dict": lambda venv: SAC(
        "MultiInputPolicy", venv, 1e-3, 2000, learning_starts=50, device="cpu"
    ),
    "PPO, float16": lambda venv: PPO("MlpPolicy", venv, n_steps=32, batch_size=64, device="cpu"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_train_across_truncations_and_terminations(checkpoint, name):
    options = {"layout": "dict"} if "dict" in name else {}
    options |= {"dtype": "float16"} if "float16" in name else {}
    venv = counters(8, truncate="alternately", continuous="SAC" in name, size=32)
    venv = GenesisVecEnvWrapper(venv, checkpoint, device="cpu", **options)
    episodes = Episodes(venv.observation_space)
    model = ALGORITHMS[name](venv).learn(8 * 96, callback=episodes)
    assert episodes.truncated >= 100
    assert episodes.terminated >= 100
    action, _ = model.predict(venv.reset())
    assert len(action) == 8


def test_predictions_survive_saving_and_loading_with_another_checkpoint(checkpoint, tmp_path):
    # check 17: spaces depend on sizes alone, so a policy may be loaded onto other weights.
    venv = GenesisVecEnvWrapper(counters(2, size=32), checkpoint, device="cpu")
    model = PPO("MlpPolicy", venv, n_steps=16, batch_size=32, device="cpu").learn(32)
    model.save(tmp_path / "policy")
    latents = venv.reset()
    expected = model.predict(latents, deterministic=True)[0]
    other = tiny_checkpoint(tmp_path, seed=1, width=4)
    other_venv = GenesisVecEnvWrapper(counters(2, size=32), other, device="cpu")
    assert other_venv.observation_space == venv.observation_space
    loaded = PPO.load(tmp_path / "policy", env=other_venv, device="cpu")
    np.testing.assert_array_equal(loaded.predict(latents, deterministic=True)[0], expected)
    loaded.learn(32)


# --- check 12: exactness -------------------------------------------------------------------------


def test_ppo_starts_every_update_where_the_rollout_was(checkpoint):
    venv = GenesisVecEnvWrapper(scribbles(4), checkpoint, device="cpu")
    # With one epoch of one minibatch, what is logged is the first minibatch of the first epoch.
    model = PPO("MlpPolicy", venv, n_steps=8, batch_size=32, n_epochs=1, device="cpu", seed=0)
    model.learn(0)
    updates = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            values = self.logger.name_to_value
            if "train/approx_kl" in values:
                updates.append((values["train/approx_kl"], values["train/clip_fraction"]))

    model.learn(32 * 51, callback=Watch(), log_interval=1000)
    assert len(updates) >= 50
    divergences, clipped = np.array(updates).T
    assert not divergences.any()
    assert not clipped.any()


# --- check 5: frozen -----------------------------------------------------------------------------


def test_ten_thousand_steps_of_ppo_change_nothing_in_the_encoder(checkpoint):
    encoder = GenesisEncoder.from_checkpoint(checkpoint, device="cpu")
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)

    def digest():
        state = sorted(encoder.state_dict().items())
        return hashlib.sha256(b"".join(v.numpy().tobytes() for _, v in state)).hexdigest()

    before, latents = digest(), encoder.encode(image)
    venv = GenesisVecEnvWrapper(counters(32, length=50, size=32), checkpoint, device="cpu")
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=512, n_epochs=2, device="cpu")
    model.policy.encoder = encoder  # even as a part of the policy it is out of reach
    model.learn(10_240)
    model.policy.set_training_mode(True)
    model.policy.train()
    encoder.train()
    assert model.num_timesteps >= 10_000
    assert digest() == before
    assert torch.equal(encoder.encode(image), latents)

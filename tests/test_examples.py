"""The examples that people copy: what they compute, that they run, and how they fail."""

import importlib
import importlib.util
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
import yaml
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from safetensors import safe_open
from stable_baselines3.common import evaluation
from stable_baselines3.common.env_util import make_vec_env

from genesis_rl import GenesisObsWrapper
from genesis_rl.wrappers.frames import FrameFormat
from pretrain.flags import parse_arguments
from toys import tiny_checkpoint

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
MODES = ["NextStep", "SameStep"]


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ppo = load("ppo")


class Lights(gym.vector.VectorEnv):
    """Shows which of two lights is on, and the time; doing what the light says is worth 1.

    An episode has three steps, after which it is terminated or truncated.
    """

    def __init__(self, num_envs, *, autoreset_mode, device, tensors, observation, truncate=False):
        assert tensors
        assert (device, observation) == ("cpu", "state")
        self.num_envs, self.truncate = num_envs, truncate
        self.same_step = autoreset_mode == "SameStep"
        self.metadata = {"autoreset_mode": AutoresetMode(autoreset_mode)}
        self.single_observation_space = gym.spaces.Box(0, 3, (3,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.time, self.over = np.zeros(num_envs, int), np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        self.generator = np.random.default_rng(seed)
        self.time[:], self.over[:] = 0, False
        return self._look(), {}

    def step(self, actions):
        rewards = (actions.numpy() == self.light) * 1.0
        self.time += 1
        if not self.same_step:
            self.time[self.over] = rewards[self.over] = 0
        self.over = self.time == 3
        observation, infos = self._look(), {}
        if self.same_step and self.over.any():
            infos = {"final_obs": np.full(self.num_envs, None, dtype=object)}
            for row in np.flatnonzero(self.over):
                infos["final_obs"][row] = observation[row]
            self.time[self.over] = 0
            observation = self._look()
        ended = self.over & self.truncate, self.over & (not self.truncate)
        return observation, rewards, ended[1], ended[0], infos

    def _look(self):
        self.light = self.generator.integers(0, 2, self.num_envs)
        return torch.from_numpy(
            np.stack([self.light, 1 - self.light, self.time], axis=1).astype(np.float32)
        )


gym.register("Lights-v0", vector_entry_point=Lights)


def one_column(*numbers):
    return torch.tensor(numbers)[:, None]


@pytest.mark.parametrize(
    ("terminated", "ended", "expected"),
    [
        # Surprises are 1 + following / 2 - value = 1, 1, 1, and a later one counts a quarter.
        ((False, False, False), (False, False, False), (1.3125, 1.25, 1.0)),
        # Cut off after the second step: what comes next is of another episode.
        ((False, False, False), (False, True, False), (1.25, 1.0, 1.0)),
        # Terminated there: nothing follows, and the surprise is 1 - 2 = -1.
        ((False, True, False), (False, True, False), (0.75, -1.0, 1.0)),
    ],
)
def test_advantages_are_those_worked_out_by_hand(terminated, ended, expected):
    gains = ppo.advantages(
        values=one_column(1.0, 2.0, 3.0),
        following=one_column(2.0, 4.0, 6.0),
        rewards=one_column(1.0, 1.0, 1.0),
        terminated=one_column(*terminated),
        ended=one_column(*ended),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert gains[:, 0].tolist() == list(expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncate", [True, False])
def test_the_last_frame_of_an_episode_counts_only_if_it_was_cut_off(mode, truncate):
    """With the time as value and no rewards, a step is worth 1, but one that terminates -2."""
    agent = SimpleNamespace(
        act=lambda slots: (torch.full((2,), 9), torch.zeros(2)),  # never what the light says
        value=lambda slots: slots[:, 0, 2],
        watch=lambda slots: None,
        normalise=lambda slots: slots,
    )
    config = ppo.Config(rollout=8, num_envs=2, discount=1.0, gae_lambda=0.0, autoreset=mode)
    envs = gym.make_vec(
        "Lights-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        autoreset_mode=mode,
        device="cpu",
        tensors=True,
        observation="state",
        truncate=truncate,
    )
    rollout = ppo.Player(envs, lambda seen: seen[:, None]).collect(agent, config)
    episode = [1.0, 1.0, 1.0 if truncate else -2.0]
    learnt = rollout.advantages.flatten()[rollout.rows].view(-1, 2)
    expected = (episode * 3)[: 8 if mode == "SameStep" else 6]  # the fourth action does nothing
    assert learnt.T.tolist() == [expected, expected]


@pytest.mark.parametrize("mode", MODES)
def test_it_learns_to_do_what_the_light_says(mode, tmp_path):
    flags = "--env-id Lights-v0 --representation state --num-envs 16 --rollout 16 --steps 3072"
    flags += f" --epochs 4 --minibatch 64 --learning-rate 1e-3 --log-every 3 --autoreset {mode}"
    lines = ppo.main([*flags.split(), "--device", "cpu", "--out", str(tmp_path)])
    assert lines[-1]["frames"] == 3072
    assert lines[0]["return"] < 2.2  # of 3; half of it is chance
    assert lines[-1]["return"] > 2.9
    with safe_open(tmp_path / "agent.safetensors", "pt") as file:
        assert json.loads(file.metadata()["log"]) == lines
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_slots_are_learnt_from_and_an_agent_is_restored(tmp_path):
    flags = "--num-envs 4 --rollout 8 --steps 128 --minibatch 16 --head transformer --device cpu"
    ppo.main([*flags.split(), "--out", str(tmp_path)])
    saved = tmp_path / "agent.safetensors"
    with safe_open(saved, "pt") as file:
        assert file.get_tensor("mean").shape == (80,)
        seen = 4 + 128  # frames: the first, and one a step
        assert file.get_tensor("count").round() == 5 * seen
    again = [*flags.split(), "--restore", str(saved), "--out", str(tmp_path / "again")]
    ppo.main([*again, "--steps", "32"])
    with safe_open(tmp_path / "again" / "agent.safetensors", "pt") as file:
        assert file.get_tensor("count").round() == 5 * (seen + 4 + 32)
    with pytest.raises(ValueError, match="no agent for these slots and --head"):
        ppo.main([*again, "--head", "mlp"])


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_no_frame_and_no_slot_comes_to_the_host(where, monkeypatch):
    config, device = ppo.Config(num_envs=8, rollout=4), torch.device(where)
    envs, see = ppo.make_envs(config, device), ppo.make_sight(config, device)
    agent, moved = ppo.Agent("mlp", 5, 80, 4).to(device), []
    see(envs.reset(seed=0)[0])  # loads the weights

    def watched(name):
        genuine = getattr(torch.Tensor, name)

        def method(tensor, *args, **kwargs):
            moved.append(tensor.numel())
            return genuine(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)

    for name in ("cpu", "numpy", "tolist", "item", "__array__"):
        watched(name)
    rollout = ppo.Player(envs, see).collect(agent, config)
    ppo.update(agent, torch.optim.Adam(agent.parameters()), rollout, config)
    assert max(moved) <= 3 * 8  # rewards and flags; one frame alone is 12,288 numbers


def test_frames_shrink_as_the_wrappers_shrink_them():
    frames = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    form = FrameFormat.of((64, 64, 3), np.uint8, 0, 255)
    assert torch.equal(ppo.to_images(frames, 32), form.to_images(frames.numpy(), 32))
    assert torch.equal(ppo.to_images(frames, 64), frames.permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match="no multiple of 48"):
        ppo.to_images(frames, 48)


def test_slots_are_those_of_the_vector_wrapper(tmp_path):
    from genesis_rl import GenesisVectorObsWrapper

    config = ppo.Config(num_envs=2, device="cpu")
    seen, _ = ppo.make_envs(config, torch.device("cpu")).reset(seed=3)
    wrapped = GenesisVectorObsWrapper(
        gym.make_vec("GenesisRL/SpriteGoal-v0", num_envs=2), layout="slots", device="cpu"
    )
    slots = ppo.make_sight(config, torch.device("cpu"))(seen)
    np.testing.assert_allclose(slots.numpy(), wrapped.reset(seed=3)[0], atol=1e-5)
    config = ppo.Config(num_envs=2, device="cpu", representation="random", out=str(tmp_path))
    assert not torch.allclose(ppo.make_sight(config, torch.device("cpu"))(seen), slots, atol=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--env-id CartPole-v1 --representation state", "with tensors=True"),
        ("--representation state --head deepsets", "needs --head mlp"),
        ("--head attention", "invalid choice"),
        ("--num-envs 0", "needs a number above 0"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ppo.py", *flags.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "ppo.py"), run_name="__main__")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stable_baselines3.PPO, "learn", lambda agent, steps: agent)  # minutes
    evaluate = evaluation.evaluate_policy
    monkeypatch.setattr(
        evaluation, "evaluate_policy", lambda *args, n_eval_episodes, **kw: evaluate(*args, 1, **kw)
    )
    runpy.run_path(str(EXAMPLES / "quickstart.py"))
    assert "one observation (5, 80)" in capsys.readouterr().out
    assert {path.name for path in Path("runs/quickstart").iterdir()} == {"slots.png", "agent.zip"}


def test_third_party_goes_from_frames_to_a_film(tmp_path, capsys):
    checkpoint = Path(tiny_checkpoint(tmp_path / "pretrain", width=4))
    checkpoint.rename(tmp_path / "pretrain" / "model")
    flags = (
        "--env-id envs:GenesisRL/SpriteGoal-v0 --steps 32 --num-envs 2 --episodes 2 --pictures 3"
    )
    options = ["--env-options", '{"max_episode_steps": 3}', "--out", str(tmp_path)]
    load("third_party").main([*flags.split(), "--device", "cpu", *options])
    assert "is there already" in capsys.readouterr().out
    film = cv2.VideoCapture(str(tmp_path / "slots.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert film.read()[1].std() > 10


def test_third_party_pretrains_by_a_command_that_pretraining_accepts(tmp_path, monkeypatch):
    module = load("third_party")
    commands = []

    def run(command):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(module.subprocess, "run", run)
    module.pretrain("CartPole-v1", "--config debug --std 0.3", tmp_path)
    assert commands[0][1:3] == ["-m", "pretrain.run"]
    config = parse_arguments(commands[0][3:])
    assert (config.dataset, config.std, config.num_slots) == ("env:CartPole-v1", 0.3, 4)


def test_third_party_says_what_to_install(monkeypatch):
    module = load("third_party")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ValueError, match=r"pygame.*install 'gymnasium\[classic-control\]'"):
        module.check_draws(lambda: module.make_env("CartPole-v1", {}))


def wrapped_as_rl_zoo_does_it(entry, env):
    for wrapper in entry:
        ((path, keywords),) = wrapper.items()
        module, _, name = path.rpartition(".")
        env = getattr(importlib.import_module(module), name)(env, **keywords)
    return env


def test_the_paths_and_keywords_of_the_rl_zoo_file_build_wrappers():
    settings = yaml.safe_load((EXAMPLES / "rl_zoo.yaml").read_text())
    goal, comparison = settings["GenesisRL/SpriteGoal-v0"], settings.popitem()
    assert comparison[0] == "GenesisRL/SpriteObjectComparison-v0"
    venv = make_vec_env("GenesisRL/SpriteGoal-v0", n_envs=2)
    assert wrapped_as_rl_zoo_does_it(goal["vec_env_wrapper"], venv).reset().shape == (2, 400)
    env = gym.make(comparison[0])
    env = wrapped_as_rl_zoo_does_it(comparison[1]["env_wrapper"], env)
    assert isinstance(env, GenesisObsWrapper)
    assert env.reset(seed=0)[0].shape == (400,)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="RLlib is installed")
def test_rllib_missing_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"pip install 'ray\[rllib\]'"):
        load("rllib").main([])


def test_an_rllib_runner_builds_an_environment_that_shows_slots():
    settings = {"env_id": "envs:GenesisRL/SpriteGoal-v0", "checkpoint": "multi_dsprites"}
    env = load("rllib").make_env({**settings, "device": "cpu"})
    assert env.reset(seed=0)[0] in env.observation_space

import json
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401
from benchmarks import rl, rl_playing, rl_report, rl_training
from benchmarks.rl_playing import EVALUATION_SEED, RowConfig
from genesis_rl import Genesis, GenesisConfig, save_checkpoint
from genesis_rl.heads import HEADS
from genesis_rl.models.vae import DcVae, VaeConfig
from genesis_rl.wrappers.sb3_adapter import SB3VecEnv

CPU = torch.device("cpu")
ENV = "GenesisRL/SpriteGoal-v0"
TINY = RowConfig(
    env_id=ENV,
    representation="state",
    seed=0,
    steps=64,
    num_envs=4,
    rollout=32,
    batch_size=16,
    epochs=1,
    evaluate_every=32,
    episodes=4,
    env_options={"max_episode_steps": 6},
)
FLAGS = "--seeds 0 --steps 32 --envs 4 --rollout 32 --batch-size 16 --epochs 1 --episodes 3"
FLAGS += " --env-options max_episode_steps=5 --transfer --device cpu"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(5)
    model = Genesis(GenesisConfig(num_slots=3, width=4))
    return str(save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny", model))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(6)
    model = DcVae(VaeConfig(image_size=32, latents=240, width=4))
    return str(save_checkpoint(tmp_path_factory.mktemp("weights") / "vae", model))


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


def test_finished_rows_are_skipped_and_never_mixed(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    where = ["--out", str(tmp_path / "runs"), "--results-dir", str(tmp_path)]
    argv = ["--representations", "state", *FLAGS.split(), *where]
    rl.main(argv)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["tasks"][0]["rows"][0]["seeds"] == [0]
    assert (tmp_path / "runs" / "curve.png").exists()
    stored = (tmp_path / "rl.jsonl").read_text()
    assert json.loads(stored)["random"]["success"] == first["tasks"][0]["random"]

    with pytest.raises(ValueError, match="already holds a finished row; add --resume"):
        rl.main(argv)
    with pytest.raises(ValueError, match=r"was trained with steps = 32, but 64 is asked for"):
        rl.main([*argv, "--resume", "--steps", "64"])

    rl.main([*argv, "--resume"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert (tmp_path / "rl.jsonl").read_text() == stored  # nothing was trained again

    rl.main(["--report", *where, "--picture", str(tmp_path / "again.png")])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert (tmp_path / "again.png").exists()


class Breaks:
    """An environment that breaks in its third step, once."""

    def __init__(self, monkeypatch):
        from envs.sprite_goal import SpriteGoal

        self.advance, self.steps = SpriteGoal.advance, 0
        monkeypatch.setattr(SpriteGoal, "advance", lambda world, actions: self(world, actions))

    def __call__(self, world, actions):
        training = len(actions) == 4  # and not evaluation
        self.steps += training
        if training and self.steps == 3:
            raise ZeroDivisionError("the floor is gone")
        return self.advance(world, actions)


def test_a_row_whose_environment_raises_is_named_and_the_others_are_trained(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("matplotlib")
    Breaks(monkeypatch)
    where = ["--out", str(tmp_path / "runs"), "--results-dir", str(tmp_path)]
    argv = ["--representations", "state", *FLAGS.replace("--seeds 0", "--seeds 3 4").split()]
    with pytest.raises(SystemExit, match=r"1 of 2 rows failed, see .*state-seed3/error\.txt"):
        rl.main([*argv, *where])
    printed = capsys.readouterr()
    named = f"{ENV}, 4 environments with seeds 3000000 to 3000003, raised in step 3: "
    assert named + "ZeroDivisionError: the floor is gone" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["tasks"][0]["rows"][0]["seeds"] == [4]

    rl.main([*argv, *where, "--resume"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"][0]["rows"]
    assert rows[0]["seeds"] == [3, 4]
    assert not (tmp_path / "runs" / "spritegoal-v0" / "state-seed3" / "error.txt").exists()


def test_several_tasks_are_reported_one_by_one_and_together(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    where = ["--out", str(tmp_path / "runs"), "--results-dir", str(tmp_path)]
    tasks = [ENV, "GenesisRL/SpritePush-v0"]
    rl.main(["--env-id", *tasks, "--representations", "state", *FLAGS.split(), *where])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [task["env_id"] for task in result["tasks"]] == tasks
    success = [task["rows"][0]["success"] for task in result["tasks"]]
    assert result["overall"][0]["iqm"] == pytest.approx(np.mean(success), abs=1e-4)
    for name in ("spritegoal-v0", "spritepush-v0"):
        assert (tmp_path / "runs" / f"curve-{name}.png").exists()
    rl.main(["--report", "--env-id", tasks[1], *where])
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["tasks"] == result["tasks"][1:]


def test_rows_are_planned_for_what_a_head_can_read(checkpoint, vae):
    def planned(*argv):
        args = rl._parser().parse_args(["--seeds", "0", "--env-id", ENV, *argv])
        args.env_options, args.transfer = {}, {}
        return [(row.representation, row.head, folder.name) for row, folder in rl.plan(args)]

    assert planned() == [
        (name, "mlp", f"{name}-seed0") for name in ("state", "cnn", "genesis", "random-genesis")
    ]
    assert planned("--representations", "vae", "genesis", "--vae-checkpoint", vae) == [
        ("vae", "mlp", "vae-seed0"),
        ("genesis", "mlp", "genesis-seed0"),
    ]
    both = planned("--representations", "cnn", "genesis", "--heads", "mlp", "transformer")
    assert both == [
        ("cnn", "mlp", "cnn-seed0"),
        ("genesis", "mlp", "genesis-seed0"),
        ("genesis", "transformer", "genesis-transformer-seed0"),
    ]
    assert set(rl.HEADS) == set(HEADS)


def test_quick_is_one_small_row_on_slots(monkeypatch, tmp_path, capsys, checkpoint):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(rl.QUICK, "steps", 32)
    monkeypatch.setitem(rl.QUICK, "rollout", 16)
    monkeypatch.setitem(rl.QUICK, "episodes", 2)
    for _ in range(2):  # a demo may be repeated
        rl.main(["--quick", "--checkpoint", checkpoint, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "dotted: random policy" in out
    assert (tmp_path / "curve.png").exists()


def test_mistakes_are_named_before_anything_is_trained(tmp_path, checkpoint):
    where = ["--out", str(tmp_path), "--results-dir", str(tmp_path)]
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        rl.main(["--checkpoint", "nowhere", *FLAGS.split(), *where])
    with pytest.raises(ValueError, match=r"has no row of .*; make some with"):
        rl.main(["--report", *where])
    with pytest.raises(ValueError, match="'vae' needs --vae-checkpoint; train one"):
        rl.main(["--representations", "vae", *FLAGS.split(), *where])
    given = ["--vae-checkpoint", checkpoint]
    with pytest.raises(ValueError, match=r"needs a bd_vae or dc_vae, but .* has 3 slots"):
        rl.main(["--representations", "vae", *given, *FLAGS.split(), *where])
    with pytest.raises(ValueError, match=r"cannot be tried with gravity=9 .*after --transfer"):
        rl.main(["--representations", "state", *FLAGS.split(), *where, "--transfer", "gravity=9"])
    with pytest.raises(ValueError, match="GenesisRL/Nowhere-v0: "):
        rl.main(["--env-id", "GenesisRL/Nowhere-v0", *FLAGS.split(), *where])
    with pytest.raises(ValueError, match="unknown representation 'slots'"):
        rl_playing.checkpoint_of(replace(TINY, representation="slots"), tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_env_options_are_names_and_values():
    assert rl.option("num_objects=2") == ("num_objects", 2)
    assert rl.option("colours=ood") == ("colours", "ood")
    with pytest.raises(Exception, match="needs name=value, got 'num_objects'"):
        rl.option("num_objects")


def test_progress_without_a_terminal_is_lines(capsys, monkeypatch):
    monkeypatch.setattr("tqdm.tqdm", lambda **kwargs: _SilentBar())
    with rl._progress(10, "state seed 0") as advance:
        advance(5, "")
        advance(0, "success 0.50")
    assert capsys.readouterr().out == "state seed 0: success 0.50\n"


class _SilentBar(SimpleNamespace):
    disable = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, count):
        pass

    def set_postfix_str(self, text):
        pass

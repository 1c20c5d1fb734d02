import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import envs  # noqa: F401
from benchmarks import rl, rl_jobs, rl_plan, rl_playing
from genesis_rl.heads import HEADS
from rl_rows import ENV, FLAGS, TINY, tiny_genesis, tiny_vae


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_genesis(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_vae(tmp_path_factory.mktemp("weights"))


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
    with pytest.raises(SystemExit, match=r"1 of 2 rows failed, see .*state-seed3;"):
        rl.main([*argv, *where])
    printed = capsys.readouterr()
    named = f"{ENV}, 4 environments with seeds 3000000 to 3000003, raised in step 3: "
    assert named + "ZeroDivisionError: the floor is gone" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["tasks"][0]["rows"][0]["seeds"] == [4]

    rl.main([*argv, *where, "--resume"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"][0]["rows"]
    assert rows[0]["seeds"] == [3, 4]
    assert not (tmp_path / "runs" / "spritegoal-v0" / "state-seed3" / "error.txt").exists()


def test_rows_trained_side_by_side_are_those_trained_one_by_one(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    argv = ["--env-id", ENV, "--representations", "state", "--device", "cpu"]
    argv += FLAGS.replace("--seeds 0", "--seeds 3 4").split()
    for name, jobs in (("one", "1"), ("two", "2")):
        where = ["--out", str(tmp_path / name), "--results-dir", str(tmp_path / f"{name}-lines")]
        rl.main([*argv, *where, "--jobs", jobs])
    printed = capsys.readouterr().out.splitlines()
    table = json.loads(printed[-1])["tasks"][0]["rows"][0]
    assert table["seeds"] == [3, 4]
    for seed in (3, 4):
        row = f"spritegoal-v0/state-seed{seed}"
        one, two = (
            json.loads((tmp_path / n / row / "result.json").read_text()) for n in ("one", "two")
        )
        assert two["curve"] == one["curve"]
        assert (tmp_path / "two" / f"{row}.log").stat().st_size > 0


def test_rows_that_fail_side_by_side_are_named_with_their_log(tmp_path, capsys):
    folder = tmp_path / "spritegoal-v0" / "state-seed0"
    words = ["--steps", "-1"]
    assert rl_jobs.train_in_processes([(TINY, folder)], words, jobs=2, devices=["cpu"]) == [folder]
    assert f"{folder}: failed, see {folder}.log" in capsys.readouterr().out
    assert "--steps" in (tmp_path / "spritegoal-v0" / "state-seed0.log").read_text()


def test_a_row_has_a_command_that_names_it_alone(tmp_path):
    words = rl_jobs.command(TINY, tmp_path, ["--seeds", "0", "1", "2", "--jobs", "8"], "cuda:1", 4)
    args = rl._parser().parse_args(words[3:])
    assert (args.seeds, args.jobs, args.device, args.threads) == ([TINY.seed], 1, "cuda:1", 4)
    assert args.env_id == [TINY.env_id]
    assert args.representations == [TINY.representation]
    assert args.resume


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
        return [(row.representation, row.head, folder.name) for row, folder in rl_plan.plan(args)]

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
    for no_frames in ("CartPole-v1", "MountainCar-v0"):
        with pytest.raises(ValueError, match=rf"{no_frames}: .*'pixels'.*GenesisVecEnvWrapper"):
            rl.main(["--env-id", no_frames, "--checkpoint", checkpoint, *FLAGS.split(), *where])
    with pytest.raises(ValueError, match="unknown representation 'slots'"):
        rl_playing.checkpoint_of(replace(TINY, representation="slots"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "options", "usual"),
    [
        ("SpriteGoal", {}, ["colours=ood", "num_objects=4"]),
        ("SpritePush", {"num_objects": 2}, ["colours=ood", "num_objects=3"]),
        ("SpriteGoal", {"num_objects": 6}, ["colours=ood"]),
        ("RoomReach", {}, ["colours=ood", "num_objects=3"]),
        ("RoomReach", {"num_objects": 3}, ["colours=ood"]),
        ("Nowhere", {}, []),
    ],
)
def test_agents_are_tried_in_what_their_task_can_be_tried_in(task, options, usual):
    assert list(rl_playing.usual_variants(f"GenesisRL/{task}-v0", options)) == usual


def test_environments_of_others_have_no_usual_variants():
    assert rl_playing.usual_variants("CartPole-v1", {}) == {}


def test_what_is_tried_by_default_and_what_is_named_is_in_the_plan():
    def planned(*argv):
        args = rl._parser().parse_args(["--representations", "state", "--seeds", "0", *argv])
        args.env_options, args.env_id = {}, ["GenesisRL/RoomReach-v0", ENV]
        args.transfer = args.transfer and dict(args.transfer)
        return [row.variants for row, _ in rl_plan.plan(args)]

    room, sprites = planned()
    assert room == {"colours=ood": {"colours": "ood"}, "num_objects=3": {"num_objects": 3}}
    assert sprites == {"colours=ood": {"colours": "ood"}, "num_objects=4": {"num_objects": 4}}
    assert planned("--transfer") == [None, None]


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

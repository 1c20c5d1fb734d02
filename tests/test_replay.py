import contextlib
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import envs.vector
from envs.replay import Replays, download
from taped import TapedReplays

N = 12
SPRITES = [
    f"GenesisRL/Sprite{task}-v0"
    for task in ("Goal", "Push", "ObjectComparison", "PropertyComparison")
]
ROOM = "GenesisRL/RoomReach-v0"
MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


def make(name, mode, **options):
    options = {"max_episode_steps": 12, **options}
    return gym.make_vec(name, options.pop("num_envs", N), autoreset_mode=mode, **options)


@pytest.fixture
def taped(monkeypatch):
    """Environments made from now on replay, though on the CPU."""
    monkeypatch.setattr(envs.vector, "Replays", TapedReplays)
    monkeypatch.setattr(TapedReplays, "made", [])
    return TapedReplays


def as_arrays(value):
    """The same with arrays in place of tensors."""
    if isinstance(value, dict):
        return {key: as_arrays(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [as_arrays(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [as_arrays(entry) for entry in value]
    return value


def play(env, steps, seed=3):
    """All that an environment says over so many steps, with partial resets where it needs them."""
    count = env.num_envs
    said = [env.reset(seed=seed)]
    generator = np.random.default_rng(0)
    for step in range(steps):
        said.append(env.step(generator.integers(env.single_action_space.n, size=count)))
        over = said[-1][2] | said[-1][3]
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            said.append(env.reset(options={"reset_mask": over}))
        if step == steps // 2:
            said.append(env.reset())  # all at once, after recording
    return said


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_equal(as_arrays(one), as_arrays(other))


def test_a_replay_is_what_the_function_says_of_new_arguments():
    state = torch.zeros(3)

    def add(values):
        return {"sum": state.add_(values), "copy": state * 2}

    def read():
        return {"sum": state}

    replays = TapedReplays(torch.device("cpu"))
    replays.record(add, torch.zeros(3))
    first = replays(add, torch.tensor([1.0, 2.0, 3.0]))
    second = replays(add, torch.ones(3))
    assert first["sum"].tolist() == [1, 2, 3]
    assert second["sum"].tolist() == [2, 3, 4]
    assert second["copy"].tolist() == [4, 6, 8]
    assert replays(read)["sum"].tolist() == [2, 3, 4]
    assert len(replays.tapes) == 2


def test_other_shapes_are_recorded_by_themselves():
    replays = TapedReplays(torch.device("cpu"))

    def double(values):
        return {"twice": values * 2}

    for count in (2, 3, 2, 3):
        assert replays(double, torch.ones(count))["twice"].tolist() == [2] * count
    assert len(replays.tapes) == 2


@pytest.mark.parametrize(
    "largest",
    [
        lambda values: torch.arange(6)[values.max().item()],
        lambda values: values[values > 1].max(),
        lambda values: values.max() + torch.tensor(0),  # which the host would send
    ],
)
def test_what_cannot_be_recorded_is_called_with_one_warning(largest):
    replays = TapedReplays(torch.device("cpu"))

    def call(values):
        return {"largest": largest(values)}

    with pytest.warns(RuntimeWarning, match="no CUDA graphs, so environments are slower") as caught:
        assert replays(call, torch.tensor([1, 4]))["largest"] == 4
    assert len(caught) == 1
    assert not replays.work
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replays(call, torch.tensor([1, 5]))["largest"] == 5


def test_on_the_cpu_functions_are_just_called():
    replays = Replays(torch.device("cpu"))
    values = torch.ones(2)
    assert replays(lambda value: {"same": value}, values)["same"] is values
    np.testing.assert_array_equal(download(values)(), [1, 1])


@MODES
@pytest.mark.parametrize("name", SPRITES)
def test_replayed_sprites_play_the_same_episodes(name, mode, taped):
    told = {"info_masks": True, "info_state": True, "tensors": True}
    replayed, called = make(name, mode, **told), make(name, mode, graphs=False, **told)
    assert_equal(play(replayed, 60), play(called, 60))
    ours, theirs = taped.made
    assert ours.work
    assert ours.played > 120
    assert not theirs.played


@MODES
def test_replayed_rooms_play_the_same_episodes(mode, taped):
    replayed, called = (make(ROOM, mode, observation="state", graphs=graphs) for graphs in (1, 0))
    replayed._replays.work = True  # plain torch cannot replay how it draws, but what is told
    assert_equal(play(replayed, 60), play(called, 60))
    assert replayed._replays.work
    assert replayed._replays.played > 100


@MODES
def test_replayed_arrays_are_the_same(mode, taped):
    assert_equal(*(play(make(SPRITES[0], mode, graphs=graphs), 40) for graphs in (True, False)))


@MODES
@pytest.mark.parametrize("tensors", [True, False])
def test_replayed_observations_never_change(mode, tensors, taped):
    env = make(SPRITES[0], mode, tensors=tensors, info_state=True)
    said = play(env, 30)
    before = [as_arrays(one) for one in play(make(SPRITES[0], mode, info_state=True), 30)]
    assert_equal(said, before)  # all of it looked at after the last step


def test_few_lengths_of_beginnings_are_recorded(taped):
    env = make(SPRITES[0], "SameStep", num_envs=100, max_episode_steps=100)
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    for _ in range(60):
        env.step(generator.integers(4, size=100))
    lengths = {key[1] for key in env._replays._kept if key[0] == "_renew"}
    assert lengths <= {(2, 8), (2, 16), (2, 32)}


@pytest.mark.parametrize("name", [*SPRITES, ROOM])
def test_a_row_may_begin_several_times_over(name):
    once, often = (gym.make_vec(name, 3, observation="state") for _ in range(2))
    for env in (once, often):
        env.reset(seed=1)
    once._world.begin(torch.tensor([2, 0]), torch.tensor([7, 9]))
    often._world.begin(torch.tensor([2, 0, 0, 0]), torch.tensor([7, 9, 9, 9]))
    torch.testing.assert_close(once._world.state(), often._world.state(), rtol=0, atol=0)


class OneDevice(TorchDispatchMode):
    """Refuses what takes or makes tensors of the host: on a GPU these would have to travel."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, result)):
            # Single numbers may be part of a launch; where they may not, the tape refuses them.
            if isinstance(one, torch.Tensor) and one.device.type == "cpu" and one.ndim:
                raise AssertionError(f"{function} sees a tensor of the host")
        return result


@pytest.mark.parametrize("name", [*SPRITES, ROOM])
def test_nothing_travels_between_host_and_device(name):
    state = {"observation": "state"} if name == ROOM else {"info_state": True}
    env = gym.make_vec(name, 4, "vector_entry_point", device="meta", **state)
    draws = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    actions = torch.zeros(4, dtype=torch.int64, device="meta")
    for mode in (contextlib.nullcontext(), OneDevice()):  # first, tables are made
        with mode:
            env._renew(draws)
            env._advance(actions)
            env._show()


@pytest.mark.gpu
@MODES
@pytest.mark.parametrize("name", [*SPRITES, ROOM])
@pytest.mark.parametrize("tensors", [True, False], ids=["tensors", "arrays"])
def test_graphs_play_the_same_episodes(name, mode, tensors):
    told = {"num_envs": 64, "device": "cuda", "tensors": tensors, "max_episode_steps": 40}
    told |= {"info_masks": True, "info_state": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphed, eager = (make(name, mode, graphs=graphs, **told) for graphs in (True, False))
        assert_equal(play(graphed, 300), play(eager, 300))
    assert graphed._replays.work
    assert not eager._replays.work


@pytest.mark.gpu
def test_observations_on_the_device_never_change():
    env = make(SPRITES[0], "SameStep", num_envs=64, device="cuda", tensors=True)
    kept = [env.reset(seed=0)[0]]
    copies = [kept[0].clone()]
    generator = np.random.default_rng(0)
    for _ in range(100):
        observations, *_, infos = env.step(generator.integers(4, size=64))
        ended = [one for one in infos.get("final_obs", ()) if one is not None]
        for one in (observations, *ended):
            kept.append(one)
            copies.append(one.clone())
    assert all(torch.equal(one, copy) for one, copy in zip(kept, copies, strict=True))


@pytest.mark.gpu
def test_a_world_that_reads_values_is_called_with_one_warning(monkeypatch):
    from envs.sprites import SpriteWorld

    judge = SpriteWorld.judge
    monkeypatch.setattr(
        SpriteWorld, "judge", lambda self: (self._goal.sum().item(), judge(self))[1]
    )
    env = make(SPRITES[0], "SameStep", device="cuda")
    with pytest.warns(RuntimeWarning, match="no CUDA graphs"):
        env.reset(seed=0)
    monkeypatch.undo()
    expected = make(SPRITES[0], "SameStep")
    assert_equal(play(env, 30), play(expected, 30))

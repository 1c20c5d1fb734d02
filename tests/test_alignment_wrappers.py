"""Slots keep their numbers through an episode, in all three wrappers and autoreset modes.

Numbers of checks are those of the wrapper contract.
"""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from genesis_rl import GenesisObsWrapper, GenesisVectorObsWrapper
from genesis_rl.encoder import GenesisEncoder, register_encoder
from genesis_rl.pictures import render_slots
from genesis_rl.wrappers.sb3 import GenesisVecEnvWrapper
from toys import Scribble, mean_colour, same_observation, tiny_checkpoint

MODES = list(AutoresetMode)
SLOTS, STEPS = 4, 40


class Jumble(gym.Env):
    """Four things drift about; their numbers are written into the frame's rows, in any order.

    Red and green say where a thing is, blue says which, and differs between episodes.
    """

    metadata = {"render_modes": [], "render_fps": 10}

    def __init__(self, length=5, truncate=False):
        self.observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)
        self.length, self.truncate, self.time = length, truncate, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        what = 60 * self.np_random.permutation(SLOTS) + self.np_random.integers(60)
        where = self.np_random.integers(0, 200, (SLOTS, 2))
        self.things = np.concatenate([where, what[:, None]], axis=1)
        return self._frame(), {}

    def step(self, action):
        self.time += 1
        self.things[:, :2] += self.np_random.integers(0, 3, (SLOTS, 2))
        over = self.time >= self.length
        return self._frame(), 0.0, over and not self.truncate, over and self.truncate, {}

    def _frame(self):
        frame = np.zeros((8, 8, 3), np.uint8)
        frame[:SLOTS] = self.np_random.permutation(self.things)[:, None]
        return frame


class Rows:
    """The encoder that reads `Jumble`: one row, one slot."""

    image_size, num_slots, slot_dim, latent_sizes = 8, SLOTS, 3, (2, 1)

    def encode(self, images, noise=None):
        latents = images[:, :, :SLOTS, 0].float().transpose(1, 2) / 255
        return latents if noise is None else latents + 0.1 * noise


register_encoder("rows", lambda device, precision: Rows())


def environments(count):
    """Jumbles whose episodes end at different times, in both ways."""
    return [functools.partial(Jumble, 3 + 2 * i, truncate=i % 2 == 1) for i in range(count)]


def vector(mode, count=3, **options):
    envs = SyncVectorEnv(environments(count), autoreset_mode=mode)
    return GenesisVectorObsWrapper(envs, "rows", **options)


def singles(mode, count=3, **options):
    """The same by Gymnasium's vector environment around single wrappers."""
    made = [lambda make=make: GenesisObsWrapper(make(), "rows", **options)
            for make in environments(count)]  # fmt: skip
    return SyncVectorEnv(made, autoreset_mode=mode)


def play(envs, mode):
    """Yields what is seen, what was seen last of old episodes, and which episodes begin."""
    count, over = envs.num_envs, np.zeros(envs.num_envs, bool)
    yield envs.reset(seed=3)[0], [None] * count, np.ones(count, bool)
    for _ in range(STEPS):
        if mode == AutoresetMode.DISABLED and over.any():
            yield envs.reset(options={"reset_mask": over.copy()})[0], [None] * count, over
        before = over
        observation, _, terminated, truncated, infos = envs.step(np.zeros(count, int))
        over = terminated | truncated
        begins = {"NextStep": before, "SameStep": over}.get(mode.value, np.zeros(count, bool))
        yield observation, infos.get("final_obs", [None] * count), begins
    envs.close()


def sorted_rows(slots):
    return np.array(sorted(map(tuple, slots)))


# --- check 20 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_numbers_last_through_an_episode_and_no_longer(mode):
    aligned, plain = (
        play(vector(mode, layout="slots", align=align), mode) for align in ("hungarian", None)
    )
    kept = [None] * 3  # what was in each slot at the beginning of the episode
    moved = finals = 0
    for (ours, last, begins), (theirs, _, _) in zip(aligned, plain, strict=True):
        for i in range(3):
            if last[i] is not None:
                np.testing.assert_array_equal(last[i][:, 2], kept[i])
                finals += 1
            if begins[i]:
                kept[i] = theirs[i][:, 2]
            np.testing.assert_array_equal(ours[i][:, 2], kept[i])
            np.testing.assert_array_equal(sorted_rows(ours[i]), sorted_rows(theirs[i]))
            moved += not np.array_equal(ours[i], theirs[i])
    assert moved > STEPS
    assert (finals > 0) == (mode == AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "dict", "dtype": "float16"},
        {"layout": "slots", "latents": "component"},
        {"latents": "mask"},
        {"stochastic": True},
    ],
    ids=str,
)
def test_a_vector_equals_single_wrappers(mode, options):
    options = {"align": "hungarian", **options}
    expected = play(singles(mode, **options), mode)
    for ours, theirs in zip(play(vector(mode, **options), mode), expected, strict=True):
        assert same_observation(ours[0], theirs[0])
        for a, b in zip(ours[1], theirs[1], strict=True):
            assert (a is None) == (b is None)
            assert a is None or same_observation(a, b)


def test_stable_baselines_sees_the_same():
    same_step = play(vector(AutoresetMode.SAME_STEP, align="hungarian"), AutoresetMode.SAME_STEP)
    venv = GenesisVecEnvWrapper(DummyVecEnv(environments(3)), "rows", align="hungarian")
    venv.seed(3)
    np.testing.assert_array_equal(venv.reset(), next(same_step)[0])
    ended = 0
    for observation, last, _ in same_step:
        ours, _, dones, infos = venv.step(np.zeros(3, int))
        np.testing.assert_array_equal(ours, observation)
        for i in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[i]["terminal_observation"], last[i])
            ended += 1
    assert ended > 10


def test_a_partial_reset_leaves_the_memory_of_others_alone():
    once, twice = (vector(AutoresetMode.DISABLED, align="hungarian") for _ in range(2))
    for envs in (once, twice):
        envs.reset(seed=0)
        envs.step(np.zeros(3, int))
    twice.reset(options={"reset_mask": np.array([True, False, False])})
    ours, theirs = (envs.step(np.zeros(3, int))[0] for envs in (twice, once))
    np.testing.assert_array_equal(ours[1:], theirs[1:])


@pytest.mark.parametrize("options", [None, {"reset_mask": np.array([True])}], ids=str)
def test_a_reset_by_hand_is_not_followed_by_another_beginning(options):
    envs = vector(AutoresetMode.NEXT_STEP, count=1, layout="slots", align="hungarian")
    envs.reset(seed=0)
    for _ in range(3):
        _, _, over, _, _ = envs.step([0])
    assert over.all()
    first, _ = envs.reset(options=options)  # instead of the step that would have done it
    for _ in range(3):
        np.testing.assert_array_equal(envs.step([0])[0][..., 2], first[..., 2])


def test_every_reset_of_a_single_environment_begins_anew():
    plain, aligned = (GenesisObsWrapper(Jumble(), "rows", align=a) for a in (None, "hungarian"))
    for seed in range(5):
        np.testing.assert_array_equal(plain.reset(seed=seed)[0], aligned.reset(seed=seed)[0])


# --- off by default; only rows are permuted ------------------------------------------------------


def test_off_is_the_default_and_what_the_encoder_says(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path, width=4)
    env = GenesisObsWrapper(Scribble(), checkpoint, device="cpu", layout="slots")
    assert env._observer.aligner is None
    encoder = GenesisEncoder.from_checkpoint(checkpoint, "cpu")
    latents, _ = env.reset(seed=0)
    for action in range(3):
        frame = torch.from_numpy(env._frame).permute(2, 0, 1)[None]
        np.testing.assert_array_equal(latents, encoder.encode(frame)[0].numpy())
        latents, *_ = env.step(action)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_genuine_model_has_its_rows_permuted_and_nothing_else(tmp_path, stochastic):
    checkpoint = tiny_checkpoint(tmp_path, width=4)
    plain, aligned = (
        GenesisObsWrapper(
            Scribble(length=30), checkpoint, device="cpu", layout="slots", align=align,
            stochastic=stochastic,
        )
        for align in (None, "hungarian")
    )  # fmt: skip
    pairs = [(plain.reset(seed=1)[0], aligned.reset(seed=1)[0])]
    pairs += [(plain.step(1)[0], aligned.step(1)[0]) for _ in range(20)]
    for a, b in pairs:
        np.testing.assert_array_equal(sorted_rows(a), sorted_rows(b))
    states = [env.unwrapped.np_random.bit_generator.state for env in (plain, aligned)]
    assert states[0] == states[1]


def test_pictures_show_slots_in_the_order_of_the_observation(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path, width=4)
    env = GenesisObsWrapper(Scribble(), checkpoint, device="cpu", align="hungarian")
    env.reset(seed=0)
    order = torch.tensor([[2, 0, 1]])
    env._observer.aligner.order = order  # as if the frame had been matched like this
    ours, plain = env.render_slots(), render_slots(env._frame, checkpoint)
    assert ours.shape == plain.shape
    step = 2 * 32 + 2  # a view and the gap before it
    components = [slice((6 + k) * step, (7 + k) * step) for k in range(3)]
    for k in range(3):
        np.testing.assert_array_equal(ours[:, components[k]], plain[:, components[order[0, k]]])


# --- options -------------------------------------------------------------------------------------


def test_the_option_survives_json():
    gym.register("Jumble-v0", entry_point="test_alignment_wrappers:Jumble")
    env = GenesisObsWrapper(gym.make("Jumble-v0"), "rows", align="hungarian")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.get_wrapper_attr("_observer").options.align == "hungarian"
    for seed in (0, 1):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], again.reset(seed=seed)[0])
        np.testing.assert_array_equal(env.step(0)[0], again.step(0)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": "greedy"}, "align must be None or 'hungarian', but got 'greedy'"),
        ({"align": "hungarian", "parity": "official"}, "use one of the two"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GenesisObsWrapper(Jumble(), "rows", **options)


def test_a_model_with_too_many_slots_is_refused_by_name():
    encoder = mean_colour()
    encoder.num_slots = 13
    with pytest.raises(ValueError, match=r"GenesisObsWrapper: slots are aligned .* has 13"):
        GenesisObsWrapper(Jumble(), "mean_colour", align="hungarian")

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

import envs  # noqa: F401  registers the ids
from genesis_rl import Genesis, GenesisConfig, GenesisObsWrapper, save_checkpoint
from genesis_rl.extractors import FineTuningExtractor, SlotExtractor

CONFIG = GenesisConfig(num_slots=3, image_size=32, width=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return str(save_checkpoint(tmp_path_factory.mktemp("weights") / "tiny", Genesis(CONFIG)))


def sprites():
    return gym.make("GenesisRL/SpriteGoal-v0", max_episode_steps=5)


def small_ppo(policy, env, extractor, **options):
    return PPO(
        policy,
        env,
        n_steps=8,
        batch_size=4,
        n_epochs=2,
        device="cpu",
        seed=0,
        policy_kwargs={
            "features_extractor_class": extractor,
            "features_extractor_kwargs": options,
        },
    )


def test_all_layouts_show_a_head_the_same_slots(checkpoint):
    slots = torch.randn(2, 3, 80)
    observations = {
        "slots": slots,
        "flat": slots.flatten(1),
        "dict": {"component": slots[..., 64:], "mask": slots[..., :64]},
    }
    features = []
    for layout, observation in observations.items():
        env = GenesisObsWrapper(sprites(), checkpoint, layout=layout, device="cpu")
        torch.manual_seed(0)
        extractor = SlotExtractor(env.observation_space, head="deepsets", num_slots=3)
        features.append(extractor(observation))
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


@pytest.mark.parametrize("head", ["mlp", "deepsets", "relation", "transformer"])
@pytest.mark.parametrize(
    ("layout", "policy"), [("slots", "MlpPolicy"), ("dict", "MultiInputPolicy")]
)
def test_ppo_trains_every_head(checkpoint, head, layout, policy):
    env = GenesisObsWrapper(sprites(), checkpoint, layout=layout, device="cpu")
    agent = small_ppo(policy, env, SlotExtractor, head=head)
    before = [p.clone() for p in agent.policy.features_extractor.parameters()]
    agent.learn(16)
    after = agent.policy.features_extractor.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fine_tuning_moves_the_weights_but_no_running_statistics(checkpoint):
    env = gym.wrappers.ResizeObservation(sprites(), (32, 32))
    agent = small_ppo("CnnPolicy", env, FineTuningExtractor, checkpoint=checkpoint)
    model = agent.policy.features_extractor.model
    weights = {name: p.clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    agent.learn(16)
    assert not model.training
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, weights[n])}
    assert any(name.startswith("masks.") for name in moved)
    assert any(name.startswith("components.") for name in moved)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_fine_tuning_starts_from_what_the_wrapper_shows(checkpoint):
    env = gym.wrappers.ResizeObservation(sprites(), (32, 32))
    frame, _ = env.reset(seed=0)
    wrapped = GenesisObsWrapper(env, checkpoint, layout="slots", device="cpu")
    slots, _ = wrapped.reset(seed=0)
    space = spaces.Box(0, 255, (3, 32, 32), np.uint8)
    extractor = FineTuningExtractor(space, checkpoint, head="deepsets")
    frames = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    expected = extractor.head(torch.from_numpy(slots)[None])
    assert torch.allclose(extractor(frames), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (spaces.Box(-1, 1, (400,)), {}, "num_slots=K"),
        (spaces.Box(-1, 1, (336,)), {"num_slots": 5}, "336 numbers are not 5 equal slots"),
        (spaces.Box(-1, 1, (3, 64, 64)), {}, "needs slots"),
        (spaces.Dict(mask=spaces.Box(-1, 1, (5, 64)), other=spaces.Box(-1, 1, (3,))), {}, "Dict"),
    ],
)
def test_spaces_without_slots_are_refused(space, options, message):
    with pytest.raises(ValueError, match=message):
        SlotExtractor(space, **options)


def test_frames_of_another_size_are_refused(checkpoint):
    with pytest.raises(
        ValueError, match=r"needs frames of shape \(3, 32, 32\), but got \(3, 64, 64\)"
    ):
        FineTuningExtractor(spaces.Box(0, 255, (3, 64, 64), np.uint8), checkpoint)

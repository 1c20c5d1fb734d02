"""The checkpoints that come with the library: they work offline, and their cards are theirs."""

import json
import socket

import gymnasium as gym
import pytest
import torch
import yaml

from benchmarks.common import RESULTS, read_lines
from genesis_rl import GenesisEncoder, GenesisObsWrapper, load_checkpoint
from genesis_rl.checkpoint import SHIPPED, checkpoint_sha256

IDS = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("shipped weights need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_there_are_weights_for_sprites_rooms_and_towers():
    assert IDS == ["gqn", "multi_dsprites", "shapestacks"]


@pytest.mark.parametrize(
    ("name", "environment", "slots"),
    [
        ("multi_dsprites", "SpriteGoal", 5),
        ("gqn", "RoomReach", 7),
        ("shapestacks", "StackTower", 9),
    ],
)
def test_an_environment_is_seen_through_shipped_weights(name, environment, slots):
    encoder = GenesisEncoder.from_checkpoint(name, device="cpu")
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert encoder.encode(images).shape == (2, slots, 80)
    env = GenesisObsWrapper(gym.make(f"envs:GenesisRL/{environment}-v0"), name, device="cpu")
    observation, _ = env.reset(seed=0)
    assert observation.shape == (slots * 80,)
    assert env.observation_space.contains(observation)
    env.close()


@pytest.mark.parametrize("name", IDS)
def test_weights_are_small_and_sound(name):
    assert load_checkpoint(name).image_size == 64
    assert sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < 16e6


@pytest.mark.parametrize("name", IDS)
def test_cards_and_stored_results_are_of_these_very_weights(name):
    head = yaml.safe_load((SHIPPED / name / "README.md").read_text().split("---")[1])
    [result] = head["model-index"][0]["results"]
    on_card = {metric["type"]: metric["value"] for metric in result["metrics"]}
    lines = [
        line
        for line in read_lines(RESULTS / "segmentation.jsonl")
        if line["checkpoint_sha256"] == checkpoint_sha256(name)
    ]
    stored = {"ARI-FG": "ari_fg", "SC": "sc", "mSC": "msc"}
    assert on_card == {label: lines[-1][key]["mean"] for label, key in stored.items()}
    dataset = json.loads((SHIPPED / name / "config.json").read_text())["metadata"]["dataset"]
    assert result["dataset"]["name"] == lines[-1]["dataset"] == dataset

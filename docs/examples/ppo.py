"""PPO on slots in one file, resident on one device.

Environment, encoder, policy, rollout, advantages and updates live on `--device`; no frame and no
slot crosses to the host. What does are rewards and flags, three numbers an environment and step as
Gymnasium has them, and a line of log now and then.

    python docs/examples/ppo.py                                    # shipped slots, 1 to 2 minutes
    python docs/examples/ppo.py --representation state --steps 200000
    python docs/examples/ppo.py --device cuda --num-envs 1024 --minibatch 4096 --steps 2000000

It leaves `agent.safetensors` and `curve.png` in `--out`; `--restore runs/ppo/agent.safetensors`
begins with that agent. Axes: T steps, N environments, K slots, D numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.common import positive_int, prepare_device, run_cli
from benchmarks.plots import new_figure, save_figure
from genesis_rl import GenesisEncoder, load_checkpoint, save_checkpoint
from genesis_rl.durable import replace_file
from genesis_rl.heads import HEADS, make_head

CHOICES = {
    "representation": ("slots", "random", "state"),  # random: an untrained GENESIS
    "head": tuple(HEADS),  # all but mlp ignore the order of slots
    "autoreset": ("NextStep", "SameStep"),
}
PRINTED = ("frames", "success", "return", "entropy", "kl", "frames_per_s")


@dataclass(frozen=True)
class Config:
    """All settings; each is a flag."""

    env_id: str = "envs:GenesisRL/SpriteGoal-v0"
    representation: str = "slots"
    checkpoint: str = "multi_dsprites"
    head: str = "mlp"
    autoreset: str = "NextStep"
    num_envs: int = 64
    steps: int = 20_480  # frames over all environments
    rollout: int = 32  # T, steps of each environment between two updates
    epochs: int = 10
    minibatch: int = 256
    learning_rate: float = 3e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    log_every: int = 10  # rollouts
    seed: int = 0
    device: str = "auto"
    out: str = "runs/ppo"
    restore: str = ""


class Rollout(NamedTuple):
    """What the agent saw `[T, N, K, D]`, did, expected and gained `[T, N]`, over T steps.

    `rows` `[R]` are the steps to learn from, out of T * N: under next-step autoreset the action
    after the end of an episode is ignored.
    """

    slots: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    rows: Tensor


class Agent(nn.Module):
    """A policy and a value, each a head on slots, and the running moments of what they see."""

    def __init__(self, head: str, num_slots: int, slot_dim: int, num_actions: int):
        super().__init__()
        actor, critic = (make_head(head, num_slots, slot_dim) for _ in range(2))
        last = nn.Linear(actor.features_dim, num_actions)
        nn.init.orthogonal_(last.weight, 0.01)  # at first, any action is about as likely
        self.policy = nn.Sequential(actor, last)
        self.value = nn.Sequential(critic, nn.Linear(critic.features_dim, 1), nn.Flatten(0))
        # The same for all slots, so that heads which ignore their order can go on doing so.
        self.mean = nn.Buffer(torch.zeros(slot_dim))
        self.variance = nn.Buffer(torch.ones(slot_dim))
        self.count = nn.Buffer(torch.tensor(1e-4))

    def watch(self, slots: Tensor) -> None:
        """Takes slots `[B, K, D]` into the running moments."""
        seen = slots.flatten(0, 1)
        total, delta = self.count + len(seen), seen.mean(0) - self.mean
        squares = self.variance * self.count + seen.var(0, unbiased=False) * len(seen)
        self.variance.copy_((squares + delta**2 * self.count * len(seen) / total) / total)
        self.mean.add_(delta * len(seen) / total)
        self.count.copy_(total)

    def normalise(self, slots: Tensor) -> Tensor:
        """Shifts and scales slots by the running moments."""
        return ((slots - self.mean) / (self.variance + 1e-8).sqrt()).clamp(-10, 10)

    def act(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Draws an action `[B]` for each normalised `[B, K, D]`, with its log-probability."""
        log_probs = self.policy(slots).log_softmax(-1)
        # The Gumbel trick: unlike torch.multinomial, it does not make the host wait.
        gumbel = -torch.empty_like(log_probs).exponential_().log()
        actions = (log_probs + gumbel).argmax(-1)
        return actions, log_probs.gather(-1, actions[:, None])[:, 0]


class Player:
    """Plays on where the last rollout stopped; `finished` are returns and successes of episodes."""

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any], see: Callable[[Any], Tensor]):
        self.envs, self.see = envs, see
        self.same_step = envs.metadata["autoreset_mode"].value == "SameStep"
        self.slots: Tensor | None = None  # of the present frames, normalised
        self.begins = np.zeros(envs.num_envs, bool)  # whose next step only begins an episode
        self.returns = np.zeros(envs.num_envs)
        self.finished: list[tuple[float, float]] = []

    @torch.no_grad()
    def collect(self, agent: Agent, config: Config) -> Rollout:
        """Plays T steps."""
        if self.slots is None:
            self.slots = self._look(agent, self.envs.reset(seed=config.seed)[0])
        shape = (config.rollout, self.envs.num_envs)
        rewards = np.zeros(shape, np.float32)
        terminated, ended, valid = (np.zeros(shape, bool) for _ in range(3))
        steps: list[tuple[Tensor, ...]] = []
        cut_off: list[tuple[int, Any, Tensor]] = []  # values of the last frames of such episodes
        for t in range(config.rollout):
            actions, log_probs = agent.act(self.slots)
            steps.append((self.slots, actions, log_probs, agent.value(self.slots)))
            valid[t] = ~self.begins
            frames, rewards[t], terminated[t], truncated, infos = self.envs.step(actions)
            ended[t] = terminated[t] | truncated
            self.slots = self._look(agent, frames)
            if self.same_step and truncated.any():
                cut = np.flatnonzero(truncated)
                last = self.see(torch.stack([infos["final_obs"][i] for i in cut]))
                cut_off.append((t, cut, agent.value(agent.normalise(last))))
            self.begins = ended[t] & (not self.same_step)
            self._score(rewards[t], ended[t], infos)
        slots, actions, log_probs, values = map(torch.stack, zip(*steps, strict=True))
        # Under next-step autoreset, the last frame of an episode is just the next one.
        following = torch.cat([values[1:], agent.value(self.slots)[None]])
        for t, cut, value in cut_off:
            following[t, cut] = value
        arrays = rewards, terminated, ended, np.flatnonzero(valid)
        gained, final, over, rows = (torch.from_numpy(x).to(slots.device) for x in arrays)
        decay = config.discount, config.gae_lambda
        gains = advantages(values, following, gained, final, over, *decay)
        return Rollout(slots, actions, log_probs, values, gains, rows)

    def _look(self, agent: Agent, frames: Any) -> Tensor:
        slots = self.see(frames)
        agent.watch(slots)
        return agent.normalise(slots)

    def _score(self, rewards: np.ndarray, ended: np.ndarray, infos: dict[str, Any]) -> None:
        self.returns += rewards
        success = infos.get("final_info", infos).get("is_success", self.returns > 0)
        over = np.flatnonzero(ended)
        self.finished += [(float(self.returns[i]), float(success[i])) for i in over]
        self.returns[over] = 0


def advantages(
    values: Tensor,
    following: Tensor,
    rewards: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., 2016); everything is `[T, N]`.

    `values` are those of the states before the steps, `following` of those after them, where an
    episode that is cut off goes on in thought; `ended` is `terminated` or cut off.
    """
    surprises = rewards + discount * following * ~terminated - values
    gains, later = torch.empty_like(values), torch.zeros_like(values[0])
    for t in reversed(range(len(values))):
        later = gains[t] = surprises[t] + discount * gae_lambda * later * ~ended[t]
    return gains


def update(agent: Agent, optimiser: torch.optim.Adam, rollout: Rollout, config: Config) -> Tensor:
    """Learns from a rollout; returns value loss, entropy and KL of the last minibatch, `[3]`."""
    slots, actions, old_log_probs, values, gains = (x.flatten(0, 1) for x in rollout[:5])
    targets, rows = values + gains, rollout.rows
    notes = torch.zeros(3)
    for _ in range(config.epochs):
        shuffled = rows[torch.randperm(len(rows), device=rows.device)]
        for batch in shuffled.chunk(max(1, len(rows) // config.minibatch)):
            log_probs = agent.policy(slots[batch]).log_softmax(-1)  # [B, actions]
            chosen = log_probs.gather(-1, actions[batch, None])[:, 0]
            log_ratio = chosen - old_log_probs[batch]
            ratio = log_ratio.exp()
            gain = gains[batch]
            gain = (gain - gain.mean()) / (gain.std(unbiased=False) + 1e-8)
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()
            value_loss = F.mse_loss(agent.value(slots[batch]), targets[batch])
            entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
            optimiser.zero_grad()
            (policy_loss + 0.5 * value_loss - config.entropy * entropy).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimiser.step()
            notes = torch.stack([value_loss, entropy, (ratio - 1 - log_ratio).mean()]).detach()
    return notes


def make_envs(config: Config, device: torch.device) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Native vector environments whose observations stay on the device."""
    try:
        return gym.make_vec(
            config.env_id,
            num_envs=config.num_envs,
            vectorization_mode="vector_entry_point",
            observation="state" if config.representation == "state" else "pixels",
            autoreset_mode=config.autoreset,
            device=str(device),
            tensors=True,
        )
    except (gym.error.Error, ModuleNotFoundError, TypeError) as error:
        raise ValueError(
            f"--env-id {config.env_id} needs to be natively vectorised, with tensors=True: {error}"
        ) from error


def make_sight(config: Config, device: torch.device) -> Callable[[Any], Tensor]:
    """From the environments' observations to slots `[N, K, D]`; the true state is one slot."""
    if config.representation == "state":
        return lambda state: state[:, None]
    checkpoint = config.checkpoint
    if config.representation == "random":
        model = load_checkpoint(checkpoint)
        untrained = type(model)(model.config)
        checkpoint = str(save_checkpoint(Path(config.out) / "untrained", untrained))
    encoder = GenesisEncoder.from_checkpoint(checkpoint, str(device))
    return lambda frames: encoder.encode(to_images(frames, encoder.image_size)).clamp(-10, 10)


def to_images(frames: Tensor, size: int) -> Tensor:
    """Frames `[N, H, H, 3]` uint8 as images `[N, 3, S, S]`, reduced as the wrappers do it."""
    images = frames.permute(0, 3, 1, 2)
    if images.shape[-1] == size:
        return images
    if images.shape[-1] % size:
        raise ValueError(f"frames of {images.shape[-1]} pixels are no multiple of {size}")
    return F.avg_pool2d(images.float(), images.shape[-1] // size).add(0.5).to(torch.uint8)


def train(config: Config) -> list[dict[str, float]]:
    """Trains an agent, saves it and draws its curve; returns the lines of the log."""
    device = prepare_device(config.device)
    torch.manual_seed(config.seed)
    envs, see, out = make_envs(config, device), make_sight(config, device), Path(config.out)
    slots = see(envs.reset(seed=config.seed)[0])
    if not isinstance(actions := envs.single_action_space, gym.spaces.Discrete):
        raise ValueError(f"{config.env_id} needs discrete actions, but has {actions}")
    agent = Agent(config.head, slots.shape[1], slots.shape[2], int(actions.n)).to(device)
    if config.restore:
        restore(agent, config.restore)
    optimiser = torch.optim.Adam(agent.parameters(), config.learning_rate, eps=1e-5)
    player, lines, began = Player(envs, see), [], time.perf_counter()
    rollouts = math.ceil(config.steps / (config.rollout * config.num_envs))
    for done in tqdm(range(1, rollouts + 1), unit="rollout", disable=None):
        notes = update(agent, optimiser, player.collect(agent, config), config)
        if done % config.log_every and done < rollouts:
            continue
        frames = done * config.rollout * config.num_envs
        gained, success = np.mean(player.finished or [(np.nan, np.nan)], axis=0).tolist()
        player.finished.clear()
        line = dict(zip(("value_loss", "entropy", "kl"), notes.tolist(), strict=True))
        if not np.isfinite(list(line.values())).all():
            raise FloatingPointError(f"not finite after {frames} frames: {line}")
        speed = frames / (time.perf_counter() - began)
        line |= {"frames": frames, "success": success, "return": gained, "frames_per_s": speed}
        lines.append(line)
        tqdm.write("  ".join(f"{name} {line[name]:.4g}" for name in PRINTED))
        write(out, agent, config, lines)
    envs.close()
    return lines


def restore(agent: Agent, path: str) -> None:
    """Takes the weights and moments of an agent that was trained on the same kind of slots."""
    try:
        agent.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"--restore {path} is no agent for these slots and --head") from error


def write(out: Path, agent: Agent, config: Config, lines: list[dict[str, float]]) -> None:
    """Writes the agent, with settings and log beside its weights, and draws the curve."""
    out.mkdir(parents=True, exist_ok=True)
    notes = {"config": json.dumps(asdict(config)), "log": json.dumps(lines)}
    replace_file(out / "agent.safetensors", safetensors.torch.save(agent.state_dict(), notes))
    figure = new_figure(6, 3.5)
    axes = figure.subplots()
    axes.plot([line["frames"] for line in lines], [line["success"] for line in lines], marker=".")
    axes.set(xlabel="frames", ylabel="success in training", ylim=(0, 1), title=config.env_id)
    save_figure(figure, out / "curve.png")


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Reads the flags, one for each field of `Config`, and trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for field in fields(Config):
        kind = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=positive_int if kind is int and field.name != "seed" else kind,
            choices=CHOICES.get(field.name),
            default=field.default,
            help=f"default: {field.default}",
        )
    config = Config(**vars(parser.parse_args(argv)))
    if config.representation == "state" and config.head != "mlp":
        parser.error(f"--head {config.head} reads slots; the true state needs --head mlp")
    return train(config)


if __name__ == "__main__":
    run_cli(main)

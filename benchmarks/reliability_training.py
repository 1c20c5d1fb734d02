"""A row of the scoreboard: numbers that are none, injected into a training."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reliability_runs import Outcome, Tick
from genesis_rl.losses.geco import Geco
from genesis_rl.models.genesis import Genesis, GenesisConfig
from pretrain.engine import Engine
from pretrain.evaluation import to_float
from pretrain.state import pack, unpack

TINY = GenesisConfig(num_slots=3, image_size=32, mask_latents=8, component_latents=4, width=8)
BATCH, IMAGES = 4, 10
PLACES = ("factor", "loss_factor", "gradient_factor")


class Spoilable(Engine):
    """An engine whose images, losses or gradients can be spoilt from outside, in a graph too."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.factor = torch.ones((), device=self.device)
        self.loss_factor = torch.ones((), device=self.device)
        self.gradient_factor = torch.ones((), device=self.device)
        first = next(self.model.parameters())
        first.register_hook(lambda gradient: gradient * self.gradient_factor)

    def batch(self) -> Tensor:
        return super().batch() * self.factor

    def _eager_losses(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, error, kl = super()._eager_losses(noise)
        return loss * self.loss_factor, error * self.loss_factor, kl


def make(device: str = "cpu", *, objective: Any = None, seed: int = 0, **options: Any) -> Spoilable:
    """A tiny training that begins; the same of every seed."""
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8).to(device)
    model = Genesis(TINY).to(device)
    objective = (objective or Geco.for_image_size(32)).to(device)
    options = {"batch_size": BATCH, "learning_rate": 1e-3, "seed": seed} | options
    engine = Spoilable(model, objective, images, **options)
    engine.prepare()
    torch.manual_seed(seed)
    return engine


def learnt(engine: Engine) -> dict[str, Tensor]:
    """Everything a skipped step must not touch, by name."""
    state = engine.state_dict()
    named = {f"{part}.{k}": v for part in ("model", "objective") for k, v in state[part].items()}
    for i, moments in enumerate(state["optimizer"]):
        named |= {f"adam.{i}.{name}": value for name, value in moments.items()}
    return named


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of what is not equal to the last bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def injections(count: int, folder: Path, tick: Tick) -> Outcome:
    """Spoils images, loss or gradient at every other step, in a random order."""
    engine, rng = make(), random.Random(0)
    bad = set(rng.sample(range(2 * count), count))
    recovered = spoilt_states = 0
    places = Counter(PLACES[step % 3] for step in bad)
    for step in range(2 * count):
        place, value = PLACES[step % 3], rng.choice([float("nan"), float("inf"), -float("inf")])
        getattr(engine, place).fill_(value if step in bad else 1.0)
        before = learnt(engine)
        engine.step()
        getattr(engine, place).fill_(1.0)
        after = learnt(engine)
        if step in bad:
            saved = unpack(pack({"learnt": after}))["learnt"]
            finite = all(bool(torch.isfinite(value).all()) for value in saved.values())
            spoilt_states += not finite
            recovered += finite and differing(before, after) == []
            tick()
    skipped = engine.read().skipped
    undisturbed = make()
    for _ in range(count):
        undisturbed.step()
    errors = [_error(trained) for trained in (engine, undisturbed)]
    apart = abs(errors[0] / errors[1] - 1)
    void = "" if skipped else "no injected number reached a loss or a gradient"
    facts = {
        "steps_skipped": skipped,
        "states_with_non_finite_numbers": spoilt_states,
        "final_error_apart": round(apart, 6),
        "into_images": places["factor"],
        "into_losses": places["loss_factor"],
        "into_gradients": places["gradient_factor"],
    }
    held = recovered if apart < 0.01 and skipped == count else 0
    return Outcome(count, held, f"final error {apart:.2%} apart", void, facts)


@torch.no_grad()
def _error(engine: Engine) -> float:
    """The mean error on all training images, with the same noise for everybody."""
    model, images = engine.model.eval(), to_float(engine.images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(images), model.num_slots, model.slot_dim, generator=generator)
    return float(model(images, noise).error.mean())

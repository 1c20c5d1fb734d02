"""A few training steps as one of several ranks: what they compute, for a test to compare.

RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=localhost MASTER_PORT=N python train_in_ranks.py OUT
"""

import sys
from pathlib import Path
from unittest import mock

import torch

from genesis_rl.losses.geco import Geco
from genesis_rl.models.genesis import Genesis, GenesisConfig
from pretrain.engine import Engine
from pretrain.ranks import Ranks, join

TINY = {"num_slots": 3, "image_size": 32, "mask_latents": 8, "component_latents": 4, "width": 4}
BATCH, IMAGES, STEPS, BAD_STEP, BAD_GRADIENT_STEP = 8, 20, 7, 3, 5


class Watched(Engine):
    """An engine that remembers its images and can be given bad ones, or a bad gradient."""

    factor = gradient_factor = 1.0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        next(self.model.parameters()).register_hook(lambda g: g * self.gradient_factor)

    def batch(self):
        self.images_seen = super().batch() * self.factor
        return self.images_seen


class InDoubles(Watched):
    """An engine that computes in double precision whatever models compute in single."""

    def _noise(self):
        return super()._noise().double()

    def _step(self):
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            super()._step()


def engine(ranks: Ranks, kind=Watched, *, norm="batch", dtype=torch.float32) -> Watched:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    model = Genesis(GenesisConfig(norm=norm, **TINY)).to(dtype)
    objective = Geco.for_image_size(32).to(dtype)
    return kind(model, objective, images, batch_size=BATCH, learning_rate=1e-3, ranks=ranks)


def one_step(ranks: Ranks, kind: type[Watched], **options) -> dict:
    """Images of a step, gradients that Adam gets, loss, and running statistics after it."""
    trained = engine(ranks, kind, **options)
    trained.step()
    named = trained.model.named_parameters()
    return {
        "images": trained.images_seen,
        "gradients": {name: p.grad for name, p in named if p.grad is not None},
        "loss": trained.read().loss,
        "buffers": dict(trained.model.named_buffers()),
    }


def several_steps(ranks: Ranks) -> list[dict]:
    """The whole state after every step; on the last rank two steps are not finite."""
    trained, states = engine(ranks), []
    for step in range(STEPS):
        last = ranks.rank == ranks.world - 1
        trained.factor = float("nan") if last and step == BAD_STEP else 1.0
        trained.gradient_factor = float("inf") if last and step == BAD_GRADIENT_STEP else 1.0
        trained.step()
        states.append(trained.state_dict() | {"steps_done": 0})
    return states


def everything(ranks: Ranks) -> dict:
    """All that a test compares between ranks and with a single process."""
    return {
        "in doubles": one_step(ranks, InDoubles, norm="instance", dtype=torch.float64),
        "in floats": one_step(ranks, Watched),
        "states": several_steps(ranks),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join()
    torch.save(everything(ranks), Path(sys.argv[1]) / f"rank_{ranks.rank}.pt")
    ranks.leave()

"""A hundred numbers that are none, injected into a training: none of them gets anywhere."""

import random

import pytest
import torch

from benchmarks.reliability_training import differing, learnt, make

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", ["factor", "gradient_factor"])
def test_fifty_injections_leave_what_was_learnt_untouched(spoilt):
    engine, rng = make("cpu"), random.Random(0)
    bad = set(rng.sample(range(100), 50))
    for step in range(100):
        getattr(engine, spoilt).fill_(rng.choice([NAN, INFINITE]) if step in bad else 1)
        before = learnt(engine)
        engine.step()
        after = learnt(engine)
        assert (differing(before, after) == []) == (step in bad)
        assert all(torch.isfinite(value).all() for value in after.values())
    assert engine.read().skipped == 50

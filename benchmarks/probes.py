"""Probes: many small classifiers on frozen features, all trained at once.

Stacking changes nothing but the time: each probe has a loss, initial weights and an order of
examples of its own, which depend on its seed alone, so it ends where it would have ended alone.
On CUDA a step is one graph that the host replays; nothing is read back before the next evaluation.

Shapes: P probes, M sets of features of the same N examples, n of them to train and m to test on,
B examples a step, D features, H hidden units, C classes of the probe that has most.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.counter_rng import bits, fold

HIDDEN = 512
BATCH_SIZE = 128
LEARNING_RATE = 1e-4

_WARM_UP = 3  # steps before one can be captured: by then Adam has its state, and cuBLAS its memory
_AT_ONCE = 512  # examples of an evaluation


class Probe(NamedTuple):
    """One classifier: which of the M sets of features it reads, what it is asked, and its seed."""

    source: int
    task: str
    seed: int


@dataclass(frozen=True)
class Examples:
    """What is known about N examples, apart from how they look.

    Attributes:
        labels: For each task `[N]` int64, counted from 0.
        classes: For each task how many there are.
        train: For each seed the rows `[n]` to train on.
        test: For each seed the rows `[m]` to test on.
    """

    labels: Mapping[str, Tensor]
    classes: Mapping[str, int]
    train: Mapping[int, Tensor]
    test: Mapping[int, Tensor]

    def __post_init__(self) -> None:
        for seed in self.train:
            for split, rows in (("training", self.train[seed]), ("test", self.test[seed])):
                if not len(rows):
                    raise ValueError(f"probes need {split} images, but there are none")
                for task, labels in self.labels.items():
                    self._check(task, labels[rows], split)

    def _check(self, task: str, labels: Tensor, split: str) -> None:
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= self.classes[task]:
            raise ValueError(
                f"{task} has labels 0 to {self.classes[task] - 1}, but one of the {split} images "
                f"has {low if low < 0 else high}"
            )
        if low == high:
            raise ValueError(
                f"{task}: all {len(labels)} {split} images are of class {low}, so there is nothing "
                "to tell apart; use more images, or leave the task out with --tasks"
            )


@dataclass(frozen=True)
class Curve:
    """How a probe learnt; nothing is chosen by it.

    Attributes:
        epochs: After which the test images were looked at; the last one is the result.
        loss: Mean cross-entropy of the training batches of that epoch, in nats.
        train: Accuracy on the same batches, each before its step.
        test: Accuracy on the test images.
    """

    epochs: list[int]
    loss: list[float]
    train: list[float]
    test: list[float]


@dataclass(frozen=True)
class ProbeResult:
    """What a probe got right after its last epoch.

    Attributes:
        probe: Which one.
        correct: `[m]` bool, in the order of the test rows.
        curve: On the way there.
    """

    probe: Probe
    correct: Tensor
    curve: Curve

    @property
    def accuracy(self) -> float:
        """Share of the test images, 0 to 1."""
        return float(self.correct.double().mean())


class MlpProbes(nn.Module):
    """P perceptrons with one hidden layer of ELU units, initialised as PyTorch's linear layers are.

    Args:
        features: D.
        classes: Of each probe.
        seeds: Of each probe's initial weights.
        hidden: H.
    """

    def __init__(
        self, features: int, classes: Sequence[int], seeds: Sequence[int], hidden: int = HIDDEN
    ):
        super().__init__()
        probes, most = len(classes), max(classes)
        self.weight1 = nn.Parameter(torch.empty(probes, features, hidden))
        self.bias1 = nn.Parameter(torch.empty(probes, 1, hidden))
        self.weight2 = nn.Parameter(torch.zeros(probes, hidden, most))
        self.bias2 = nn.Parameter(torch.zeros(probes, 1, most))
        absent = torch.arange(most) >= torch.tensor(list(classes))[:, None, None]  # [P, 1, C]
        self.register_buffer("absent", absent)
        self.absent: Tensor
        with torch.no_grad():
            for p, (count, seed) in enumerate(zip(classes, seeds, strict=True)):
                draw = torch.Generator().manual_seed(seed)
                for tensor, fan_in in (
                    (self.weight1[p], features),
                    (self.bias1[p], features),
                    (self.weight2[p, :, :count], hidden),
                    (self.bias2[p, :, :count], hidden),
                ):
                    tensor.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=draw)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[P, B, D]` to logits `[P, B, C]`; a class that a probe does not have gets -inf."""
        hidden = F.elu(torch.baddbmm(self.bias1, x, self.weight1))
        logits = torch.baddbmm(self.bias2, hidden, self.weight2)
        return logits.masked_fill(self.absent, -torch.inf)


def fit(
    network: nn.Module,
    inputs: Tensor,
    examples: Examples,
    probes: Sequence[Probe],
    *,
    epochs: int = 100,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    evaluations: int = 10,
    progress: Callable[[int], object] = lambda epochs: None,
) -> list[ProbeResult]:
    """Trains P probes side by side, by Adam on the cross-entropy, and tests the last epoch's.

    Every epoch visits the training examples in a new order and leaves out those that do not fill a
    batch. Smaller training sets than a batch are one batch.

    Args:
        network: Maps `[P, B, ...]` to logits `[P, B, C]`; moved to where the inputs are.
        inputs: `[M, N, ...]`.
        examples: Labels and splits of the N.
        probes: The P classifiers, in the order of the network.
        epochs: Passes over the training examples.
        batch_size: B.
        learning_rate: Of Adam.
        evaluations: How many points the curves have, about.
        progress: Called with 1 after each epoch.
    """
    for task, labels in examples.labels.items():
        if len(labels) != inputs.shape[1]:
            raise ValueError(f"{inputs.shape[1]} examples need {task} labels, got {len(labels)}")
    training = _Training(network, inputs, examples, probes, batch_size, learning_rate)
    every = max(1, round(epochs / evaluations))
    points, curves = [], []
    for epoch in range(1, epochs + 1):
        training.epoch(epoch)
        if epoch % every == 0 or epoch == epochs:
            correct = training.test()  # [P, m]
            points.append(epoch)
            curves.append([*training.book.tolist(), correct.double().mean(1).tolist()])
        progress(1)
    results = []
    for p, probe in enumerate(probes):
        loss, train, test = ([round(row[i][p], 5) for row in curves] for i in range(3))
        results.append(ProbeResult(probe, correct[p].cpu(), Curve(points, loss, train, test)))
    return results


class _Training:
    """The state of `fit`, all of it on the device of the inputs.

    Attributes:
        book: `[2, P]` mean loss and accuracy of the latest epoch's batches.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        examples: Examples,
        probes: Sequence[Probe],
        batch_size: int,
        learning_rate: float,
    ):
        self.device = device = inputs.device
        self.network, self.inputs = network.to(device), inputs
        self.cuda = device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=learning_rate, fused=True, capturable=self.cuda
        )
        self.source = torch.tensor([probe.source for probe in probes], device=device)[:, None]
        self.labels = _rows([examples.labels[probe.task] for probe in probes], device)  # [P, N]
        self.tested = _rows([examples.test[probe.seed] for probe in probes], device)  # [P, m]

        self.seeds = sorted({probe.seed for probe in probes})
        self.which = torch.tensor([self.seeds.index(probe.seed) for probe in probes], device=device)
        self.rows = _rows([examples.train[seed] for seed in self.seeds], device)  # [seeds, n]
        count = self.rows.shape[1]
        self.batch_size = min(batch_size, count)
        self.steps = count // self.batch_size
        self.order = torch.zeros(len(probes), count, dtype=torch.long, device=device)
        self.lanes = torch.arange(self.batch_size, device=device)
        self.position = torch.zeros((), dtype=torch.long, device=device)
        self.book = torch.zeros(2, len(probes), device=device)
        self._stream = torch.cuda.Stream(device) if self.cuda else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = 0

    def epoch(self, epoch: int) -> None:
        """Visits all training examples once; on CUDA this only queues the work."""
        count = self.rows.shape[1]
        orders = [epoch_order(count, seed, epoch, self.device) for seed in self.seeds]
        self.order.copy_(self.rows.gather(1, torch.stack(orders))[self.which])
        self.position.zero_()
        self.book.zero_()
        for _ in range(self.steps):
            self._advance()

    def test(self) -> Tensor:
        """Returns which of the test examples each probe gets right, `[P, m]`."""
        parts = []
        with torch.no_grad():
            for rows in self.tested.split(_AT_ONCE, dim=1):
                answers = self.network(self.inputs[self.source, rows]).argmax(2)
                parts.append(answers == self.labels.gather(1, rows))
        return torch.cat(parts, dim=1)

    def _advance(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is None or self._done >= _WARM_UP:
            self._step()
        else:
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):  # a capture must meet nothing for the first time
                self._step()
            current.wait_stream(self._stream)
            self._done += 1
            if self._done == _WARM_UP:
                self._capture(self._stream)

    def _step(self) -> None:
        rows = self.order.index_select(1, self.position + self.lanes)  # [P, B]
        true = self.labels.gather(1, rows)
        logits = self.network(self.inputs[self.source, rows])  # [P, B, C]
        losses = F.cross_entropy(logits.flatten(0, 1), true.flatten(), reduction="none")
        losses = losses.view_as(rows).mean(1)  # [P]
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # the probes share no weight, so each gets its own gradient
        self.optimizer.step()
        right = (logits.argmax(2) == true).float().mean(1)
        self.book += torch.stack([losses.detach(), right]) / self.steps
        self.position += self.batch_size

    def _capture(self, stream: torch.cuda.Stream) -> None:
        """Records a step, without taking it."""
        torch.cuda.synchronize(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                self._step()
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            warnings.warn(f"probes are trained without a CUDA graph: {line}", stacklevel=2)
        else:
            self._graph = graph


def epoch_order(count: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor:
    """The order of an epoch's examples: a function of seed and epoch, the same on all devices."""
    key = fold(fold(seed, epoch, device), torch.arange(count, device=device), device)
    return bits(key, 1)[:, 0].argsort(stable=True)


def _rows(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    return torch.stack(list(tensors)).to(device)

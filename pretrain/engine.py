"""The training step, in one place; models know nothing of it.

On CUDA the whole step is one graph that the host replays: batch, noise, forward, backward, Adam,
GECO and book-keeping. Nothing is read back until somebody asks for `read()`. On the CPU the same
code runs eagerly.

Shapes: N training images, B images a step, K slots, D latents a slot.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genesis_rl.losses.geco import Objective
from pretrain.evaluation import to_float
from pretrain.kernels import one_pass_update, use_kernels
from pretrain.ranks import Ranks
from pretrain.readings import SKIPPED, Readings, judge, new_book, read_book
from pretrain.update import Update

Precision = Literal["fp32", "tf32", "bf16"]


class Engine:
    """Trains a model on images that lie in the device's memory.

    The images of a step depend on nothing but seed and step: every epoch has its own permutation.
    A step with a NaN or an infinity in error, KL or any gradient leaves weights, Adam's moments,
    normalisation statistics and the objective as they were, and is counted.

    Where several ranks train, each takes its share of the very batch and noise that a single
    process would take, and goes backward from its own error and KL: beta is fixed during a step, so
    the mean of these gradients is the gradient of the mean. Then gradients, running statistics,
    error and KL are averaged in one message, before anything is judged or the objective moves, so
    all ranks decide and learn the same. Batch normalisation alone tells the difference: it
    normalises by the statistics of a rank's share.

    Args:
        model: Maps images `[B, 3, H, W]` and noise `[B, K, D]` to an output with `error` and `kl`.
        objective: `Geco`, `BetaWarmup` or another `Objective`: a loss, and a beta that moves.
        images: `[N, H, W, 3]` uint8, on the model's device.
        batch_size: B, of all ranks together.
        learning_rate: Of Adam.
        betas: Of Adam.
        schedule: Factor on the learning rate as a function of the steps made; None for 1.
        clip: Largest norm of the gradient; 0 for any.
        average: Decay of a running average of the weights, in `averaged_model`; 0 for none.
        seed: Of the order of the images. Noise comes from torch's global generator, which is in
            the same state on all ranks.
        precision: Of the convolutions on CUDA; the losses are float32.
        compile: Whether to compile the forward and backward pass and, on CUDA, to replay the whole
            step as a graph. Where that is impossible a warning says so and training is eager.
        fused: Whether normalisation, gate, Adam and more run on kernels of our own, which need
            CUDA: the same numbers up to rounding.
        ranks: The processes that train this model.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        images: Tensor,
        *,
        batch_size: int,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: Callable[[int], float] | None = None,
        clip: float = 0.0,
        average: float = 0.0,
        seed: int = 0,
        precision: Precision = "fp32",
        compile: bool = False,
        fused: bool = False,
        ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    ):
        if len(images) < batch_size:
            raise ValueError(f"a batch of {batch_size} needs as many images, but got {len(images)}")
        if batch_size % ranks.world:
            raise ValueError(f"{ranks.world} ranks cannot share a batch of {batch_size} evenly")
        self.model, self.objective = model.train(), objective.train()
        self.ranks = self._partners = ranks
        self.images = images
        self.batch_size, self.seed, self.precision = batch_size, seed, precision
        self.device = images.device
        self.steps_done, self.fused = 0, fused
        if fused:
            use_kernels(model, self.device, pairs=precision != "fp32")

        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._parameters:
            if parameter.dim() == 4:  # convolutions find their weights laid out like their images
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        # A tensor, because a captured graph would keep a number for ever.
        self.learning_rate = torch.tensor(learning_rate, device=self.device)
        self._schedule = schedule
        self._rate = self.learning_rate.clone() if schedule else self.learning_rate
        self.update = (one_pass_update() if fused else Update)(
            model, self._parameters, self._rate, betas=betas, clip=clip, average=average
        )

        buffers = _state_buffers(model)
        self._statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._buffers = [buffer.view(-1).view(torch.uint8) for buffer in buffers]  # of any dtype
        self._order = torch.zeros(len(images), dtype=torch.long, device=self.device)
        self._order_epoch = -1
        self._rows = ranks.share(torch.arange(batch_size, device=self.device))
        self._position = torch.zeros((), dtype=torch.long, device=self.device)
        self._book = new_book(self.device)

        self._graph: Any = None
        self._run_eagerly()
        self._compile_wanted = compile

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set; the remainder waits for the next permutation."""
        return len(self.images) // self.batch_size

    @property
    def averaged_model(self) -> Any:
        """The model to judge and to keep: of averaged weights, in eval mode, if there is one."""
        average = self.update.average
        return self.model if average is None else average.model

    def prepare(self) -> None:
        """Compiles and captures the step, if that was asked for; the training state stays put."""
        if not self._compile_wanted:
            return
        # Of several ranks each tries it alone first: where one fails, no other is left waiting.
        tries = [Ranks(), self.ranks] if self.ranks.world > 1 else [self.ranks]
        for compiled in (True, False) if self.device.type == "cuda" else (True,):
            if all(self._can_prepare(compiled, ranks) for ranks in tries):
                return

    def step(self) -> None:
        """Makes one update. On CUDA this only queues it."""
        epoch, position = divmod(self.steps_done, self.steps_per_epoch)
        if epoch != self._order_epoch:
            self._order.copy_(epoch_order(len(self.images), self.seed, epoch))
            self._position.fill_(position)
            self._order_epoch = epoch
        if self._schedule:
            torch.mul(self.learning_rate, self._schedule(self.steps_done), out=self._rate)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        self.steps_done += 1

    def read(self) -> Readings:
        """Waits for the device and returns what happened since the last call."""
        return read_book(self._book, beta=float(self.objective.beta))

    def read_skipped(self) -> int:
        """Steps skipped since the run began; unlike `read`, this resets nothing."""
        return int(self._book[SKIPPED])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the steps to come depend on: tensors, numbers and plain containers."""
        state = {
            "steps_done": self.steps_done,
            "model": _detached(self.model.state_dict()),
            "objective": _detached(self.objective.state_dict()),
            "learning_rate": self.learning_rate.item(),
            "book": self._book.cpu().clone(),
            "rng_cpu": torch.get_rng_state(),
        }
        state |= _detached(self.update.state_dict())
        if self.device.type == "cuda":
            state["rng_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back, or on, to a saved state; in place, so that a captured graph stays valid."""
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.update.load_state_dict(state)
        self.learning_rate.fill_(state["learning_rate"])
        self._book.copy_(state["book"])
        torch.set_rng_state(state["rng_cpu"])
        if self.device.type == "cuda" and "rng_cuda" in state:
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)
        self.steps_done, self._order_epoch = state["steps_done"], -1

    def autocast(self) -> Any:
        """The precision of the convolutions."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _step(self) -> None:
        before = torch.cat(self._buffers) if self._buffers else None
        loss, error, kl = self._losses(self._noise())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        error, kl = self._average_ranks(error, kl)
        good = self._verdict(self.update.norms(), error, kl)
        if before is not None:
            kept = torch.where(good, torch.cat(self._buffers), before)
            sizes = [buffer.numel() for buffer in self._buffers]
            torch._foreach_copy_(self._buffers, list(kept.split(sizes)))
        self.update.apply()
        self._position.add_(1)

    def _noise(self) -> Tensor:
        slots, size = self.model.num_slots, self.model.slot_dim
        return self.ranks.share(torch.randn(self.batch_size, slots, size, device=self.device))

    def batch(self) -> Tensor:
        """This rank's images of the step, `[B, 3, H, W]` in [0, 1], laid out channels-last."""
        rows = self._order.index_select(0, self._position * self.batch_size + self._rows)
        return to_float(self.images.index_select(0, rows))

    def _eager_losses(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of this rank's images, then, for reading, their mean error and KL."""
        with self.autocast():
            output = self.model(self.batch(), noise)
        error, kl = output.error.mean(), output.kl.mean()
        return self.objective.loss(error, kl), error.detach(), kl.detach()

    def _average_ranks(self, error: Tensor, kl: Tensor) -> tuple[Tensor, Tensor]:
        """Gives all ranks the same gradients and statistics, and returns mean error and KL."""
        if self._partners.world == 1:
            return error, kl
        learning = [p for p in self._parameters if p.grad is not None]
        gradients = [p.grad for p in learning if p.grad is not None]
        *means, error, kl = self._partners.means([*gradients, *self._statistics, error, kl])
        for parameter, mean in zip(learning, means, strict=False):
            parameter.grad = mean
        if self._statistics:
            torch._foreach_copy_(self._statistics, means[len(learning) :])
        return error, kl

    @torch.no_grad()
    def _eager_verdict(self, norms: Tensor, error: Tensor, kl: Tensor) -> Tensor:
        """Notes a step and, if it counts, moves the objective; returns whether it counts.

        Args:
            norms: Of parts of the gradient.
            error: Mean over all images of the step.
            kl: Likewise.
        """
        norm, loss = norms.norm(), self.objective.loss(error, kl)
        good, book = judge(norm, loss, error, kl, self._book)
        self.objective.update(error, good)
        self.update.decide(good, norm)
        self._book.copy_(book)
        return good

    def _run_eagerly(self) -> None:
        self._losses: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] = self._eager_losses
        self._verdict: Callable[[Tensor, Tensor, Tensor], Tensor] = self._eager_verdict
        self._graph, self.mode = None, "eager"

    def _can_prepare(self, compiled: bool, ranks: Ranks) -> bool:
        """Prepares a step of these partners; on all of them, or else on none."""
        self._partners = ranks
        reason = "another rank cannot"
        try:
            self._prepare(compiled)
            failed = False
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise
            failed = True
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        finally:
            self._partners = self.ranks
        if not self.ranks.largest(failed)[0]:
            return True
        self._run_eagerly()
        what = "torch.compile" if compiled else "a CUDA graph"
        warnings.warn(f"training without {what}: {reason}", stacklevel=3)
        return False

    def _prepare(self, compiled: bool) -> None:
        """Warms up, captures, and puts everything back that the warm-up has changed."""
        if compiled:
            cuda = self.device.type == "cuda"
            whole: Any = {"fullgraph": True, "dynamic": False}
            if cuda:  # small kernels that do not wait for each other become one
                whole["options"] = {"combo_kernels": True}
            self._losses = torch.compile(self._eager_losses, **whole)
            if cuda:
                # There each of its scalars would be a kernel. On the CPU it costs next to nothing,
                # and dynamo (2.13) drops writes to a buffer that is a single double.
                self._verdict = torch.compile(self._eager_verdict, **whole)
        kept = self.state_dict()
        try:
            if self.device.type == "cuda":
                self._capture()
            else:
                self._position.zero_()
                self._step()
        finally:
            self.load_state_dict(kept)
        graph = "" if self._graph is None else "one CUDA graph"
        self.mode = " in ".join(filter(None, ["compiled" if compiled else "eager", graph]))

    def _capture(self) -> None:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):  # a capture must not meet anything for the first time
            for _ in range(3):
                self._position.zero_()
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._step()
        self.update.captured()
        self._graph = graph


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the images; a function of seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)


def _state_buffers(module: nn.Module) -> list[Tensor]:
    """The buffers that training moves, which are those that a state_dict holds."""
    names = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in names]


def _detached(state: Any) -> Any:
    """A copy on the CPU of tensors in dictionaries and lists."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, Mapping):
        return {name: _detached(value) for name, value in state.items()}
    return [_detached(value) for value in state]

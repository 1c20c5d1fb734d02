"""One training run: data, model and engine put together, and everything around the step."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from genesis_rl.checkpoint import save_checkpoint
from genesis_rl.durable import replace_file
from pretrain.assembly import (
    build_model,
    build_objective,
    engine_options,
    load_split,
    pick_device,
    pick_kernels,
    pick_precision,
    set_up_torch,
    take_weights,
)
from pretrain.config import Config
from pretrain.engine import Engine, Readings
from pretrain.evaluation import validate
from pretrain.logs import Logs, NoLogs
from pretrain.provenance import commit, device_name, note_environment
from pretrain.ranks import Ranks, join
from pretrain.signals import Agreement, Signals
from pretrain.state import (
    DISK_FULL,
    Stop,
    discard_folder,
    has_run,
    open_folder,
    save_state,
    versions,
)

_PICTURES = 8  # rows of a grid
_MAX_ELBO = 1e8  # nats per image; the authors' release stops there too


def run(config: Config) -> int:
    """Trains, prints one line for anything that goes wrong, and returns the exit status."""
    warnings.showwarning = _one_line_warning
    is_new = not config.folder.exists()
    ranks = Ranks()
    try:
        ranks = join()
        with (
            Signals(patient=ranks.launched) as signals,  # before the folder: it is tidied up after
            open_folder(config.folder) if ranks.is_main else nullcontext(),
        ):
            config = ranks.settings(config)
            device = pick_device(config.device, ranks.local_rank)
            status = Trainer(config, device, signals, ranks).run()
            ranks.leave()
            return status
    except Stop as stop:
        if is_new and ranks.is_main and stop.status != 5:  # then it is another run's
            discard_folder(config.folder)
        print(f"error: {stop}" if stop.status else str(stop), file=sys.stderr)
        return stop.status
    except torch.OutOfMemoryError:
        print(
            f"error: out of memory with batch_size {config.batch_size}; try --batch-size "
            f"{max(1, config.batch_size // 2)}",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        full = " (the disk is full)" if error.errno in DISK_FULL else ""
        print(f"error: {error}{full}", file=sys.stderr)
        return 1


class Trainer:
    """Runs one configuration from its first, or its newest saved, step to its last."""

    def __init__(self, config: Config, device: torch.device, signals: Signals, ranks: Ranks):
        self.config, self.folder, self.signals, self.ranks = config, config.folder, signals, ranks
        self.device = device
        self.began = time.monotonic()
        if ranks.is_main and has_run(self.folder) and not config.resume:
            raise Stop(
                2,
                f"{self.folder} holds a run already; --resume continues it, another --out keeps it",
            )
        set_up_torch(config, self.device)
        self.precision = pick_precision(config, self.device)
        self.fused = pick_kernels(config, self.device)
        self.validation = load_split(config, "val", config.validation_images, self.device)
        training = load_split(config, "train", config.train_images or None, self.device)
        if len(training.images) < config.batch_size:
            line = f"batch_size is {config.batch_size}, but there are {len(training.images)} images"
            raise Stop(2, line)
        if config.batch_size % ranks.world:
            line = f"batch_size is {config.batch_size}, which {ranks.world} processes cannot share"
            raise Stop(2, line)
        ranks.require_same(training.images)

        self.source = training.source
        torch.manual_seed(config.seed)
        model = build_model(config)
        if config.start_from and not has_run(self.folder):  # a run goes on from its own weights
            take_weights(model, config.start_from)
        self.model = model.to(self.device)
        self.engine = Engine(
            self.model,
            build_objective(config).to(self.device),
            training.images,
            batch_size=config.batch_size,
            fused=self.fused,
            **engine_options(config),
            seed=config.seed,
            precision=self.precision,
            compile=config.compile == "on"
            or (config.compile == "auto" and self.device.type == "cuda"),
            ranks=ranks,
        )
        self.rollbacks = 0
        self.seconds_before = 0.0  # spent by the processes that this one continues
        self.ari_fg = ""
        self.saved_at = -1
        self.skipped: deque[tuple[int, int]] = deque([(0, 0)])  # (step, skipped so far)
        self._restore()
        if ranks.is_main:
            settings = replace(config, resume=False).to_yaml()
            replace_file(self.folder / "config.yaml", settings.encode())
            step = self.engine.steps_done
            note_environment(self.folder, self.device, step=step, versions=versions())

    def run(self) -> int:
        """Trains to the last step, the time limit or a signal; saves; returns 0."""
        config, engine = self.config, self.engine
        start = engine.steps_done
        self.logs = (
            Logs(self.folder, start=start, total=config.steps) if self.ranks.is_main else NoLogs()
        )
        if self.logs.replayed:
            self.logs.say(
                f"{self.logs.replayed} steps were made after that state; making them again"
            )
        engine.prepare()
        processes = f"{self.ranks.world} processes, " if self.ranks.world > 1 else ""
        self.logs.say(
            f"{config.dataset} ({self.source}): {len(engine.images):,} images, "
            f"{_parameters(self.model):,} parameters, {processes}{self.device} {self.precision}, "
            f"{engine.mode}, step {start:,}"
        )
        self.clock = (start, time.monotonic())
        deadline = self.began + 60 * config.max_minutes if config.max_minutes else None
        agreement = Agreement(self.signals, self.ranks, deadline=deadline, most=config.log_every)
        self.signals.defer()
        try:
            while engine.steps_done < config.steps and not agreement.to_stop(engine.steps_done):
                engine.step()
                try:
                    self._after_step(engine.steps_done)
                except _Diverged as diverged:
                    self._roll_back(str(diverged))
            return self._finish()
        finally:
            self.logs.close()

    def _after_step(self, step: int) -> None:
        config = self.config
        if step % config.log_every == 0:
            self._log(step)
        if config.validate_every and step % config.validate_every == 0:
            self._validate(step)
        if config.picture_every and step % config.picture_every == 0:
            self._draw(step)
        if step % config.checkpoint_every == 0:
            self._save(step)

    def _finish(self) -> int:
        step, name = self.engine.steps_done, self.signals.received
        if name is None and self.config.validate_every and step % self.config.validate_every:
            self._validate(step)
        if name is None and self.config.picture_every and step % self.config.picture_every:
            self._draw(step)
        if self.saved_at != step:
            self._save(step)
        if step >= self.config.steps:
            self.logs.say(f"done: {step:,} steps; the model is in {self.folder / 'model'}")
        else:
            why = f"stopped by {name}" if name else f"{self.config.max_minutes:g} minutes are over"
            self.logs.say(
                f"{why}: saved at step {step:,}; continue with "
                f"python pretrain/run.py --resume --out {self.folder}"
            )
        self.ranks.wait()  # for what rank 0 saves: who leaves early looks lost to it
        return 0

    def _log(self, step: int) -> None:
        readings = self.engine.read()
        self._check_health(step, readings)
        then, since = self.clock
        self.clock = (step, time.monotonic())
        elements = 3 * self.config.image_size**2
        values = {
            "error": readings.mean_error / elements,
            "kl": readings.mean_kl,
            "beta": readings.beta,
            "gradient_norm": readings.mean_gradient_norm,
            "skipped_steps": readings.skipped,
            "steps_per_second": (step - then) / max(self.clock[1] - since, 1e-9),
            # Exact values of this very step: equal in a run that was killed and resumed.
            "loss_hex": readings.loss.hex(),
            "error_hex": readings.error.hex(),
            "kl_hex": readings.kl.hex(),
            "beta_hex": readings.beta.hex(),
        }
        self.logs.scalars(step, "train", values)
        goal = f" (goal {self.config.goal:g})" if self.config.objective == "geco" else ""
        status = {
            "error": f"{values['error']:.4f}{goal}",
            "kl": f"{readings.mean_kl:.1f}",
            "beta": f"{readings.beta:.2g}",
            "ari_fg": self.ari_fg or "-",
        }
        self.logs.progress(step, status, force=step >= self.config.steps)

    def _validate(self, step: int) -> None:
        if not self.ranks.is_main:
            return
        data = self.validation
        values = validate(
            self.engine.averaged_model,
            data.images,
            data.masks,
            autocast=self.engine.autocast,
            seed=self.config.seed,
        )
        self.logs.scalars(step, "val", values)
        if "ari_fg" in values:
            self.ari_fg = f"{values['ari_fg']:.3f}"

    def _draw(self, step: int) -> None:
        if not self.ranks.is_main:
            return
        try:  # only now: training must not depend on what draws
            from pretrain.report import draw
        except ImportError as error:
            self.logs.say(f"no pictures of step {step}: {error}")
            return
        images, autocast = self.validation.images[:_PICTURES], self.engine.autocast
        seed = self.config.seed
        pictures = draw(self.engine.averaged_model, images, autocast=autocast, seed=seed)
        for name, picture in pictures.items():
            self.logs.picture(step, name, picture)

    def _save(self, step: int) -> None:
        for name, value in self.model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise Stop(4, f"{name} is not finite at step {step}; nothing was saved")
        self.saved_at = step
        if not self.ranks.is_main:
            return
        seconds = self.seconds_before + time.monotonic() - self.began
        state = {
            "engine": self.engine.state_dict(),
            "rollbacks": self.rollbacks,
            "seconds": seconds,
        }
        fingerprint = self.config.fingerprint()
        save_state(self.folder, state, step=step, config=fingerprint, keep=self.config.keep)
        metadata = {
            "dataset": self.config.dataset,
            "data": self.source,
            "steps": step,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "learning_rate": self.config.learning_rate,
            "weight_average": self.config.weight_average,
            "precision": self.precision,
            "device": device_name(self.device),
            "minutes": round(seconds / 60, 1),
            "commit": commit(),
        }
        if self.config.start_from:
            metadata["start_from"] = self.config.start_from
        if self.config.objective == "geco":
            metadata["goal"] = self.config.goal
        save_checkpoint(self.folder / "model", self.engine.averaged_model, metadata=metadata)

    def _restore(self) -> None:
        if not self.config.resume:
            return
        found = self.ranks.newest_state(self.config, say=self._say)
        if found is None:
            self._say(f"{self.folder} holds no sound state; starting from step 0")
            return
        step, state = found
        self.engine.load_state_dict(state["engine"])
        self.rollbacks, self.seconds_before = state["rollbacks"], state["seconds"]
        self.skipped = deque([(step, int(self.engine.read_skipped()))])
        self._say(f"continuing {self.folder} from step {step:,}")

    def _check_health(self, step: int, readings: Readings) -> None:
        """Skipping a bad batch now and then is fine; many in a row or in a thousand are not."""
        self.skipped.append((step, readings.skipped))
        while len(self.skipped) > 2 and self.skipped[1][0] <= step - 1000:
            self.skipped.popleft()
        lately = readings.skipped - self.skipped[0][1]
        if readings.skipped_in_a_row > 10:
            raise _Diverged(f"{readings.skipped_in_a_row} steps in a row were not finite")
        if lately > 10:
            raise _Diverged(
                f"{lately} of the last {step - self.skipped[0][0]} steps were not finite"
            )
        if readings.mean_error + readings.mean_kl > _MAX_ELBO:
            raise _Diverged(f"error and KL exceed {_MAX_ELBO:.0e} nats")

    def _roll_back(self, diagnosis: str) -> None:
        """Goes back to the newest state once, with half the learning rate; gives up after that."""
        at = self.engine.steps_done
        found = self.ranks.newest_state(self.config, say=self._say)
        if found is None or self.rollbacks:
            good = f"step {found[0]} is the last good state" if found else "no state was saved yet"
            raise Stop(
                4,
                f"training diverged at step {at}: {diagnosis}; {good}. Try a lower --learning-rate "
                "or an easier --goal",
            )
        step, state = found
        self.engine.load_state_dict(state["engine"])
        self.engine.learning_rate.mul_(0.5)
        self.rollbacks += 1
        self.skipped = deque([(step, self.engine.read_skipped())])
        self.logs.restart(step)
        self.clock = (step, time.monotonic())
        self.logs.say(
            f"step {at}: {diagnosis}; back to step {step} with half the learning rate "
            f"({self.engine.learning_rate.item():.2g})"
        )
        self._save(step)  # otherwise a resumed run would forget that it was rolled back

    def _say(self, line: str) -> None:
        if self.ranks.is_main:
            print(line, file=sys.stderr)


class _Diverged(Exception):
    """Training has gone wrong; the message says how."""


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _one_line_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)

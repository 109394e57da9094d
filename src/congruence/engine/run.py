"""A run: where it is, what it has seen, and how it stops and goes on to the same bits."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from congruence.core import ranks, rng
from congruence.engine.batch import Batch, grouped
from congruence.engine.best import Best
from congruence.engine.distiller import Distiller
from congruence.engine.distributed import Objective, wrap
from congruence.engine.optim import Rates
from congruence.engine.options import Event, FitOptions, FitResult, ScheduleOptions
from congruence.engine.record import Recorder
from congruence.engine.rundir import RunDirectory
from congruence.engine.setup import describe, extent, on_sigterm, optimizers, prepare
from congruence.engine.snapshot import restore, snapshot, summary
from congruence.engine.validate import validate
from congruence.methods.method import Clock

LOG = logging.getLogger("congruence")
TOGETHER_EVERY = 10  # steps after which several ranks agree whether to save or stop


class Run:
    """One run of `fit`: position, optimizers, recorder and directory, restored where there is a checkpoint.

    Entering it claims the directory and listens for SIGTERM; leaving it undoes both.
    """

    def __init__(
        self,
        distiller: Distiller,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None,
        options: FitOptions,
        device: torch.device,
        optimizer: Optimizer | Sequence[Optimizer] | None,
        scheduler: Any,
    ) -> None:
        self.distiller, self.options, self.device = distiller, options, device
        self.train_loader, self.val_loader, self.scheduler = train_loader, val_loader, scheduler
        self.epoch = self.batch = self.step = 0
        self.seconds, self._since = 0.0, time.monotonic()
        self.history: list[dict[str, float]] = []
        self.exact = hasattr(train_loader, "batches")
        self.steps_per_epoch, self.epochs, self.steps = extent(train_loader, options)
        prepare(distiller, train_loader, options, device)
        self.optimizers = optimizers(distiller, options, optimizer)
        constant = ScheduleOptions("constant") if scheduler is not None else options.schedule
        self.rates = Rates(self.optimizers, constant, self.steps / self.steps_per_epoch)
        self.objective = wrap(Objective(distiller))
        self.best = Best(tuple(distiller.students), options.monitor)
        out = Path(options.out) if options.out is not None else None
        self.directory = RunDirectory(out, writes=ranks.rank() == 0) if out else None
        self._stop = False
        self._saved_at = time.monotonic()

    # Opening and closing

    def __enter__(self) -> Run:
        state = None
        self.finished = False
        folder = self.directory.path if self.directory else None
        if self.directory:
            ranks.barrier()
            state = self.directory.open(self._description(), resume=self.options.resume)
            ranks.barrier()
            self.finished = self.directory.summary() is not None
            if self.finished and state is None:
                raise ValueError(f"The finished run in '{self.directory.path}' has lost its checkpoints.")
        writes = folder if ranks.rank() == 0 else None
        self.recorder = Recorder(
            writes, every=self.options.log_every, device=self.device, tensorboard=self.options.tensorboard
        )
        if state is not None:
            restore(self, state)
        self.distiller.train()
        self._handler = on_sigterm(self._ask_to_stop)
        if not self.finished:
            if state is None:
                self.save()
            self._tell("start", {})
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    def _description(self) -> dict[str, Any]:
        batches = self.steps_per_epoch * self.options.accumulate
        return describe(self.distiller, self.train_loader, self.options, batches)

    # The course of a run

    @property
    def position(self) -> float:
        """The middle of the coming step, in epochs."""
        return (self.step + 0.5) / self.steps_per_epoch

    @property
    def complete(self) -> bool:
        """Whether all epochs have been finished, the last of which `max_steps` may cut short."""
        return self.epoch >= self.epochs

    def begin_epoch(self) -> None:
        """Tell the methods where the run is; a resumed epoch was begun before the checkpoint."""
        clock = Clock(self.epoch, self.step, self.epochs, self.steps_per_epoch)
        if self.batch == 0:
            self.distiller.begin_epoch(clock)
        else:
            self.distiller.resume_epoch(clock)

    def batches(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch in groups of `accumulate` batches, on the device."""
        if self.step < self.steps:
            for group in grouped(self.train_loader, self.epoch, self.batch, self.options.accumulate, self.device):
                yield group
                if self.step >= self.steps:
                    return

    def after_step(self) -> None:
        """Count, log, save and stop as they fall due."""
        self.step += 1
        self.batch += self.options.accumulate
        self._tell("step", {})
        if self.step % self.options.log_every == 0:
            self._flush()
        if ranks.world_size() > 1 and self.step % TOGETHER_EVERY:
            return
        due = time.monotonic() - self._saved_at >= self.options.checkpoint_seconds
        if self.directory and self.exact and self._any(due):
            self.save()
        if self._any(self._stop):
            self._leave()

    def _any(self, flag: bool) -> bool:
        return bool(ranks.any_rank(torch.tensor(flag, device=self.device))) if ranks.world_size() > 1 else flag

    def _flush(self) -> None:
        row = self.recorder.flush(self.step, self.epoch, {"lr": self.rates.first})
        self._tell("log", row)

    def end_epoch(self) -> None:
        """Validate, keep the best, step the caller's scheduler, and save."""
        if self.batch == 0:
            raise ValueError("`fit`: `train_loader` must yield at least one batch an epoch, got none.")
        if self.recorder.count:
            self._flush()
        self.distiller.end_epoch()
        metrics = self._validate()
        self.history.append(metrics)
        self.recorder.write({"step": self.step, "epoch": self.epoch, "validation": metrics})
        for name in self.best.update(self.epoch, metrics):
            state = {k: v.detach().cpu().clone() for k, v in self.distiller.student_state_dict(name).items()}
            self.best.states[name] = state
            if self.directory:
                self.directory.save_student(name, state)
        if self.scheduler is not None:
            self.scheduler.step()
        self._tell("epoch", metrics)
        self.epoch, self.batch = self.epoch + 1, 0
        if self.directory:
            self.save()
        if self._any(self._stop) and not self.complete:
            self._leave()

    def _validate(self) -> dict[str, float]:
        if self.options.evaluate is not None:
            metrics: dict[str, float] = {}
            for name, module in self.distiller.students.items():
                end = "" if len(self.distiller.students) == 1 else f"/{name}"
                mode = module.training
                found = self.options.evaluate(module.eval())
                module.train(mode)
                metrics.update({f"{key}{end}": float(value) for key, value in found.items()})
            return metrics
        return validate(self.distiller, self.val_loader, self.device) if self.val_loader is not None else {}

    # Saving and restoring

    def save(self) -> None:
        """Write a checkpoint, unless a loss was not finite (then raise)."""
        self.recorder.stop_if_bad()
        self._saved_at = time.monotonic()
        generators = [rng.get_state()]
        if ranks.world_size() > 1:
            generators = [{} for _ in range(ranks.world_size())]
            dist.all_gather_object(generators, rng.get_state())
        if not self.directory or ranks.rank() != 0:
            return
        self.directory.checkpoints.save(self.step, snapshot(self, generators))

    def elapsed(self) -> float:
        """Return the seconds of training so far, over all resumptions."""
        return self.seconds + time.monotonic() - self._since

    def _leave(self) -> None:
        if self.directory and self.exact:
            self.save()
        kept = (
            "from this step"
            if self.exact
            else "from the last epoch's end (a loader of congruence.data resumes anywhere)"
        )
        where = f"saved in '{self.directory.path}': resume goes on {kept}" if self.directory else "nothing is kept"
        LOG.warning("SIGTERM at step %d: %s.", self.step, where)
        raise SystemExit(0)

    def _tell(self, kind: str, metrics: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            for callback in self.options.callbacks:
                callback(Event(kind, self.epoch, self.epochs, self.step, self.steps, metrics, self.distiller))

    # The end

    def finish(self) -> FitResult:
        """Write the last students and the summary."""
        self._stop_seconds()
        if self.directory:
            for name in self.distiller.students:
                self.directory.save_student(name, self.distiller.student_state_dict(name), last=True)
            self.directory.finish(summary(self))
        ranks.barrier()
        result = self.result()
        self._tell("end", result.last)
        return result

    def _stop_seconds(self) -> None:
        self.seconds, self._since = self.elapsed(), time.monotonic()

    def result(self) -> FitResult:
        """Return what the run ended with."""
        directory, students = self.directory, tuple(self.distiller.students)
        return FitResult(
            steps=self.step,
            epochs=self.epoch,
            best_epoch=dict(self.best.epochs),
            best=dict(self.best.metrics),
            last=self.history[-1],
            history=tuple(self.history),
            seconds=self.seconds,
            out=directory.path if directory else None,
            student_files={name: directory.student_file(name) for name in students} if directory else {},
            best_states=self.best.states,
        )

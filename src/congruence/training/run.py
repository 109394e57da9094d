"""A run: where it is, what it has seen, and how it stops and goes on to the same bits."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from congruence.core import ranks, rng
from congruence.core.batch import Batch, grouped
from congruence.distiller.distiller import Distiller
from congruence.methods.method import Clock
from congruence.training import setup
from congruence.training.distributed import Objective, from_all_ranks, on_first, wrap
from congruence.training.modes import start_training
from congruence.training.optim import Rates, make_scaler
from congruence.training.options import Event, FitOptions
from congruence.training.record import Recorder
from congruence.training.result import FitResult
from congruence.training.saving.best import Best
from congruence.training.saving.run_directory import RunDirectory
from congruence.training.saving.state import restore, snapshot, summary
from congruence.training.validate import diagnosed, numbers

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
        self.extent = setup.extent(train_loader, options)
        setup.prepare(distiller, train_loader, options, device, self.extent)
        self.optimizers = setup.optimizers(distiller, options, optimizer, scheduler)
        self.scaler = make_scaler(options.precision, device)
        schedule = options.schedule if scheduler is None else None
        self.rates = Rates(self.optimizers, schedule, self.extent.steps / self.extent.per_epoch)
        self.best = Best(tuple(distiller.students), options.monitor)
        setup.rehearse_validation(distiller, val_loader, options, device, self.best)
        self.objective = wrap(Objective(distiller, options.micro_batch))
        self.directory: RunDirectory | None = None
        self.finished = self._stop = False
        self._saved_at = time.monotonic()

    # Opening and closing

    def __enter__(self) -> Run:
        state = self._open() if self.options.out is not None else None
        writes = self.directory.path if self.directory and ranks.rank() == 0 else None
        self.recorder = Recorder(
            writes, every=self.options.log_every, device=self.device, tensorboard=self.options.tensorboard
        )
        if state is not None:
            restore(self, state)
        start_training(self.distiller)
        self._handler = setup.on_sigterm(self._ask_to_stop)
        if not self.finished:
            if state is None:
                self.save()
            self._tell("start", {})
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.close()
        del self.objective  # its DDP module must not outlive the process group
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def _open(self) -> dict[str, Any] | None:
        """Claim the run directory; return the checkpoint to go on from."""
        path, first = Path(str(self.options.out)), ranks.rank() == 0
        optimizers, schedulers = self.optimizers, [self.scheduler] if self.scheduler is not None else []
        described = setup.describe(self.distiller, self.train_loader, self.options, self.extent)
        described["stepped"] = [type(part).__name__ for part in (*optimizers, *schedulers)]
        on_first(lambda: RunDirectory(path, writes=True))
        self.directory = directory = RunDirectory(path, writes=first)
        state, ended = on_first(
            lambda: (directory.open(described, resume=self.options.resume), directory.summary() is not None)
        )
        self.finished = ended
        if not self.exact:
            LOG.info("A loader that is not of congruence.data: '%s' resumes at the ends of epochs only.", path)
        return state

    def _ask_to_stop(self, *_: object) -> None:
        self._stop = True

    # The course of a run

    @property
    def position(self) -> float:
        """The middle of the coming step, in epochs."""
        return (self.step + 0.5) / self.extent.per_epoch

    @property
    def complete(self) -> bool:
        """Whether all epochs have been finished, the last of which `max_steps` may cut short."""
        return self.extent.ends_at(self.epoch) or (self.step >= self.extent.steps and self.batch == 0)

    def begin_epoch(self) -> None:
        """Tell the methods where the run is; a resumed epoch was begun before the checkpoint."""
        clock = Clock(self.epoch, self.step, self.extent.epochs, self.extent.per_epoch)
        if self.batch == 0:
            self.distiller.begin_epoch(clock)
        else:
            self.distiller.resume_epoch(clock)

    def batches(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch in groups of `accumulate` batches, on the device."""
        if self.step < self.extent.steps:
            for group in grouped(self.train_loader, self.epoch, self.batch, self.options.accumulate, self.device):
                yield group
                if self.step >= self.extent.steps:
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
        """Validate, diagnose, keep the best, step the caller's scheduler, and save."""
        if self.batch == 0:
            raise ValueError(f"`fit`: `train_loader` must yield a batch in every epoch, got none in {self.epoch}.")
        if self.recorder.counts:
            self._flush()
        self.distiller.end_epoch()
        metrics = numbers(self.distiller, self.val_loader, self.options.evaluate, self.device)
        improved = self.best.update(self.epoch, metrics)
        self.history.append(metrics)
        self.recorder.write({"step": self.step, "epoch": self.epoch, "validation": metrics})
        found = diagnosed(self.distiller, self.options.diagnose, self.epoch)
        if found:
            self.recorder.write({"step": self.step, "epoch": self.epoch, "diagnostics": found})
            self._tell("diagnostics", found)
        for name in improved:
            state = {k: v.detach().cpu().clone() for k, v in self.distiller.student_state_dict(name).items()}
            self.best.states[name] = state
            if self.directory:
                self.directory.save_student(name, state)
        if self.scheduler is not None:
            self.scheduler.step()
        self._tell("epoch", metrics)
        self.epoch, self.batch = self.epoch + 1, 0
        self.save()
        if self._any(self._stop) and not self.complete:
            self._leave()

    # Saving

    def save(self) -> None:
        """Write a checkpoint where there is a directory, unless a loss was not finite (then raise)."""
        self.recorder.stop_if_bad()
        if not self.directory:
            return
        self._saved_at = time.monotonic()
        generators = from_all_ranks(rng.get_state())
        state = snapshot(self, generators)
        on_first(lambda: self.directory and self.directory.checkpoints.save(self.step, state))

    def elapsed(self) -> float:
        """Return the seconds of training so far, over all resumptions."""
        return round(self.seconds + time.monotonic() - self._since, 3)

    def _leave(self) -> None:
        if self.directory and self.exact:
            self.save()
        kept = "this step" if self.exact else "the last epoch's end (a loader of congruence.data resumes anywhere)"
        where = f"saved in '{self.directory.path}': resume goes on from {kept}" if self.directory else "nothing is kept"
        LOG.warning("SIGTERM at step %d: %s.", self.step, where)
        raise SystemExit(0)

    def _tell(self, kind: str, metrics: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            epochs, steps = self.extent.epochs or self.epoch + 1, self.extent.steps
            for callback in self.options.callbacks:
                callback(Event(kind, self.epoch, epochs, self.step, steps, metrics, self.distiller))

    # The end

    def finish(self) -> FitResult:
        """Write the last students and the summary."""
        self.seconds, self._since = self.elapsed(), time.monotonic()
        if self.directory:
            for name in self.distiller.students:
                self.directory.save_student(name, self.distiller.student_state_dict(name), last=True)
            self.directory.finish(summary(self))
        ranks.barrier()
        result = self.result()
        self._tell("end", result.last)
        return result

    def result(self) -> FitResult:
        """Return what the run ended with."""
        directory, students = self.directory, tuple(self.distiller.students)
        ended = (directory.summary() if directory else None) or {"seconds": self.seconds}
        return FitResult(
            steps=self.step,
            epochs=self.epoch,
            best_epoch=dict(self.best.epochs),
            best=dict(self.best.metrics),
            last=self.history[-1],
            history=tuple(self.history),
            seconds=ended["seconds"],
            out=directory.path if directory else None,
            student_files={name: directory.student_file(name) for name in students} if directory else {},
            best_states=self.best.states,
        )

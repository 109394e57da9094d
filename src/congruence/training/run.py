"""A run of `fit`: its state, and how it stops and resumes bit for bit."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from congruence.core import ranks
from congruence.core.batch import Batch, grouped
from congruence.data.datasets.model_facts import ModelFacts, forget
from congruence.data.loading.source import BatchSource
from congruence.distiller import Distiller
from congruence.distiller.remembered import Remembered
from congruence.methods.method import Clock
from congruence.training import filling, setup
from congruence.training.collapse import Collapse
from congruence.training.distributed import Objective, first_ranks_statistics, wrap
from congruence.training.in_step import InStep
from congruence.training.modes import start_training
from congruence.training.optim import Optimization, align
from congruence.training.options import Event, FitOptions
from congruence.training.position import Position
from congruence.training.record import Recorder
from congruence.training.result import FitResult
from congruence.training.saving import shards
from congruence.training.saving.best import Best
from congruence.training.saving.checkpoint import naming_write_errors
from congruence.training.saving.identity import run_identity
from congruence.training.saving.run_directory import RunDirectory
from congruence.training.saving.state import Generators, History, Stateful, kept, load_parts, state_of
from congruence.training.sigterm import Sigterm
from congruence.training.teacher_time import TeacherTime
from congruence.training.untaught import AFTER, Untaught
from congruence.training.validate import diagnosed, measured

LOG = logging.getLogger("congruence")
TOGETHER_EVERY = 10  # interval, in steps, at which several ranks agree whether to save or stop


class Run:
    """One run of `fit`:

    its parts, each with its own state, and its directory. A checkpoint is restored if there is one. Entering claims the
    directory and installs a SIGTERM handler; leaving closes the files and restores the handler.
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
        self.source, self.val_loader = BatchSource(train_loader, "train_loader"), val_loader
        self.facts = ModelFacts.of(train_loader)
        setup.same_on_all_ranks(self.source)
        self.extent = setup.extent(self.source, options)
        setup.prepare(distiller, self.source, options, device, self.extent)
        optimizers = setup.optimizers(distiller, options, optimizer, scheduler)
        epochs = self.extent.steps / self.extent.per_epoch
        self.optimization = Optimization(optimizers, options, scheduler, epochs=epochs, device=device)
        self._in_step = InStep(any(needs.gathers for needs in distiller.needs().values()))
        self.position, self.history = Position(), History()
        self.untaught, self.collapse = Untaught(distiller, optimizers), Collapse(distiller)
        self.best = Best(tuple(distiller.students), options.monitor, one_standard_error=options.one_standard_error)
        setup.rehearse_validation(distiller, val_loader, options, device, self.best)
        self._remembered = Remembered(val_loader)
        self._teacher_time = TeacherTime(distiller, self.source.loader, device)
        self.objective = wrap(Objective(distiller, options.micro_batch))
        distiller._sitting_out.in_step = True
        self.directory: RunDirectory | None = None
        self.identity: dict[str, Any] = {}
        self.ended_before = False
        self._sigterm = Sigterm()
        self._held = contextlib.ExitStack()  # the directory's lock
        self._saved_at = time.monotonic()

    # Opening and closing

    def __enter__(self) -> Run:
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise
        return self

    def _begin(self) -> None:
        state = self._open() if self.options.out is not None else None
        self.recorder = Recorder(
            self.directory if ranks.rank() == 0 else None,
            every=self.options.log_every,
            device=self.device,
            tensorboard=self.options.tensorboard,
        )
        if state is not None:
            self._restore(state)
            if self.directory:
                ranks.on_rank_zero(functools.partial(self.directory.lengthen, self.identity))
        for student in self.distiller.students.values():
            forget(student)  # the data that the student's weights were trained on before
        start_training(self.distiller)
        self._sigterm.__enter__()  # installed last: until the run can save, the signal may end the process
        if not self.ended_before:
            if state is None:
                self.save()  # a run that is killed in its first epoch starts again with the same first weights
            self._tell("start", {})

    def __exit__(self, *_: object) -> None:
        self.recorder.close()
        self.distiller._sitting_out.in_step = False
        del self.objective  # the DDP module must not outlive the process group
        self._sigterm.__exit__()
        self._held.close()

    def _open(self) -> dict[str, Any] | None:
        """Claim the run directory; return the checkpoint to go on from."""
        path = Path(str(self.options.out))
        self.identity = identity = run_identity(
            self.distiller,
            self.source,
            self.options.describe(),
            steps=self.extent.per_epoch,
            stepped=self.optimization.all(),
        )
        ranks.on_rank_zero(lambda: RunDirectory(path, writes=True))  # created, or raised on every rank
        self.directory = directory = RunDirectory(path, writes=ranks.rank() == 0)
        ranks.on_rank_zero(lambda: self._held.enter_context(directory.held()))
        state, self.ended_before = ranks.on_rank_zero(
            lambda: (
                directory.open(identity, resume=self.options.resume, facts=self.facts, planned=self.source.planned),
                directory.ended(identity),
            )
        )
        if state is not None:
            self.facts = ranks.on_rank_zero(lambda: directory.same_facts(self.facts))
            ranks.on_rank_zero(lambda: setup.tell_changed_files(self.source.loader, directory.identity))
        if not self.source.planned:
            LOG.info("The loader is not from congruence.data: '%s' can be resumed only at the ends of epochs.", path)
        return state

    # The course of a run

    @property
    def midpoint(self) -> float:
        """The middle of the coming step, in epochs, so that the first step of a warm-up has a rate above 0."""
        return (self.position.step + 0.5) / self.extent.per_epoch

    @property
    def complete(self) -> bool:
        """Whether all epochs are finished; `max_steps` may cut the last one short."""
        position = self.position
        return self.extent.ends_at(position.epoch) or (position.step >= self.extent.steps and position.batch == 0)

    def begin_epoch(self) -> None:
        """Tell the methods the position of the run; a resumed epoch was begun before the checkpoint."""
        position = self.position
        clock = Clock(position.epoch, position.step, self.extent.epochs, self.extent.per_epoch)
        if position.batch == 0:
            self.distiller.begin_epoch(clock)
            self._teacher_time.begin()
        else:
            self.distiller.resume_epoch(clock)
        self.untaught.thawed()

    def groups(self) -> Iterator[list[Batch]]:
        """Yield the rest of the epoch in groups of `accumulate` batches, on the device."""
        position = self.position
        if position.step < self.extent.steps:
            rest = self.source.epoch(position.epoch, position.batch)
            if ranks.world_size() > 1 and not self.source.planned:
                rest = self._in_step.batches(rest)
            for group in grouped(rest, self.options.accumulate, self.device):
                self.collapse.begin(group[0].inputs)
                self.facts = self.facts.with_input(group[0].inputs)
                yield group
                if position.step >= self.extent.steps:
                    return

    def after_step(self) -> None:
        """Count the step, and log, save and stop when due."""
        self.untaught.after_step()
        self.position.after_step(self.options.accumulate)
        step = self.position.step
        self._tell("step", {})
        if step >= AFTER:
            self.untaught.tell_once(self.position.epoch)
        if step % self.options.log_every == 0:
            self._flush()
        if ranks.world_size() > 1 and step % TOGETHER_EVERY:
            return
        due = time.monotonic() - self._saved_at >= self.options.checkpoint_seconds
        saves, leaves = self._any(due, self._sigterm.received)
        if self.directory and self.source.planned and saves:
            self.save()
        if leaves or (ranks.world_size() == 1 and self._sigterm.received):  # one may have come while it saved
            self._leave()

    def _any(self, *flags: bool) -> list[bool]:
        if ranks.world_size() == 1:
            return list(flags)
        any_of: list[bool] = ranks.any_rank(torch.tensor(flags, device=self.device)).tolist()
        return any_of

    def _flush(self) -> None:
        rates = {"lr": self.optimization.rates.first}
        self._tell("log", self.recorder.flush(self.position.step, self.position.epoch, rates))

    def end_epoch(self) -> None:
        """Validate, diagnose, keep the best, step the caller's scheduler, and save."""
        position = self.position
        if position.batch == 0:
            raise ValueError(f"`fit`: `train_loader` must yield a batch in every epoch, got none in {position.epoch}.")
        self._teacher_time.end(math.ceil(self.extent.steps / self.extent.per_epoch) - position.epoch - 1)
        if self.recorder.counts:
            self._flush()
        self.untaught.tell_once(position.epoch)
        self.collapse.look()
        self.distiller.end_epoch()
        first_ranks_statistics(self.distiller.students)
        metrics, samples = measured(
            self.distiller, self.val_loader, self.options.evaluate, self.device, self._remembered
        )
        improved = self.best.update(position.epoch, metrics, samples)
        self.history.epochs.append(metrics)
        self._write("validation", metrics)
        diagnostics = diagnosed(self.distiller, self.options.diagnose, position.epoch)
        if diagnostics:
            self._write("diagnostics", diagnostics)
            self._tell("diagnostics", diagnostics)
        for name in improved:
            state = {k: kept(v) for k, v in self.distiller.student_state_dict(name).items()}
            self.best.states[name] = state
            if self.directory:
                self.directory.save_student(name, state, facts=self.facts)
        self.optimization.end_epoch()
        self._tell("epoch", metrics)
        position.after_epoch()  # before the checkpoint: a resumed run begins the next epoch
        self.save()
        # Only the summary of a complete run is left to write.
        if any(self._any(self._sigterm.received)) and not self.complete:
            self._leave()
        if not self.complete:
            filling.complete(self.distiller, position.epoch)

    def _write(self, kind: str, metrics: dict[str, float]) -> None:
        self.recorder.write({"step": self.position.step, "epoch": self.position.epoch, kind: metrics})

    def _tell(self, kind: str, metrics: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            epoch, step = self.position.epoch, self.position.step
            epochs, steps = self.extent.epochs or epoch + 1, self.extent.steps
            for callback in self.options.callbacks:
                callback(Event(kind, epoch, epochs, step, steps, metrics, self.distiller))

    # Saving

    def _parts(self) -> dict[str, Stateful]:
        """Return what a checkpoint keeps, in the order in which it is restored."""
        return {
            "best": self.best,  # may raise, which must happen before the recorder truncates its file
            "position": self.position,
            "distiller": self.distiller,
            **self.optimization.parts(),
            "generators": Generators(),
            "loader": self.source,
            "recorder": self.recorder,
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        parts, directory = self._parts(), self.directory
        if directory:
            state = shards.joined(state, directory.checkpoints.folder, parts)
        load_parts(parts, state, out=self.options.out)
        for optimizer in self.optimization.optimizers:
            align(optimizer)  # the loaded state has the memory order that it was saved with
        if directory:
            self.best.states = ranks.on_rank_zero(lambda: self.best.read(directory))
        LOG.info("Resumed at epoch %d, step %d.", self.position.epoch, self.position.step)

    def save(self) -> None:
        """Write a checkpoint if there is a directory; raise if a loss was not finite."""
        self.recorder.stop_if_bad()
        filling.share(self.distiller)
        directory = self.directory
        if not directory:
            return
        self._saved_at = time.monotonic()
        state, parts = shards.split(state_of(self._parts()))
        if parts:
            with naming_write_errors(directory.checkpoints.folder):
                state[shards.KEY] = shards.write(directory.checkpoints.folder, self.position.step, parts)
        ranks.on_rank_zero(lambda: directory.checkpoints.save(self.position.step, state))

    def _leave(self) -> None:
        planned = self.source.planned
        if self.directory and planned:
            self.save()
        resumes = "this step" if planned else "the last epoch's end (a loader of congruence.data resumes anywhere)"
        where = (
            f"saved in '{self.directory.path}': resume goes on from {resumes}" if self.directory else "nothing is kept"
        )
        LOG.warning("SIGTERM at step %d: %s.", self.position.step, where)
        raise SystemExit(0)

    # The end

    def finish(self) -> FitResult:
        """Write the last students and the summary."""
        seconds, untaught = self.position.seconds(), self.untaught.end()
        self.best.tell()
        if self.directory:
            for name in self.distiller.students:
                state = self.distiller.student_state_dict(name)
                self.directory.save_student(name, state, last=True, facts=self.facts)
                self.directory.bring_up_to_date(name, self.best.states[name], self.facts)
            self.directory.finish(self._summary(seconds, untaught))
        ranks.barrier()
        result = self.result(seconds, untaught)
        self._tell("end", result.last)
        return result

    def _summary(self, seconds: float, untaught: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "status": "finished",
            "epochs": self.position.epoch,
            "steps": self.position.step,
            "seconds": seconds,
            "best_epoch": self.best.epochs,
            "best": self.best.metrics,
            "last": self.history.epochs[-1],
            "untaught": untaught,
            "teacher_arithmetic": self.identity["teacher_arithmetic"],
            "channels_last": self.options.channels_last,
            "torch": torch.__version__,
            "device": str(self.device),
        }

    def result(self, seconds: float | None = None, untaught: dict[str, list[str]] | None = None) -> FitResult:
        """Return the run's result; if the run had already ended before, its recorded seconds are returned."""
        directory, students = self.directory, tuple(self.distiller.students)
        ended = (directory.summary() if directory else None) or {"seconds": seconds, "untaught": untaught or {}}
        return FitResult(
            steps=self.position.step,
            epochs=self.position.epoch,
            best_epoch=dict(self.best.epochs),
            best=dict(self.best.metrics),
            last=self.history.epochs[-1],
            history=tuple(self.history.epochs),
            seconds=ended["seconds"],
            out=directory.path if directory else None,
            student_files={name: directory.student_file(name) for name in students} if directory else {},
            best_states=self.best.states,
            untaught=ended.get("untaught", {}),
        )

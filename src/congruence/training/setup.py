"""Preparation and checks before the first step of a run."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from congruence.core import check, ranks
from congruence.core.inputs import TEACHER
from congruence.data.datasets.files import changed_since
from congruence.data.datasets.model_facts import ModelFacts, check_prepared, check_same_classes
from congruence.data.loading.source import BatchSource
from congruence.distiller.distiller import Distiller
from congruence.methods.method import Clock
from congruence.models.memory_order import emulates
from congruence.models.weights import not_writable
from congruence.training.filling import open_answers
from congruence.training.optim import make_optimizer
from congruence.training.options import HALF, FitOptions
from congruence.training.record import event_writer
from congruence.training.saving.best import Best
from congruence.training.sharding import shard_as_wanted
from congruence.training.smallest import rehearse_smallest
from congruence.training.validate import rehearse, rehearse_diagnostics

LOG = logging.getLogger("congruence")


class Extent(NamedTuple):
    """The length of a run: steps in an epoch, epochs (None if only `max_steps` ends it), and total steps."""

    per_epoch: int
    epochs: int | None
    steps: int

    def ends_at(self, epoch: int) -> bool:
        """Whether no epoch is left."""
        return self.epochs is not None and epoch >= self.epochs


def same_on_all_ranks(source: BatchSource) -> None:
    """Raise if ranks have different numbers of batches, since the first to finish would leave the others waiting."""
    steps = ranks.from_all_ranks(source.steps())
    if len(set(steps)) > 1:
        got = ", ".join("no length" if each is None else str(each) for each in steps)
        raise ValueError(
            f"`fit`: `train_loader` must have as many batches on every rank, got {got}: a DistributedSampler, or a "
            "loader of congruence.data, shares the samples out equally."
        )


def extent(source: BatchSource, options: FitOptions) -> Extent:
    """Return the length of a run over a source of batches."""
    batches = source.steps()
    if batches is None:
        if options.max_steps is None:
            raise ValueError("`fit`: `train_loader` must have a length, or `max_steps` be given, got neither.")
        return Extent(options.max_steps, options.epochs, options.max_steps)
    if batches == 0:
        check.fail("fit", "train_loader", "a loader of at least one batch", "none (is the dataset empty?)")
    per_epoch = math.ceil(batches / options.accumulate)
    steps = options.max_steps or per_epoch * (options.epochs or 1)
    if options.epochs is not None:
        steps = min(steps, per_epoch * options.epochs)
    return Extent(per_epoch, math.ceil(steps / per_epoch), steps)


def rehearse_run(
    distiller: Distiller,
    loader: Iterable[Any],
    val_loader: Iterable[Any] | None,
    options: FitOptions,
    device: torch.device,
) -> None:
    """Raise what `fit` would raise for a run, without training, logging or writing anything."""
    distiller.to(device)
    teachers_know(distiller, loader)
    every_epoch_counts(distiller, extent(BatchSource(loader, "train_loader"), options))
    optimizers(distiller, options, None, None)
    rehearse_validation(distiller, val_loader, options, device, Best(tuple(distiller.students), options.monitor))
    if options.tensorboard:
        event_writer()


def every_epoch_counts(distiller: Distiller, extent: Extent) -> None:
    """Raise for a run with an epoch in which no term trains a student."""
    for epoch in range(min(extent.epochs or 1, 10_000)):
        if not any(term.counts(Clock(epoch, epochs=extent.epochs)) for term in distiller.terms):
            raise ValueError(
                f"`Distiller`: no term trains a student in epoch {epoch}: see start_epoch, stop_epoch and weight."
            )


def teachers_know(distiller: Distiller, loader: Any) -> None:
    """Raise if a teacher from a run's file was trained on other images or classes, as far as both are known.

    Classes matter only if a term reads the teacher's logits, since relations between features do not depend on them.
    """
    for name, teacher in distiller.teachers.items():
        data = ModelFacts.of(loader, name, TEACHER)
        check_prepared(teacher.module, data)
        if any((TEACHER, "logits") in binding.paths for binding in distiller.taught_by(name)):
            check_same_classes(teacher.module, data)


def prepare(
    distiller: Distiller, source: BatchSource, options: FitOptions, device: torch.device, extent: Extent
) -> None:
    """Move everything to the device, build the distiller if needed, and warn of settings that change a loss."""
    distiller.to(device)
    if not distiller.built:
        distiller.build(source.first().to(device).inputs)
    teachers_know(distiller, source.loader)
    shard_as_wanted(distiller, options)
    if options.teacher_speed == "auto":
        for teacher in distiller.teachers.values():
            teacher.prepare()
    for cache in distiller.caches.values():
        cache.serves(source.loader)
    open_answers(distiller)
    every_epoch_counts(distiller, extent)
    for name in distiller.students if options.out is not None else ():
        if refused := not_writable(distiller.student_state_dict(name)):
            raise ValueError(
                f"`fit`: `out` must be left out where the {name} is quantised, since {refused} cannot be written as "
                "safetensors: train in floating point and quantise afterwards."
            )
    relational = [name for name, needs in distiller.needs().items() if needs.scope == "batch"]
    if options.accumulate > 1 and relational:
        sees = "one batch" if source.batch_size is None else f"{source.batch_size} samples"
        warnings.warn(
            f"accumulate={options.accumulate} does not enlarge the batch of {', '.join(relational)}: each loss sees "
            f"{sees}. A larger batch with `micro_batch=` is the exact way.",
            stacklevel=4,
        )
    if ranks.world_size() > 1 and not source.shared_by_ranks:
        LOG.warning("The training loader has no DistributedSampler: each rank may see all samples.")
    _tell_of_emulation(options, device)
    _tell_of_few_labels(distiller)
    _refuse_sparse(distiller)
    rehearse_smallest(distiller, source, options, device)
    for name, layers in distiller.describe_layers().items():
        LOG.info("%s reads %s.", name, layers)


def _tell_of_emulation(options: FitOptions, device: torch.device) -> None:
    """Warn of half precision on a processor that has no instructions for it."""
    half = HALF.get(options.precision)
    if half is not None and emulates(device, half) and not ranks.rank():
        LOG.warning(
            "precision='%s': this processor has no instructions for it, a step takes several times as long as with "
            "'float32'.",
            options.precision,
        )


def _tell_of_few_labels(distiller: Distiller) -> None:
    """Warn of terms to which few labels do harm: they ignore the classes, or see labelled samples alone."""
    labels = None if distiller.facts is None else distiller.facts.labels
    if labels is None or ranks.rank():
        return
    known = int((labels >= 0).sum())
    if not 0 < known < len(labels) / 2:
        return
    terms = [term for term in distiller.terms if not term.watched]
    if blind := [term.name for term in terms if term.blind]:
        LOG.warning(
            "The term '%s' matches distributions regardless of the classes, and %d of %d samples have labels: it may "
            "cost accuracy, whereas methods that relate samples (pkt, rkd, cckd) gain.",
            *(blind[0], known, len(labels)),
        )
    needs = distiller.needs()
    if partial := [term.name for term in terms if needs[term.name].teacher and needs[term.name].scope == "labelled"]:
        LOG.warning(
            "The term '%s' learns from the teacher only where a sample has a label, as %d of %d samples have: methods "
            "that read no labels (kd, dist, pkt) learn from all.",
            *(partial[0], known, len(labels)),
        )


def _refuse_sparse(distiller: Distiller) -> None:
    """Raise for embeddings with sparse gradients, whose norm cannot be computed or clipped."""
    for name, student in distiller.students.items():
        for path, part in student.named_modules():
            table = isinstance(part, nn.Embedding | nn.EmbeddingBag)
            if table and part.sparse and part.weight.requires_grad:
                raise ValueError(
                    f"`fit`: the {name}'s layer '{path}' gives sparse gradients (sparse=True), which cannot be "
                    "averaged and clipped with the others: build it with sparse=False."
                )


def tell_changed_files(loader: Any, began: Path) -> None:
    """Say which image files that a resumed run reads batch by batch changed since a file of its folder was written.

    The fingerprint of such data has the files' names and lengths, not their content. Only a warning: a folder that was
    copied or unpacked anew has new times, too.
    """
    dataset: Any = getattr(loader, "dataset", None)
    changed = changed_since(dataset, began.stat().st_mtime_ns)
    if changed:
        LOG.warning(
            "%d of %d image files were written or replaced since this run began, '%s' first: if their pixels are no "
            "longer the same, the resumed run is of other data.",
            *(len(changed), len(dataset), changed[0]),
        )


def rehearse_validation(
    distiller: Distiller, loader: Iterable[Any] | None, options: FitOptions, device: torch.device, best: Best
) -> None:
    """Validate one batch, check that the monitored number is among the results, and run the diagnostics once."""
    if options.evaluate is None and loader is not None:
        best.expects(rehearse(distiller, loader, device))
    elif options.evaluate is None and options.monitor is not None:
        check.fail("fit", "val_loader", f"given to monitor '{options.monitor}' (or FitOptions(evaluate=...))", "None")
    if options.diagnose is not None:
        rehearse_diagnostics(distiller, options.diagnose)


def as_list(given: Any) -> list[Any]:
    """Return the caller's optimizers in a list, none for None."""
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) else [given]


def optimizers(
    distiller: Distiller, options: FitOptions, given: Optimizer | Sequence[Optimizer] | None, scheduler: Any
) -> list[Optimizer]:
    """Return the caller's optimizers, or the one of the options.


    Raises:
        ValueError: for other objects, optimizers of other parameters, or a scheduler over none of the optimizers.
    """
    groups = distiller.parameter_groups()
    if given is None:
        used = [make_optimizer(groups, options.optimizer)]
    else:
        used = as_list(given)
        if not used or not all(isinstance(optimizer, Optimizer) for optimizer in used):
            check.fail("fit", "optimizer", "a torch optimizer or several", [type(o).__name__ for o in used])
        moved = {id(p) for optimizer in used for group in optimizer.param_groups for p in group["params"]}
        wanted = [p for group in groups for p in group["params"]]
        missing = sum(id(p) not in moved for p in wanted)
        if missing == len(wanted):
            check.fail("fit", "optimizer", "over distiller.parameter_groups()", "other parameters")
        if missing:
            LOG.warning("%d of %d parameters are in no optimizer and stay as they are.", missing, len(wanted))
    if scheduler is not None:
        if isinstance(scheduler, ReduceLROnPlateau):
            check.fail("fit", "scheduler", "one that is stepped without a number", type(scheduler).__name__)
        if not any(getattr(scheduler, "optimizer", None) is optimizer for optimizer in used):
            check.fail("fit", "scheduler", "over an optimizer given as `optimizer=`", "another")
    return used

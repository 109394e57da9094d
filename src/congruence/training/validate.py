"""Validation: by labels if a term learns them, else the distillation loss; or a custom function. Diagnostics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from congruence.core import check, ranks, rng
from congruence.core.batch import Batch
from congruence.core.ranks import from_all_ranks, on_rank_zero
from congruence.data.loading.source import BatchSource
from congruence.distiller.as_found import as_found
from congruence.distiller.dense import counted_positions
from congruence.distiller.distiller import Distiller
from congruence.distiller.remembered import Remembered
from congruence.models.evaluating import evaluating
from congruence.models.reused import ReusedClassifier
from congruence.training.options import Diagnose, Evaluate
from congruence.training.scored import COUNT, add, kind_of, numbers_of, sums_of
from congruence.training.sharding import any_sharded, in_step

LOG = logging.getLogger("congruence")


def teaches_classes(distiller: Distiller) -> bool:
    """Whether a term trains a classifier, or a student has its teacher's."""
    reused = any(isinstance(student, ReusedClassifier) for student in distiller.students.values())
    return reused or any(needs.teaches_classes for needs in distiller.needs().values())


def validate(distiller: Distiller, loader: Iterable[Any], device: torch.device) -> dict[str, float]:
    """Return {"accuracy", "loss"} over the labelled samples, with "/NAME" after each if there are several students.

    "loss" is the mean cross-entropy. For dense logits both are over the labelled positions that count, and "mean_iou"
    is added. For soft labels the largest entry is the class. If a term reads logits of independent labels (`bce`,
    `sigmoid_kd`), the numbers are "map", "f1" and "loss", the binary cross-entropy.

    If no term trains a classifier, the first batch comes without labels, all labels are -1, or the labels are of
    another kind that no term reads (boxes, say), it is the distillation loss of all samples, and the only number.
    Random generators are restored. With a loader of `congruence.data`, ranks measure whole batches in turn, so N ranks
    give the result of one process.
    Any other loader must give each rank its own share.

    Raises:
        ValueError: if the loader yields nothing, or labels or shapes do not fit.
    """
    return _validated(distiller, loader, device, Remembered(loader)).numbers


class Measured(NamedTuple):
    """The numbers of an epoch's validation, and how many samples (or positions) they are of; None if not known."""

    numbers: dict[str, float]
    samples: int | None = None


@torch.no_grad()
def _validated(distiller: Distiller, loader: Iterable[Any], device: torch.device, remembered: Remembered) -> Measured:
    with rng.untouched(), evaluating(distiller), remembered.lent(distiller):
        sums = _sums(distiller, loader, device, labels=teaches_classes(distiller))
        if not sums:
            raise ValueError("The validation loader gave no batch: is the dataset empty?")
        if not sums[COUNT]:
            sums = _sums(distiller, loader, device, labels=False)
    return Measured(numbers_of(sums), int(sums[COUNT]))


def _sums(distiller: Distiller, loader: Iterable[Any], device: torch.device, *, labels: bool) -> dict[str, Any]:
    """Add up the measurements of all ranks' batches, using labels if wanted and available."""
    totals: dict[str, Tensor] = {}
    source = BatchSource(loader, "val_loader")
    share = source.share(ranks.rank(), ranks.world_size())
    runs_on_all = ranks.world_size() > 1 and any_sharded(distiller)
    for batch, counts in in_step(share, source) if runs_on_all else ((batch, True) for batch in share):
        batch = batch.to(device)
        labels = labels and (bool(totals) or batch.labels is not None)  # the first batch decides
        measured = sums_of_batch(distiller, batch, labels=labels)
        if not measured and not totals:
            labels, measured = False, sums_of_batch(distiller, batch, labels=False)
        if counts:
            add(totals, measured)
    return sums_over_ranks(totals)


def sums_over_ranks(totals: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what all ranks' batches add up to, as `numbers_of` takes it."""
    sums: dict[str, Any] = {}
    own = {name: total.cpu() if total.dim() else float(total) for name, total in totals.items()}
    for share in from_all_ranks(own):
        add(sums, share)
    return sums


@torch.no_grad()
def rehearse(distiller: Distiller, loader: Any, device: torch.device) -> list[str]:
    """Validate one batch before the first step, so that errors show early; return the names of the numbers."""
    with rng.untouched(), evaluating(distiller):
        source = BatchSource(loader, "val_loader")
        batch = source.first().to(device)
        labels = teaches_classes(distiller) and batch.labels is not None
        if labels and not _labelled(batch):
            labels = any(_labelled(batch) for batch in source.share())
        measured = sums_of_batch(distiller, batch, labels=labels)
        if not measured:
            kind = f"{str(batch.labels.dtype).removeprefix('torch.')} {list(batch.labels.shape)}"
            LOG.info("The labels (%s) are none of the logits, and no term reads them: validation is by the loss.", kind)
            measured = sums_of_batch(distiller, batch, labels=False)
    sums = {name: total.cpu() if total.dim() else float(total) for name, total in measured.items()}
    return list(numbers_of(sums | {COUNT: max(sums[COUNT], 1.0)}))


def _labelled(batch: Batch) -> bool:
    return batch.labels is not None and bool((batch.labels >= 0).any())


def measured(
    distiller: Distiller,
    loader: Iterable[Any] | None,
    evaluate: Evaluate | None,
    device: torch.device,
    remembered: Remembered,
) -> Measured:
    """Return an epoch's validation numbers: from a custom function, else from the loader, else none."""
    if evaluate is not None:
        return Measured(ask(distiller, evaluate))
    return Measured({}) if loader is None else _validated(distiller, loader, device, remembered)


def ask(distiller: Distiller, evaluate: Evaluate) -> dict[str, float]:
    """Return the numbers of a custom validation of every student, in evaluation mode; the first rank's are used."""
    metrics: dict[str, float] = {}
    for name, student in distiller.students.items():
        end = "" if len(distiller.students) == 1 else f"/{name}"
        with rng.untouched(), evaluating(student):
            own = _by_name("evaluate", evaluate(student))
        metrics.update({f"{key}{end}": value for key, value in own.items()})
    return from_all_ranks(metrics)[0]


@torch.no_grad()
def diagnosed(distiller: Distiller, diagnose: Diagnose | None, epoch: int) -> dict[str, float]:
    """Return the first rank's diagnostics of an epoch on every rank; generators, buffers and modes are restored.

    Diagnostics that raise or return no numbers are logged and left out: they never stop a run.
    """
    if diagnose is None:
        return {}

    def measured() -> dict[str, float]:
        try:
            with evaluating(distiller), as_found(distiller.students):
                return _by_name("diagnose", diagnose(distiller, epoch))
        except Exception as error:  # any error: training works without diagnostics
            LOG.warning("No diagnostics after epoch %d: %s", epoch, check.sentence(error))
            return {}

    return on_rank_zero(measured)


@torch.no_grad()
def rehearse_diagnostics(distiller: Distiller, diagnose: Diagnose) -> None:
    """Run the diagnostics once before the first step: a `ValueError` means that something requested is unavailable."""
    try:
        with evaluating(distiller), as_found(distiller.students):
            diagnose.rehearse(distiller)
    except ValueError:
        raise
    except Exception as error:
        LOG.warning("The diagnostics failed before the first step: %s", check.sentence(error))


def _by_name(option: str, named: Any) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in named.items()}
    except (AttributeError, TypeError, ValueError):
        check.fail("FitOptions", option, "a function that returns numbers by name", f"one that gave {named!r}")


def sums_of_batch(distiller: Distiller, batch: Batch, *, labels: bool) -> dict[str, Tensor]:
    """Return a batch's sums and its number of samples; if labels are used, only labelled samples count.

    Empty if the labels are of another kind than the logits and no term reads them.
    """
    if labels:
        return {COUNT: torch.zeros(())} if batch.labels is None else _by_labels(distiller, batch, batch.labels)
    captured = distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
    rows = next(iter(captured.tensors.values())).shape[0]
    loss = distiller.score(captured, update=False, together=False).loss.double()
    return {COUNT: torch.full_like(loss, rows), "loss": loss * rows}


def _by_labels(distiller: Distiller, batch: Batch, labels: Tensor) -> dict[str, Tensor]:
    needs, measured = distiller.needs().values(), dict[str, Tensor]()
    read, multilabel = any(each.labels for each in needs), any(each.multilabel for each in needs)
    for name in distiller.students:
        logits = distiller.logits(name, batch.inputs).float()
        kind = kind_of(logits.shape, labels, multilabel=multilabel)
        if kind is None and not read:
            return {}
        end = "" if len(distiller.students) == 1 else f"/{name}"
        counted = counted_positions(distiller.bindings.values(), name, logits, batch.inputs)
        measured |= sums_of(logits, labels, kind or "classes", counted=counted, end=end)
    return measured

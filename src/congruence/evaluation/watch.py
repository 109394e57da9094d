"""Diagnostics of a run: the same images every epoch, embedded by students and teacher, and measured."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from congruence import data
from congruence.core import check, ranks
from congruence.core.rng import untouched
from congruence.data.datasets import split
from congruence.data.datasets.batched import BatchDataset
from congruence.data.loading.source import BatchSource
from congruence.distiller import Distiller
from congruence.distiller.remembered import Remembered
from congruence.evaluation.channels import batch_of
from congruence.evaluation.diagnostics import ALL, checked_names, diagnose_each
from congruence.evaluation.embed import Embedded, beside, embed_all
from congruence.evaluation.embeddings import UnfiniteError
from congruence.models.weights_watch import WeightsWatch, watched

LOG = logging.getLogger("congruence")


class Diagnostics:
    """For `FitOptions(diagnose=...)`: measures every student at the ends of epochs.

    The numbers are lines {"step", "epoch", "diagnostics": {...}} of metrics.jsonl, which are truncated on resuming like
    other lines. With several students each name ends in "/NAME", with several teachers, before that, in "/TEACHER".
    Training is not affected, to the bit: the models run in evaluation mode without gradient, and random generators are
    restored. A teacher is run once, and again if its weights have changed, where these can be watched, the loader is
    from `congruence.data`, and its samples stay the same (other loaders may change the order between passes).

    Args:
        loader: re-iterable batches of the images, as `fit` takes them; `diagnostic_loader` makes one. The time of most
            diagnostics, and the memory of "wasserstein", grow with the square of the samples.
        measures: names of `DIAGNOSTICS`, or "all" for every number that this distiller and these images allow; may be
            empty if `losses` is set.
        losses: whether to include each term's unweighted loss on these images, as "loss/TERM" (`term_losses`).
        every: number of epochs between measurements; the first epoch is always measured.
        student_layer: the layer that gives the student's embedding; by default the input of the last Linear.
        teacher_layer: the layer that gives the teacher's embedding; by default the input of the last Linear.

    Raises:
        ValueError: for an unknown name or a number out of its range; before the first step of `fit`, for a layer that
            does not exist, or a diagnostic whose needs are not met (a teacher, labels, equal classes).

    Example:
        >>> import congruence as cg
        >>> images, labels = torch.randn(12, 4), torch.arange(12) % 2
        >>> student = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> distiller = cg.Distiller(nn.Linear(4, 2), student, ["kd"], example=images)
        >>> numbers = Diagnostics([(images, labels)], ["gpcl", "accuracy"])(distiller, epoch=0)
        >>> sorted(numbers)
        ['accuracy', 'gpcl']
    """

    def __init__(
        self,
        loader: Iterable[Any],
        measures: str | Sequence[str] = ALL,
        *,
        losses: bool = False,
        every: int = 1,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
    ) -> None:
        check.hyperparameters("Diagnostics", {"every": check.COUNT, "losses": check.Flag()}, every=every, losses=losses)
        self.loader, self.losses, self.every = loader, losses, every
        self.measures = checked_names(measures) if measures or not losses else ()
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self._taught: dict[str, tuple[nn.Module, WeightsWatch, Embedded]] = {}
        self._remembered = Remembered(loader)
        self._told: set[str] = set()

    def rehearse(self, distiller: nn.Module) -> None:
        """Measure once before the first step, so that what cannot be had shows now."""
        self._taught, self._told = {}, set()
        if not self._measured(distiller) and not self._told:
            check.fail("Diagnostics", "measures", "diagnostics that can be had here", "none that can")

    def __call__(self, distiller: nn.Module, epoch: int) -> Mapping[str, float]:
        """Return the numbers of an epoch counted from 0, none where it is passed over."""
        if epoch and (epoch + 1) % self.every:
            return {}
        try:
            return self._measured(distiller)
        except UnfiniteError as error:  # told, and the run goes on: it chooses nothing by these numbers
            LOG.warning("No diagnostics for epoch %d. %s", epoch, error)
            return {}

    def _measured(self, distiller: nn.Module) -> dict[str, float]:
        if not isinstance(distiller, Distiller):
            check.fail("Diagnostics", "distiller", "a Distiller", type(distiller).__name__)
        losses = {f"loss/{name}": value for name, value in self._losses(distiller).items()}
        return {**self._of_embeddings(distiller), **losses}

    def _losses(self, distiller: Distiller) -> dict[str, float]:
        if not self.losses:
            return {}
        with untouched(), self._remembered.lent(distiller):
            losses = term_losses(distiller, self.loader)
        finite = {name: value for name, value in losses.items() if math.isfinite(value)}
        if len(finite) < len(losses):
            unfinite = ", ".join(f"'{name}'" for name in losses if name not in finite)
            raise UnfiniteError(f"On the images of the diagnostics the loss of {unfinite} is not finite.")
        return finite

    def _of_embeddings(self, distiller: Distiller) -> dict[str, float]:
        if not self.measures:
            return {}
        students: dict[str, nn.Module] = dict(distiller.students.items())
        teachers = {name: teacher.module for name, teacher in distiller.teachers.items()}
        known = {
            name: rows
            for name, (module, watch, rows) in self._taught.items()
            if teachers.get(name) is module and not watch.changed(module, sizes=True)
        }
        asked = {name: module for name, module in teachers.items() if name not in known}
        layers = {**dict.fromkeys(students, self.student_layer), **dict.fromkeys(asked, self.teacher_layer)}
        with untouched():
            embedded = embed_all({**students, **asked}, self.loader, layers=layers, teachers=tuple(teachers))
        taught = {name: known[name] if name in known else embedded[name] for name in teachers}
        if isinstance(self.loader, data.Loader) and not self.loader.varies():
            for name, module in asked.items():
                if (watch := watched(module)) is not None:
                    self._taught[name] = module, watch, taught[name]
        numbers: dict[str, float] = {}
        for name in students:
            end = "" if len(students) == 1 else f"/{name}"
            tell = functools.partial(self._tell, name)
            for teacher in taught or (None,):
                pair = beside(embedded[name], None if teacher is None else taught[teacher])
                of = "" if len(taught) < 2 else f"/{teacher}"
                values = diagnose_each(pair, self.measures, tell)
                numbers.update({f"{key}{of}{end}": value for key, value in values.items()})
        return numbers

    def _tell(self, student: str, number: str, error: Exception) -> None:
        """Say once that a diagnostic raised, which leaves it out where it does."""
        if number not in self._told:
            self._told.add(number)
            LOG.warning("The diagnostic '%s' of the %s is left out: %s", number, student, check.sentence(error))


@torch.no_grad()
def term_losses(distiller: Distiller, loader: Iterable[Any]) -> dict[str, float]:
    """Return each term's unweighted loss on images, by its logged name: (Σ_batches rows · loss) / Σ_batches rows.

    The terms are those active in the distiller's epoch, including terms of weight 0. Relational losses depend on which
    samples share a batch, so numbers of two runs can be compared only with equal batches. The methods' state is not
    changed. In training mode a loss may involve random layers: `Diagnostics` puts the distiller into evaluation mode.

    Raises:
        ValueError: if a term needs what the batches lack.

    Example:
        >>> import congruence as cg
        >>> images, labels = torch.randn(12, 4), torch.arange(12) % 2
        >>> terms = ["ce", cg.Term("kd", weight=0.0)]
        >>> distiller = cg.Distiller(nn.Linear(4, 2), nn.Linear(4, 2), terms, example=images)
        >>> sorted(term_losses(distiller.eval(), [(images, labels)]))
        ['ce', 'kd']
    """
    device = next(distiller.students.parameters()).device
    sums: dict[str, float] = {}
    rows: dict[str, int] = {}
    for batch in BatchSource(loader, "loader").share():
        batch = batch.to(device)
        captured = distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
        count = next(iter(captured.tensors.values())).shape[0]
        for name, loss in distiller.score(captured, update=False, together=False).terms.items():
            sums[name] = sums.get(name, 0.0) + count * float(loss)
            rows[name] = rows.get(name, 0) + count
    return {name: total / rows[name] for name, total in sums.items()}


def diagnostic_loader(
    dataset: Dataset[Any],
    samples: int | None = 1000,
    *,
    seed: int = 0,
    views: Sequence[str] = ("main",),
    device: torch.device | str | None = None,
) -> data.Loader:
    """Return batches of a fixed choice of images, not augmented, in which each class keeps its share.

    Args:
        dataset: the images; one that is not from `congruence.data` is read item by item, see `ItemDataset`.
        samples: the number of images; None, or more than there are: all.
        seed: seed of the choice.
        views: the views that the terms compare, if their losses are measured; all views show the unaugmented image.
        device: device of the batches.

    Raises:
        ValueError: for an empty dataset, or `samples` < 1.

    Example:
        >>> images, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2
        >>> dataset = data.ArrayDataset(images, labels, classes=2, mean=[0.5], std=[0.5])
        >>> [sorted(labels.tolist()) for _, labels, _ in diagnostic_loader(dataset, 4)]
        [[0, 0, 1, 1]]
    """
    bound = check.Real(low=1, closed="low", integer=True, optional=True)
    check.hyperparameters("diagnostic_loader", {"samples": bound}, samples=samples)
    images = dataset if isinstance(dataset, BatchDataset) else data.ItemDataset(dataset)
    size = len(images)
    labels = torch.zeros(size, dtype=torch.int64) if images.labels is None else images.labels
    chosen, _ = split.stratified(labels, min(samples or size, size), seed=seed, stream=split.DIAGNOSTICS)
    where = None if device is None else torch.device(device)
    # Which the loader asks to divide by the ranks; each batch stays whole.
    batch_size = batch_of(where) * ranks.world_size()
    return data.loader(images.subset(chosen), batch_size=batch_size, shuffle=False, views=views, device=device)

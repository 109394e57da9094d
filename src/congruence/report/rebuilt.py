"""The models of a run, built again from its folder, on the samples that a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from congruence.core import rng
from congruence.core.inputs import STUDENT, TEACHER
from congruence.data.datasets.batched import BatchDataset
from congruence.data.sources.any_folder import sample_names
from congruence.data.sources.load import Splits
from congruence.evaluation.drawn import shuffled
from congruence.evaluation.embed import Embedded
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.measure import see
from congruence.pipeline.context import folder_of
from congruence.pipeline.finished import finished
from congruence.report.flat import SAMPLES, Layouts
from congruence.report.space import POINTS, Side, view
from congruence.report.thumbnails import shown
from congruence.training.distributed import pick_device
from congruence.training.saving.run_directory import RunDirectory

VIEWS = 4  # students beside their teacher on one page
Views = tuple[dict[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Models:
    """Students and their teacher by the names under which batches hold their inputs, and the samples of a page.

    `shown` says how the page calls students, where that is another name; `names` are those of the part's samples, if
    they have any.
    """

    students: Mapping[str, nn.Module]
    teacher: nn.Module
    splits: Splits
    part: str = "test"
    teacher_name: str = TEACHER
    device: str | torch.device | None = None
    kept: KeptRows | None = None
    shown: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[str] | None = None


def of_run(folder: str | Path, name: str, *, trust: bool = False) -> Models:
    """Return the models of a run; of several teachers the first.

    Args:
        folder: of the run.
        name: of the run, in the page.
        trust: whether factories may be imported.

    Raises:
        ValueError: if the run has no teacher, or cannot be built again.
    """
    directory = RunDirectory(Path(folder))
    with rng.untouched():
        found = finished(folder, trust=trust)
    models = found.models
    if not models.teachers:
        raise ValueError("The run has no teacher with which to compare its student.")
    teacher = next(iter(models.teachers))
    part = next((part for part in ("test", "validation") if len(getattr(models.splits, part))), None)
    if part is None:
        raise ValueError("The run's data has neither test nor validation samples.")
    several = len(models.students) > 1
    titles = {each: f"{name}, {each}" if several else name for each in models.students}
    device = pick_device(found.config.stages[found.config.last].train.device)
    kept = KeptRows(directory.teacher_rows) if directory.teacher_rows.is_dir() else None
    names = sample_names(getattr(models.splits, part), folder_of(found.config.data))
    return Models(models.students, models.teachers[teacher], models.splits, part, teacher, device, kept, titles, names)


class Read(NamedTuple):
    """What the models give of the same samples: those of `part` in `order`, the first four students by name."""

    part: BatchDataset
    order: torch.Tensor
    teacher: Embedded
    students: dict[str, Embedded]
    classes: Sequence[str]


def read(models: Models) -> Read:
    """Let the teacher and the first four students read the samples, at most 10,000, the same ones for all models."""
    part: BatchDataset = getattr(models.splits, models.part)
    order = torch.arange(len(part)) if len(part) <= SAMPLES else shuffled(len(part))[:POINTS]
    whole = len(part) <= POINTS  # then what is kept of the teacher may be of these samples
    splits = models.splits._replace(test=part if whole else part.subset(order))

    def rows(model: nn.Module, name: str, kind: str, kept: KeptRows | None) -> Embedded:
        seen = see(model, splits, name=name, kind=kind, device=models.device, kept=kept)
        found = seen.as_teacher(splits) if kind == TEACHER else seen.test
        return _ordered(found, order) if whole else found

    teacher = rows(models.teacher, models.teacher_name, TEACHER, models.kept if whole else None)
    students = {name: rows(model, name, STUDENT, None) for name, model in list(models.students.items())[:VIEWS]}
    return Read(part, order, teacher, students, _classes(part, teacher))


def views(models: Models, layouts: Layouts) -> Views:
    """Return the samples, and what the page draws of each student beside the teacher.

    At most 10,000 samples are read, the same ones for all models; the first 2,000 of them have thumbnails or texts.

    Args:
        models: of which the first four students are drawn.
        layouts: which other calls for the same page share.
    """
    seen = read(models)
    part, order, teacher, classes = seen.part, seen.order, seen.teacher, seen.classes
    labels = None if part.labels is None else part.labels[order]
    drawn = []
    for name, rows in seen.students.items():
        own = Side(models.shown.get(name, name), rows)
        drawn.append(view(own, Side(models.teacher_name, teacher), classes, layouts))
    samples: dict[str, Any] = {
        "count": len(order),
        "of": len(part),
        "part": models.part,
        "labels": None if labels is None else labels.tolist(),
        "classes": classes,
        **shown(part, order[:SAMPLES].tolist(), models.names),
    }
    return samples, drawn


def _ordered(rows: Embedded, order: torch.Tensor) -> Embedded:
    return rows._replace(
        features=rows.features[order],
        logits=None if rows.logits is None else rows.logits[order],
        labels=None if rows.labels is None else rows.labels[order],
    )


def _classes(part: BatchDataset, teacher: Embedded) -> Sequence[str]:
    if part.class_names:
        return [str(name) for name in part.class_names]
    count = part.classes or (0 if teacher.logits is None else teacher.logits.shape[1])
    return [str(number) for number in range(count)]

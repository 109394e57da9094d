"""The table of diagnostics: what can be measured of a student while it learns, each from embeddings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from congruence import metrics
from congruence.core import check
from congruence.core.numerics import as_float64

ALL = "all"
# Of `gpcl_estimate`: batches as a training step has them, the same ones every epoch.
_BATCH, _BATCHES = 64, 50
_NEEDS = {
    "teacher": "a teacher",
    "labels": "labelled images",
    "pairs": "two images of one class and two classes",
    "student_logits": "class logits of the student",
    "teacher_logits": "class logits of the teacher",
    "classes": "equal classes on both sides",
}


@dataclass(frozen=True)
class Embeddings:
    """What two models say of the same samples; None where there is no teacher, no logits or no labels.

    Shape:
        `student_features` [N, D_s], `teacher_features` [N, D_t], `student_logits` [N, C_s], `teacher_logits` [N, C_t],
        `labels` int64 [N], -1 where a sample has none.
    """

    student_features: Tensor
    teacher_features: Tensor | None = None
    student_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    labels: Tensor | None = None

    def missing(self, needs: Sequence[str]) -> list[str]:
        """Say which needs of a diagnostic are not met, in words."""
        student, teacher, labels = self.student_logits, self.teacher_logits, self.labels
        sizes = [] if labels is None else labels[labels >= 0].unique(return_counts=True)[1].tolist()
        met = {
            "teacher": self.teacher_features is not None,
            "labels": len(sizes) > 0,
            "pairs": len(sizes) > 1 and max(sizes) > 1,
            "student_logits": student is not None,
            "teacher_logits": teacher is not None,
            "classes": student is not None and teacher is not None and student.shape[1] == teacher.shape[1],
        }
        return [_NEEDS[need] for need in needs if not met[need]]


Numbers = dict[str, float]


@dataclass(frozen=True)
class Diagnostic:
    """A row of the table: the function, and what must be there for it."""

    function: Callable[[Embeddings], Numbers]
    needs: tuple[str, ...] = ()


def _both(of: Embeddings) -> tuple[Tensor, Tensor]:
    return of.student_features, cast(Tensor, of.teacher_features)


def _labelled(of: Embeddings) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the class centres of each side that is there, and the labelled rows' positions and classes from 0 on."""
    labels = cast(Tensor, of.labels)
    rows = (labels >= 0).nonzero()[:, 0]
    classes, place = labels[rows].unique(return_inverse=True)
    centres = []
    for side in (of.student_features, of.teacher_features):
        if side is not None:
            wide = as_float64(side[rows])
            sums = wide.new_zeros(len(classes), wide.shape[1]).index_add_(0, place, wide)
            centres.append(sums / place.bincount()[:, None])
    return centres, rows, place


def _each(name: str, function: Callable[[Tensor], float], student: Tensor | None, teacher: Tensor | None) -> Numbers:
    """Measure the student under the name itself, and the teacher, where there is one, beside it."""
    sides = {name: student, f"teacher_{name}": teacher}
    return {key: function(side) for key, side in sides.items() if side is not None}


def _accuracy(of: Embeddings) -> Numbers:
    logits, labels = cast(Tensor, of.student_logits), cast(Tensor, of.labels)
    return {"accuracy": metrics.accuracy(logits[labels >= 0], labels[labels >= 0], topk=(1,))[0]}


def _agreement(of: Embeddings) -> Numbers:
    student, teacher = cast(Tensor, of.student_logits), cast(Tensor, of.teacher_logits)
    return {"agreement": float((student.argmax(1) == teacher.argmax(1)).double().mean())}


def _gpcl(of: Embeddings) -> Numbers:
    return {"gpcl": metrics.global_perception_coherence(*_both(of))}


def _gpcl_estimate(of: Embeddings) -> Numbers:
    student, teacher = _both(of)
    mean, spread = metrics.estimate_perception_coherence(
        student,
        teacher,
        batch_size=min(_BATCH, len(student)),
        repeats=_BATCHES,
        generator=torch.Generator().manual_seed(0),
    )
    return {"gpcl_estimate": mean, "gpcl_estimate_sd": spread}


def _kernel_transfer_error(of: Embeddings) -> Numbers:
    return {"kernel_transfer_error": metrics.kernel_transfer_error(*_both(of))}


def _landmark_transfer_error(of: Embeddings) -> Numbers:
    centres = _labelled(of)[0]
    return {"landmark_transfer_error": metrics.landmark_transfer_error(*_both(of), *centres)}


def _kernel_transfer_bound(of: Embeddings) -> Numbers:
    (ours, theirs), rows, place = _labelled(of)
    student, teacher = _both(of)
    within, across = metrics.kernel_transfer_bound(student[rows], teacher[rows], ours, theirs, place)
    return {"kernel_transfer_bound_a": within, "kernel_transfer_bound_b": across}


def _smallest_landmark_eigenvalue(of: Embeddings) -> Numbers:
    name, centres = "smallest_landmark_eigenvalue", _labelled(of)[0]
    return _each(name, metrics.smallest_landmark_eigenvalue, centres[0], centres[1] if len(centres) > 1 else None)


def _class_similarity(of: Embeddings) -> Numbers:
    labels = cast(Tensor, of.labels)
    found: Numbers = {}
    for function in (metrics.intra_class_similarity, metrics.inter_class_similarity):
        found |= _each(
            function.__name__,
            lambda side, function=function: function(side, labels),  # type: ignore[misc]
            of.student_features,
            of.teacher_features,
        )
    return found


def _soft_label_entropy(of: Embeddings) -> Numbers:
    return _each("soft_label_entropy", metrics.soft_label_entropy, of.student_logits, of.teacher_logits)


_FAITHFUL, _LANDMARKS = ("teacher",), ("teacher", "labels")
DIAGNOSTICS: Mapping[str, Diagnostic] = {
    "accuracy": Diagnostic(_accuracy, ("labels", "student_logits")),
    "agreement": Diagnostic(_agreement, ("teacher", "student_logits", "teacher_logits", "classes")),
    "class_similarity": Diagnostic(_class_similarity, ("labels", "pairs")),
    "gpcl": Diagnostic(_gpcl, _FAITHFUL),
    "gpcl_estimate": Diagnostic(_gpcl_estimate, _FAITHFUL),
    "kernel_transfer_bound": Diagnostic(_kernel_transfer_bound, _LANDMARKS),
    "kernel_transfer_error": Diagnostic(_kernel_transfer_error, _FAITHFUL),
    "smallest_landmark_eigenvalue": Diagnostic(_smallest_landmark_eigenvalue, ("labels",)),
    "landmark_transfer_error": Diagnostic(_landmark_transfer_error, _LANDMARKS),
    "soft_label_entropy": Diagnostic(_soft_label_entropy, ("student_logits",)),
}


def known(measures: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of diagnostics, or "all" alone.

    Raises:
        ValueError: for a name that is none, with near ones.

    Example:
        >>> known("gpcl")
        ('gpcl',)
    """
    names = (measures,) if isinstance(measures, str) else tuple(measures)
    wrong = [name for name in names if name not in DIAGNOSTICS and names != (ALL,)]
    if wrong or not names:
        got = f"{wrong[0]!r}.{check.near(str(wrong[0]), DIAGNOSTICS)}" if wrong else "none."
        raise ValueError(f'`Diagnostics`: `measures` must be "all" or names among {", ".join(DIAGNOSTICS)}, got {got}')
    return names


def without_teacher(measures: Sequence[str]) -> tuple[str, ...]:
    """Return those that a student without a teacher can have."""
    return tuple(name for name in measures if name == ALL or "teacher" not in DIAGNOSTICS[name].needs)


def diagnose(of: Embeddings, measures: str | Sequence[str] = ALL) -> Numbers:
    """Measure embeddings.

    Args:
        of: the embeddings.
        measures: names of the table; "all": whatever can be had.

    Returns:
        Numbers by name; one diagnostic may give several.

    Raises:
        ValueError: for an unknown name, or a named one that cannot be had.

    Example:
        >>> of = Embeddings(torch.eye(3), 2 * torch.eye(3))
        >>> diagnose(of, ["gpcl", "kernel_transfer_error"])
        {'gpcl': 1.0, 'kernel_transfer_error': 0.75}
    """
    names = known(measures)
    missing = {name: of.missing(DIAGNOSTICS[name].needs) for name in (DIAGNOSTICS if names == (ALL,) else names)}
    for name in names if names != (ALL,) else ():
        if missing[name]:
            got = f"'{name}', which needs {' and '.join(missing[name])}"
            check.fail("Diagnostics", "measures", "diagnostics that can be had here", got)
    found: Numbers = {}
    for name, lacks in missing.items():
        if not lacks:
            found |= DIAGNOSTICS[name].function(of)
    return found

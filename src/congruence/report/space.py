"""A page's comparison of a student with its teacher on equal samples: maps, similarities, neighbours, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from congruence.evaluation.changed import classes_of
from congruence.evaluation.compared import coherence_of_samples
from congruence.evaluation.embed import Embedded, beside
from congruence.metrics.order import row_ranks
from congruence.report import flat
from congruence.report.flat import SAMPLES

POINTS = 10_000
NEIGHBOURS = 10
_NEAREST = 6  # of which a changed sample shows pictures
_CHANGED = 24
_SOFT = 5  # classes of a soft label
_CONFUSIONS = 12
_CLASSES, _EACH = 10, 10  # of a heat map
_TOLERANCE = 1e-6  # of distances that count as equal


class Side(NamedTuple):
    """A model's name, and what it gives of the samples."""

    name: str
    rows: Embedded


def view(student: Side, teacher: Side, classes: Sequence[str], layouts: flat.Layouts) -> dict[str, Any]:
    """Return what the page draws of two models, as plain values; of the teacher alone what does not need two.

    Samples beyond the first 2,000 are points of the principal components, and nothing else.

    Args:
        student: with rows of at most 10,000 samples.
        teacher: of the same samples.
        classes: their names.
        layouts: which other views of the page share.

    Raises:
        ValueError: for embeddings or logits that are not finite, with the model and the number of samples.
    """
    ours, theirs = (side.rows.features for side in (student, teacher))
    few = slice(0, SAMPLES)
    both = beside(student.rows, teacher.rows)
    both.require_finite("congruence report", own=student.name)
    left = [side.rows.left_out for side in (student, teacher) if side.rows.left_out]
    found: dict[str, Any] = {
        "student": student.name,
        "teacher": teacher.name,
        "maps": maps(layouts.of(ours), layouts.of(theirs)),
    }
    found["spectra"] = [[side.name, _rounded(flat.principal(side.rows.features)[1], 8)] for side in (student, teacher)]
    phi = coherence_of_samples(ours[few], theirs[few])
    agreement = rank_agreement(ours[few], theirs[few])
    found["phi"] = _rounded(phi.tolist())
    found["answers"] = {"student": _answers(student.rows), "teacher": _answers(teacher.rows)}
    labels = student.rows.labels
    known = labels is not None and bool((labels[few] >= 0).any())
    if known and labels is not None:
        one = beside(_first(student.rows, few), _first(teacher.rows, few))
        entries = classes_of(one, phi, classes)
        of_classes = [agreement[labels[few] == number].mean() for number in labels[few].unique() if number >= 0]
        found["classes"] = [
            {**entry, "rank_agreement": float(rank)} for entry, rank in zip(entries, of_classes, strict=True)
        ]
        found["heat"] = heat(ours[few], theirs[few], labels[few], phi)
    if known and both.student_logits is not None and both.teacher_logits is not None and labels is not None:
        found["confusions"] = confusions(both.student_logits, both.teacher_logits, labels)
    found["changed"] = changed(_first(student.rows, few), _first(teacher.rows, few), phi)
    found["left"] = left
    return found


def _first(rows: Embedded, few: slice) -> Embedded:
    return rows._replace(
        features=rows.features[few],
        logits=None if rows.logits is None else rows.logits[few],
        labels=None if rows.labels is None else rows.labels[few],
    )


def _rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [round(value, digits) for value in values]


def _answers(rows: Embedded) -> list[int] | None:
    if rows.logits is None or rows.logits.shape[1] < 2:
        return None
    answers: list[int] = rows.logits.argmax(1).tolist()
    return answers


def maps(student: Mapping[str, Tensor | None], teacher: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """Return by map both models' points, the student's rotated onto the teacher's, and what is left between them.

    Args:
        student: its maps, of `Layouts`.
        teacher: its maps.
    """
    found: dict[str, Any] = {}
    for name in student:
        ours, theirs = student[name], teacher[name]
        if ours is None or theirs is None:
            continue
        turned, onto, left = flat.aligned(ours, theirs)
        reach = float(torch.cat([turned, onto]).abs().max())
        written = {"student": flat.written(turned, reach), "teacher": flat.written(onto, reach)}
        found[name] = {**written, "left": round(left, 4)}
    return found


def rank_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Spearman's correlation, of every sample, of both models' cosine distances to all others.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t]; returns float64 [N], 0 where all distances are equal.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> rank_agreement(2 * points, points).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    ranks = []
    for side in (student, teacher):
        distances = (1 - _similarity(side)).clamp_min(0).float()
        distances.fill_diagonal_(0)  # each is its own nearest
        order = row_ranks(distances, _TOLERANCE).double()
        order = order - order.mean(1, keepdim=True)
        size = order.norm(dim=1, keepdim=True)
        ranks.append(order / torch.where(size > 0, size, 1.0))
    return torch.round((ranks[0] * ranks[1]).sum(1), decimals=6)


def _similarity(features: Tensor) -> Tensor:
    rows = flat.unit_rows(features)
    return rows @ rows.T


def heat(student: Tensor, teacher: Tensor, labels: Tensor, phi: Tensor) -> dict[str, Any]:
    """Return cosine similarities in per cent among ten samples of each of the ten classes with the smallest mean φ.

    Returns:
        {"samples": their positions, class after class, "groups": [[class, how many]], "student", "teacher": rows}.
    """
    numbers = [int(number) for number in labels.unique() if number >= 0]
    numbers = sorted(numbers, key=lambda number: float(phi[labels == number].mean()))[:_CLASSES]
    chosen = {number: (labels == number).nonzero()[:_EACH, 0] for number in sorted(numbers)}
    samples = torch.cat(list(chosen.values()))
    sides = {"student": student, "teacher": teacher}
    percent = {side: (100 * _similarity(rows[samples])).round().int().tolist() for side, rows in sides.items()}
    groups = [[number, len(rows)] for number, rows in chosen.items()]
    return {"samples": samples.tolist(), "groups": groups, **percent}


def confusions(student: Tensor, teacher: Tensor, labels: Tensor) -> list[list[int]]:
    """Return [label, answer, how often the student gives it, how often the teacher], where these differ most."""
    rows = (labels >= 0) & (labels < student.shape[1]) & (labels < teacher.shape[1])
    width = max(student.shape[1], teacher.shape[1])
    counts = [
        (labels[rows] * width + logits[rows].argmax(1)).bincount(minlength=width * width)
        for logits in (student, teacher)
    ]
    difference = (counts[0] - counts[1]).abs()
    difference[torch.arange(width) * (width + 1)] = 0  # right answers are no confusions
    order = difference.argsort(descending=True, stable=True)[:_CONFUSIONS]
    return [
        [int(cell) // width, int(cell) % width, int(counts[0][cell]), int(counts[1][cell])]
        for cell in order
        if difference[cell] > 0
    ]


def changed(student: Embedded, teacher: Embedded, phi: Tensor) -> list[dict[str, Any]]:
    """Return the samples whose ten nearest neighbours differ most, of equal ones that of the smaller φ first.

    Each has `sample`, `shared` (a fraction of the neighbours), `phi`, both models' nearest `neighbours` and, of models
    with classes, their `soft` labels: [class, probability] of the largest.
    """
    count = len(phi)
    depth = min(NEIGHBOURS, count - 1)
    if depth < 1:
        return []
    near = {}
    for side, rows in (("student", student), ("teacher", teacher)):
        similarity = _similarity(rows.features)
        similarity.fill_diagonal_(-2)
        near[side] = similarity.topk(depth, dim=1).indices
    both = torch.cat(list(near.values()), 1).sort(1).values
    shared = (both[:, 1:] == both[:, :-1]).sum(1) / depth
    worst = sorted(range(count), key=lambda sample: (float(shared[sample]), float(phi[sample])))[:_CHANGED]
    soft = {"student": _soft(student, worst), "teacher": _soft(teacher, worst)}
    return [
        {
            "sample": sample,
            "shared": round(float(shared[sample]), 4),
            "phi": round(float(phi[sample]), 4),
            "neighbours": {side: rows[sample, :_NEAREST].tolist() for side, rows in near.items()},
            "soft": {side: rows[place] for side, rows in soft.items() if rows is not None},
        }
        for place, sample in enumerate(worst)
        if shared[sample] < 1
    ]


def _soft(rows: Embedded, samples: Sequence[int]) -> list[list[list[float]]] | None:
    if rows.logits is None or rows.logits.shape[1] < 2 or not samples:
        return None
    largest = rows.logits[list(samples)].double().softmax(1).topk(min(_SOFT, rows.logits.shape[1]), dim=1)
    return [
        [[number, round(value, 4)] for value, number in zip(values, numbers, strict=True)]
        for values, numbers in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
    ]

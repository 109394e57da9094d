"""Where a student differs from its teacher: by class, and by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from congruence.evaluation.embeddings import Embeddings, given

Entry = dict[str, Any]  # plain values by name
_CLASSES, _SAMPLES = 10, 20


def classes_of(of: Embeddings, coherence: Tensor, names: Sequence[str] | None = None) -> list[Entry]:
    """Return for each class with samples: its name or number, its size, both accuracies, and the mean φ.


    Args:
        of: embeddings with labels.
        coherence: φ_i of every sample, [N].
        names: names of the classes; numbers are used if None or too few.

    Example:
        >>> of = Embeddings(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
        >>> classes_of(of, torch.tensor([1.0, 0.5]), ["cat"])
        [{'class': 'cat', 'samples': 2, 'teacher_accuracy': 0.5, 'student_accuracy': 0.5, 'phi': 0.75}]
    """
    labels = given(of.labels)
    known = labels >= 0
    numbers, place = labels[known].unique(return_inverse=True)
    counts = place.bincount(minlength=len(numbers))

    def means(values: Tensor) -> list[float]:
        sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, place, values[known].double())
        return cast("list[float]", (sums / counts).tolist())

    columns: dict[str, Sequence[Any]] = {
        "class": [_name(number, names) for number in numbers.tolist()],
        "samples": counts.tolist(),
    }
    for side, logits in _sides(of).items():
        hits = _right(logits, labels)
        columns[f"{side}_accuracy"] = [None] * len(numbers) if hits is None else means(hits)
    columns["phi"] = means(coherence)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def worst(classes: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Return the ten classes that lost the most accuracy, largest loss first; ties are ordered by smaller φ.

    Example:
        >>> entry = {"class": 3, "samples": 2, "teacher_accuracy": 1.0, "student_accuracy": 0.5, "phi": 0.75}
        >>> worst([{**entry, "class": 1, "student_accuracy": 1.0}, entry])[0]["class"]
        3
    """
    both = [dict(entry) for entry in classes if None not in (entry["teacher_accuracy"], entry["student_accuracy"])]
    return sorted(both, key=lambda entry: (entry["student_accuracy"] - entry["teacher_accuracy"], entry["phi"]))[
        :_CLASSES
    ]


def most_changed(of: Embeddings, coherence: Tensor, names: Sequence[str] | None = None) -> list[Entry]:
    """Return the twenty samples with the smallest φ_i, smallest first; samples with φ_i = 1 did not change.

    Each has its `index` in the loader's order, its `label`, both predictions (name or number; None if there is none)
    and `phi`.

    Example:
        >>> of = Embeddings(torch.eye(2), torch.eye(2), torch.eye(2), None, torch.tensor([0, -1]))
        >>> most_changed(of, torch.tensor([1.0, 0.5]))
        [{'index': 1, 'label': None, 'teacher_class': None, 'student_class': 1, 'phi': 0.5}]
    """
    labels = None if of.labels is None else of.labels.tolist()
    answers = {side: None if logits is None else logits.argmax(1).tolist() for side, logits in _sides(of).items()}
    entries = []
    for index in coherence.argsort(stable=True)[:_SAMPLES].tolist():
        if coherence[index] >= 1:
            break
        known = labels is not None and labels[index] >= 0
        entry: Entry = {"index": index, "label": _name(labels[index], names) if labels is not None and known else None}
        for side, given_classes in answers.items():
            entry[f"{side}_class"] = None if given_classes is None else _name(given_classes[index], names)
        entries.append({**entry, "phi": float(coherence[index])})
    return entries


def _sides(of: Embeddings) -> dict[str, Tensor | None]:
    sides = {"teacher": of.teacher_logits, "student": of.student_logits}
    return {side: None if logits is None or logits.shape[1] < 2 else logits for side, logits in sides.items()}


def _right(logits: Tensor | None, labels: Tensor) -> Tensor | None:
    if logits is None or logits.shape[1] <= int(labels.max()):
        return None
    return torch.eq(logits.argmax(1), labels)


def _name(number: int, names: Sequence[str] | None) -> str | int:
    return names[number] if names is not None and number < len(names) else number

"""What a diagnostic is given: two models' features and logits of the same samples, and what may be missing of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core.numerics import as_float64

_NEEDS = {
    "teacher": "a teacher",
    "two": "two images",
    "labels": "labelled images",
    "pairs": "two images of one class and two classes",
    "student_logits": "class logits of the student",
    "teacher_logits": "class logits of the teacher",
    "classes": "equal classes on both sides",
    "known_classes": "logits of the student for every label",
    "teacher_head": "the teacher's last Linear right behind its features, for every label",
}


@dataclass(frozen=True)
class Embeddings:
    """What two models say of the same samples; None where there is no teacher, no logits or no labels.

    `teacher_head` is weight and bias of the Linear that makes the teacher's logits of its features.

    Shape:
        `student_features` [N, D_s], `teacher_features` [N, D_t], `student_logits` [N, C_s], `teacher_logits` [N, C_t],
        `labels` int64 [N], -1 where a sample has none; `teacher_head` [C_t, D_t] and [C_t] or None.
    """

    student_features: Tensor
    teacher_features: Tensor | None = None
    student_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    labels: Tensor | None = None
    teacher_head: tuple[Tensor, Tensor | None] | None = None

    def missing(self, needs: Sequence[str]) -> list[str]:
        """Say which needs of a diagnostic are not met, in words."""
        student, teacher, labels, head = self.student_logits, self.teacher_logits, self.labels, self.teacher_head
        classes, counts = (torch.empty(0), torch.empty(0))
        if labels is not None:
            classes, counts = labels[labels >= 0].unique(return_counts=True)
        least = int(classes.max()) + 1 if len(classes) else 0
        met = {
            "teacher": self.teacher_features is not None,
            "two": len(self.student_features) > 1,
            "labels": len(classes) > 0,
            "pairs": len(classes) > 1 and int(counts.max()) > 1,
            "student_logits": student is not None,
            "teacher_logits": teacher is not None,
            "classes": student is not None and teacher is not None and student.shape[1] == teacher.shape[1],
            "known_classes": student is not None and student.shape[1] >= least,
            "teacher_head": head is not None and head[0].shape[0] >= least,
        }
        return [_NEEDS[need] for need in needs if not met[need]]

    def both(self) -> tuple[Tensor, Tensor]:
        """Return the features of student and teacher."""
        return self.student_features, given(self.teacher_features)

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Return the positions of the labelled samples, and their labels."""
        labels = given(self.labels)
        rows = (labels >= 0).nonzero()[:, 0]
        return rows, labels[rows]

    def centres(self) -> tuple[list[Tensor], Tensor]:
        """Return the class centres of each side that is there, and the labelled samples' centre."""
        rows, labels = self.labelled()
        place = labels.unique(return_inverse=True)[1]
        counts = place.bincount()[:, None]
        sides = [as_float64(side[rows]) for side in (self.student_features, self.teacher_features) if side is not None]
        return [s.new_zeros(len(counts), s.shape[1]).index_add_(0, place, s) / counts for s in sides], place


def given(value: Tensor | None) -> Tensor:
    """Return what a diagnostic's needs have made sure of."""
    if value is None:
        raise RuntimeError("A diagnostic ran without what it needs: its row in the table does not say so.")
    return value

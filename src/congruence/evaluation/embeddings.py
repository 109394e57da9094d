"""`Embeddings`: the features, logits and labels on which numbers are measured, any of which may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64

NEEDS = {
    "teacher": "a teacher",
    "two": "two images",
    "one_width": "features of one width on both sides",
    "labels": "labelled images",
    "class_pair": "two images of one class",
    "two_classes": "images of two classes",
    "pairs": "two images of one class and two classes",
    "student_logits": "class logits of the student",
    "teacher_logits": "class logits of the teacher",
    "classes": "equal classes on both sides",
    "six_classes": "logits of six classes or more of the student",
    "every_label": "logits of the student for every label",
    "teacher_head": "the teacher's last Linear right behind its features, for every label",
    "database": "training images",
    "projected": "features of one width, or a projection to the teacher's",
    "positions": "dense logits of the student, and a class label for each position",
    "both_positions": "dense logits of both sides for the same positions",
    "label_sets": "logits of the student, and 0 or 1 for each label",
    "both_label_sets": "logits of both sides for the same labels",
}
T = TypeVar("T")


class UnfiniteError(ValueError):
    """A model gave NaN or infinity for some samples, so no number can be computed."""


@dataclass(frozen=True)
class Embeddings:
    """Two models' features and logits of the same samples; None for a missing teacher, logits or labels.

    `teacher_head` is the weight and bias of the Linear from the teacher's features to its logits. `database` is the
    student's features and the labels of the training images, used as a retrieval database. `projected` is the student's
    features mapped to the teacher's width. `student_answers` and `teacher_answers` are the classes of positions, from
    dense logits. `truth` are labels that are not one class a sample: see `truth.Labels`.

    Shape:
        `student_features` [N, D_s], `teacher_features` [N, D_t], `student_logits` [N, C_s], `teacher_logits` [N, C_t],
        `labels` int64 [N], -1 if a sample has none; `teacher_head` [C_t, D_t] and [C_t] or None; `database`
        [M, D_s] and [M] or None; `projected` [N, D_t]; answers [P] each; `truth` [P] or [N, C_s].
    """

    student_features: Tensor
    teacher_features: Tensor | None = None
    student_logits: Tensor | None = None
    teacher_logits: Tensor | None = None
    labels: Tensor | None = None
    teacher_head: tuple[Tensor, Tensor | None] | None = None
    database: tuple[Tensor, Tensor | None] | None = None
    projected: Tensor | None = None
    student_answers: Tensor | None = None
    teacher_answers: Tensor | None = None
    truth: Tensor | None = None

    def missing(self, needs: Sequence[str]) -> list[str]:
        """Return in words which needs of a number are not met."""
        labels, head, truth = self.labels, self.teacher_head, self.truth
        own = truth is not None and truth.dim() > 1  # each logit is of a label of its own, and no class
        # A single logit tells no classes apart: all models would agree by it, and be sure.
        student, teacher = (
            None if logits is None or logits.shape[1] < 2 or own else logits
            for logits in (self.student_logits, self.teacher_logits)
        )
        logits_fit = [_fits(truth, side) for side in (self.student_logits, self.teacher_logits)]
        answers_fit = [_fits(truth, side) for side in (self.student_answers, self.teacher_answers)]
        sides = self.student_features, self.teacher_features
        classes, counts = (torch.empty(0), torch.empty(0))
        if labels is not None:
            classes, counts = labels[labels >= 0].unique(return_counts=True)
        least = int(classes.max()) + 1 if len(classes) else 0
        pair = len(classes) > 0 and int(counts.max()) > 1
        met = {
            "teacher": sides[1] is not None,
            "two": len(sides[0]) > 1,
            "one_width": sides[1] is not None and sides[0].shape[1] == sides[1].shape[1],
            "labels": len(classes) > 0,
            "class_pair": pair,
            "two_classes": len(classes) > 1,
            "pairs": len(classes) > 1 and pair,
            "student_logits": student is not None,
            "teacher_logits": teacher is not None,
            "classes": student is not None and teacher is not None and student.shape[1] == teacher.shape[1],
            "six_classes": student is not None and student.shape[1] > 5,
            "every_label": student is not None and student.shape[1] >= least,
            "teacher_head": head is not None and head[0].shape[0] >= least,
            "database": self.database is not None,
            "projected": sides[1] is not None
            and (self.projected is not None or sides[0].shape[1] == sides[1].shape[1]),
            "positions": answers_fit[0],
            "both_positions": all(answers_fit),
            "label_sets": logits_fit[0],
            "both_label_sets": all(logits_fit),
        }
        return [NEEDS[need] for need in needs if not met[need]]

    def require_finite(self, function: str, *, own: str = "student") -> None:
        """Raise one sentence that names the model whose numbers are not finite, and of how many samples.

        Args:
            function: named in the sentence.
            own: what stands in the student's place.
        """
        sides = {
            f"the {own}'s embeddings": self.student_features,
            f"the {own}'s logits": self.student_logits,
            "the teacher's embeddings": self.teacher_features,
            "the teacher's logits": self.teacher_logits,
            f"the {own}'s projected embeddings": self.projected,
            f"the {own}'s embeddings of the training images": None if self.database is None else self.database[0],
        }
        for what, rows in sides.items():
            if rows is None:
                continue
            bad = check.unfinite_rows(rows, masked="logits" in what)
            if len(bad):
                raise UnfiniteError(
                    f"`{function}`: {what} must be finite, got NaN or infinity for {len(bad)} of {len(rows)} samples, "
                    f"first for sample {int(bad[0])}: see what the model makes of it (a row that is all padding, an "
                    "input that is not finite, half precision that overflows)."
                )

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
        centre_of_sample = labels.unique(return_inverse=True)[1]
        counts = centre_of_sample.bincount()[:, None]
        sides = [as_float64(side[rows]) for side in (self.student_features, self.teacher_features) if side is not None]
        sums = [side.new_zeros(len(counts), side.shape[1]).index_add_(0, centre_of_sample, side) for side in sides]
        return [each / counts for each in sums], centre_of_sample

    def teacher_alone(self) -> Embeddings | None:
        """Return the teacher's side instead of the student's, None if there is no teacher."""
        if self.teacher_features is None:
            return None
        return Embeddings(
            self.teacher_features,
            student_logits=self.teacher_logits,
            labels=self.labels,
            student_answers=self.teacher_answers,
            truth=self.truth,
        )


def _fits(truth: Tensor | None, side: Tensor | None) -> bool:
    """Whether labels are those of answers [P], or of logits [N, L]."""
    return truth is not None and side is not None and truth.shape == side.shape


def given(value: T | None) -> T:
    """Return what a number's needs have made sure of."""
    if value is None:
        raise RuntimeError("A number was measured without what it needs: its row in the table does not say so.")
    return value

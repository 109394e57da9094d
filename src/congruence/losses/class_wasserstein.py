"""Class-conditional Wasserstein distance: optimal transport within each class of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.transport import class_squared_transport_cost

DivideBy = Literal["present", "all"]
CHECKS: Mapping[str, check.Constraint] = {
    "divide_by": check.Choice(("present", "all")),
    "classes": check.Real(low=1, closed="low", integer=True, optional=True),
}


@float32_island
def class_wasserstein_loss(
    student: Tensor,
    teacher: Tensor,
    student_labels: Tensor,
    teacher_labels: Tensor,
    *,
    divide_by: DivideBy = "present",
    classes: int | None = None,
) -> Tensor:
    """Squared 2-Wasserstein distance within each class, averaged over the classes.

    L = (1/K) Σ_c min_P Σ_ij P_ij ‖f_i^s − f_j^t‖², over the classes c on both sides, with i and j in class c and
    uniform weights within it. K is the number of these classes, or of all classes. 0 with zero gradient if no class is
    on both sides. Plans are exact, in float64 and constant for the gradient.

    Shape:
        `student` [n, D], `teacher` [m, D], `student_labels` [n], `teacher_labels` [m], sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_labels: integer classes of the student's rows; a row with a negative label is left out.
        teacher_labels: integer classes of the teacher's rows, used likewise.
        divide_by: "present": K counts the classes on both sides; "all": it is `classes`.
        classes: n_c, the number of classes in the data, for "all"; labels must be below it.

    Returns:
        The loss, in float32 or float64; NaN if a feature is not finite.

    Raises:
        ValueError: for shapes that do not fit, a hyper-parameter out of its range, or `classes` without "all".

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0], [5.0], [9.0]]), torch.tensor([[0.0], [5.0]])
        >>> class_wasserstein_loss(student, teacher, torch.tensor([0, 1, 2]), torch.tensor([0, 1])).item()
        0.5
        >>> labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
        >>> round(class_wasserstein_loss(student, teacher, *labels, divide_by="all", classes=10).item(), 6)
        0.1

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 3.

    Deviations:
        The paper divides by the number n_c of all classes (`divide_by="all"`), but a batch seldom contains all. By
        default the mean is over the classes on both sides, so that the scale does not depend on how many are absent.
    """
    name = "class_wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.class_labels(name, student_labels=student_labels, teacher_labels=teacher_labels)
    check.same_rows(name, student=student, student_labels=student_labels)
    check.same_rows(name, teacher=teacher, teacher_labels=teacher_labels)
    _check(name, divide_by, classes)
    value = class_squared_transport_cost(as_float64(student), as_float64(teacher), student_labels, teacher_labels)
    if divide_by == "all" and classes is not None:
        check.class_labels(name, classes, unlabelled=True, student_labels=student_labels, teacher_labels=teacher_labels)
        value = value * _shared(student_labels, teacher_labels).to(value.dtype) / classes
    return value.to(student.dtype)


def _check(name: str, divide_by: DivideBy, classes: int | None) -> None:
    check.hyperparameters(name, CHECKS, divide_by=divide_by, classes=classes)
    if (divide_by == "all") != (classes is not None):
        wanted = "the number of classes for `divide_by='all'`" if classes is None else "None for `divide_by='present'`"
        check.fail(name, "classes", wanted, classes)


def _shared(student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    """Return the number of classes on both sides."""
    earlier = (student_labels[:, None] == student_labels[None, :]).tril(-1).any(1)
    there = (student_labels[:, None] == teacher_labels[None, :]).any(1)
    return (there & ~earlier & (student_labels >= 0)).sum()


class ClassWassersteinLoss(nn.Module):
    """`class_wasserstein_loss` with its hyper-parameters stored."""

    def __init__(self, *, divide_by: DivideBy = "present", classes: int | None = None) -> None:
        super().__init__()
        _check("ClassWassersteinLoss", divide_by, classes)
        self.divide_by: DivideBy = divide_by
        self.classes = classes

    def forward(self, student: Tensor, teacher: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D] with the labels of their rows."""
        return class_wasserstein_loss(
            student, teacher, student_labels, teacher_labels, divide_by=self.divide_by, classes=self.classes
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"divide_by={self.divide_by!r}, classes={self.classes}"

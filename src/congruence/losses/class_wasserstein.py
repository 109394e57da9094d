"""Class-conditional Wasserstein distance: each class of the student's batch moved onto the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.transport import class_squared_transport_cost

CHECKS: Mapping[str, check.Constraint] = {}


@float32_island
def class_wasserstein_loss(student: Tensor, teacher: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance within each class, averaged over the classes that are on both sides.

    L = (1/K) Σ_c min_P Σ_ij P_ij ‖f_i^s − f_j^t‖², i and j of class c, uniform weights within it; 0 with zero gradient
    where no class is on both sides. Plans are exact, in float64 and constant for the gradient.

    Shape:
        `student` [n, D], `teacher` [m, D], `student_labels` [n], `teacher_labels` [m], sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_labels: integer classes of the student's rows; a row with a negative one is left out.
        teacher_labels: the same for the teacher's rows.

    Returns:
        The loss, in float32 or float64; NaN where a feature is not finite.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0], [5.0], [9.0]]), torch.tensor([[0.0], [5.0]])
        >>> class_wasserstein_loss(student, teacher, torch.tensor([0, 1, 2]), torch.tensor([0, 1])).item()
        0.5

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 3.

    Deviations:
        The paper divides by the number n_c of all classes, which a batch seldom holds; the mean here is over the
        classes that both sides hold, so that the scale does not depend on how many are absent.
    """
    name = "class_wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.class_labels(name, student_labels=student_labels, teacher_labels=teacher_labels)
    check.same_rows(name, student=student, student_labels=student_labels)
    check.same_rows(name, teacher=teacher, teacher_labels=teacher_labels)
    value = class_squared_transport_cost(as_float64(student), as_float64(teacher), student_labels, teacher_labels)
    return value.to(student.dtype)


class ClassWassersteinLoss(nn.Module):
    """`class_wasserstein_loss`, which has no hyper-parameters."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D] with the labels of their rows."""
        return class_wasserstein_loss(student, teacher, student_labels, teacher_labels)

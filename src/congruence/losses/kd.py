"""Knowledge distillation from softened outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE, "reduction": REDUCTION}


@float32_island
def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, reduction: Reduction = "mean"
) -> Tensor:
    """KL divergence of softened outputs, scaled by T² so that the size of its gradient does not depend on T.

    ℓ_b = T² · KL(softmax(z_t,b / T) ‖ softmax(z_s,b / T)); "mean" is over the batch.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        temperature: T > 0.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, a single class, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0, -2.0]])
        >>> round(distillation_loss(torch.zeros(1, 3), teacher, temperature=1.0).item(), 6)
        0.657555

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, sec. 2; the direction is that of later
        implementations.

    Deviations:
        CCKD's eq. 1 writes KL(p_s, p_t), student first; known code, like ours, has the teacher first. Averaging over
        B·C entries, or omitting T², as some ports do, changes the effective weight.
    """
    check.floating("distillation_loss", 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape("distillation_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes("distillation_loss", student_logits=student_logits)
    check.hyperparameters("distillation_loss", CHECKS, temperature=temperature, reduction=reduction)
    values = temperature**2 * divergence(student_logits / temperature, teacher_logits / temperature)
    return reduce("distillation_loss", values, reduction)


def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(softmax(z_t) ‖ softmax(z_s)) of each row; 0 for a single class."""
    log_student, log_teacher = torch.log_softmax(student_logits, 1), torch.log_softmax(teacher_logits, 1)
    teacher = log_teacher.exp()
    # If p_t is 0 its term is 0, even if a masked class makes both logarithms -inf; NaN is multiplied, and stays.
    ratio = torch.where(teacher > 0, log_teacher - log_student, torch.zeros_like(log_student))
    return (teacher * ratio).sum(1)


class DistillationLoss(nn.Module):
    """`distillation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 4.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("DistillationLoss", CHECKS, temperature=temperature, reduction=reduction)
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return distillation_loss(student_logits, teacher_logits, temperature=self.temperature, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"

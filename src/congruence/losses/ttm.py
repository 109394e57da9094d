"""Transformed teacher matching: the student, without a temperature, matches a power of the teacher's probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.losses.kd import divergence

CHECKS: Mapping[str, check.Constraint] = {
    "exponent": check.POSITIVE,
    "weighted": check.Flag(),
    "reduction": REDUCTION,
}


@float32_island
def transformed_teacher_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    exponent: float = 0.1,
    weighted: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence of the student's output from a power transform of the teacher's.

    With p = softmax(z_t), q = softmax(z_s) and r = p^γ / Σ_c p_c^γ = softmax(γ z_t): ℓ_b = U_b · KL(r_b ‖ q_b), where
    U_b = 1, or Σ_c p_bc^γ if `weighted`: large for samples on which the teacher is uncertain. "mean" is over the batch.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        exponent: γ > 0, usually below 1: the inverse of a temperature that applies only to the teacher.
        weighted: whether samples are weighted by U, a constant in [1, C^(1 − γ)] for γ <= 1, not normalised.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64; for γ ≠ 1 it is not 0 for a student equal to the teacher.

    Raises:
        ValueError: for shapes that differ, a single class, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[4.0, 2.0, 0.0]])
        >>> transformed_teacher_loss(0.5 * teacher, teacher, exponent=0.5).item()
        0.0
        >>> round(transformed_teacher_loss(teacher, teacher, exponent=0.5, weighted=True).item(), 4)
        0.2241

    Reference:
        Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, and the authors' code.

    Deviations:
        Computed from log-probabilities; the released code takes powers of a float32 softmax, which underflow. As in the
        code, there is no factor T².
    """
    name = "transformed_teacher_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.hyperparameters(name, CHECKS, exponent=exponent, weighted=weighted, reduction=reduction)
    # A softmax does not change if a row's largest logit is subtracted, which is done if the product would overflow.
    high = teacher_logits.detach().amax(1, keepdim=True)
    beyond = (exponent * high).isinf()
    values = divergence(student_logits, exponent * (teacher_logits - torch.where(beyond, high, torch.zeros_like(high))))
    if weighted:
        values = (exponent * teacher_logits.detach().log_softmax(1)).exp().sum(1) * values
    return reduce(name, values, reduction)


class TransformedTeacherLoss(nn.Module):
    """`transformed_teacher_loss` with its hyper-parameters stored."""

    def __init__(self, *, exponent: float = 0.1, weighted: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__()
        hyperparameters = {"exponent": exponent, "weighted": weighted, "reduction": reduction}
        check.hyperparameters("TransformedTeacherLoss", CHECKS, **hyperparameters)
        self.exponent = exponent
        self.weighted = weighted
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return transformed_teacher_loss(
            student_logits,
            teacher_logits,
            exponent=self.exponent,
            weighted=self.weighted,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"exponent={self.exponent}, weighted={self.weighted}, reduction={self.reduction!r}"

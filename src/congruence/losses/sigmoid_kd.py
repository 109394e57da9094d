"""Knowledge distillation of labels that hold by themselves: a divergence of sigmoids for each label."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

__all__ = ["BinaryDistillationLoss", "binary_distillation_loss"]

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE, "reduction": REDUCTION}


@float32_island
def binary_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Kullback-Leibler divergence of each label's two probabilities, its own and that of its absence.

    With p = σ(z_t / T) and q = σ(z_s / T), ℓ_b = T²/L · Σ_l [p_bl log(p_bl/q_bl) + (1 − p_bl) log((1 − p_bl)/(1 −
    q_bl))]; "mean" is over the batch.

    Shape:
        `student_logits` and `teacher_logits` [B, L]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: of the student, one a label; a single one is allowed.
        teacher_logits: of the teacher.
        temperature: T > 0.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0, 4.0]])
        >>> round(binary_distillation_loss(torch.zeros(1, 2), teacher).item(), 6)
        0.301526

    Reference:
        Yang et al., Multi-Label Knowledge Distillation, ICCV 2023, the part on logits (MLD), and
        https://github.com/penghui-yang/L2D.

    Deviations:
        The authors' code sums over the labels, is without temperature, and clamps the probabilities at 1e-8. Here the
        mean is over the labels, as `binary_cross_entropy_loss` has it, so that a weight does not depend on their
        number.
    """
    name = "binary_distillation_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.hyperparameters(name, CHECKS, temperature=temperature, reduction=reduction)
    student, teacher = student_logits / temperature, teacher_logits / temperature
    present, absent = teacher.sigmoid(), (-teacher).sigmoid()
    values = present * (logsigmoid(teacher) - logsigmoid(student))
    values = values + absent * (logsigmoid(-teacher) - logsigmoid(-student))
    return reduce(name, temperature**2 * values.mean(1), reduction)


class BinaryDistillationLoss(nn.Module):
    """`binary_distillation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("BinaryDistillationLoss", CHECKS, temperature=temperature, reduction=reduction)
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, L]."""
        return binary_distillation_loss(
            student_logits, teacher_logits, temperature=self.temperature, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Write the hyper-parameters."""
        return f"temperature={self.temperature}, reduction={self.reduction!r}"

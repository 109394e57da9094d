"""FitNet's hints: the values of a teacher's layer, predicted from the student's by a regressor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def hint_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean squared difference over all elements: ℓ_b = mean (r(s)_b − t_b)²; "mean" is over the batch.

    Shape:
        `student` and `teacher` [B, D], [B, T, D], [B, C, H, W] or [B, C, T, H, W]; maps of two sizes are compared
        at the smaller size, the larger one average-pooled first; returns [], or [B] for `reduction="none"`.

    Args:
        student: r(s), the regressor's output for the student's layer.
        teacher: the teacher's layer.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit or an unknown reduction.

    Example:
        >>> import torch
        >>> hint_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)).item()
        6.25

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3, as the common CIFAR benchmark has it.

    Deviations:
        The paper has ½‖·‖², a sum over elements; the benchmark, usually with a weight of 100, has the mean of squares.
    """
    check.floating("hint_loss", (2, 3, 4, 5), student=student, teacher=teacher)
    if student.dim() == teacher.dim() > 3 and student.shape[:2] == teacher.shape[:2]:
        student, teacher = pooled_alike(student, teacher)
    check.same_shape("hint_loss", student=student, teacher=teacher)
    return reduce("hint_loss", (student - teacher).square().flatten(1).mean(1), reduction)


class HintLoss(nn.Module):
    """`hint_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("HintLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher` [B, D], [B, T, D] or [B, C, H, W]."""
        return hint_loss(student, teacher, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

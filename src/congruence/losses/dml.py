"""Mutual learning: students without a teacher, each learning the others' predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction
from congruence.losses.kd import distillation_loss

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def mutual_learning_loss(logits: Tensor, other_logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """KL divergence of a student's prediction from another student's, which is treated as constant.

    ℓ_b = KL(softmax(z_other,b) ‖ softmax(z_b)), without a temperature; "mean" is over the batch. With more than two
    students each adds the mean over the others to its cross-entropy.

    Shape:
        `logits` and `other_logits` [B, C]; returns [], or [B] for `reduction="none"`.

    Args:
        logits: logits of the student that learns.
        other_logits: logits of another student; they get no gradient.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, a single class, or an unknown reduction.

    Example:
        >>> import torch
        >>> other = torch.tensor([[2.0, 0.0, -2.0]], requires_grad=True)
        >>> value = mutual_learning_loss(torch.zeros(1, 3, requires_grad=True), other)
        >>> value.backward()
        >>> round(value.item(), 6), other.grad
        (0.657555, None)

    Reference:
        Zhang et al., Deep Mutual Learning, CVPR 2018.

    Deviations:
        All students step together after one backward; the paper's algorithm updates one after the other, with new
        predictions of those already updated.
    """
    check.floating("mutual_learning_loss", 2, logits=logits, other_logits=other_logits)
    check.same_shape("mutual_learning_loss", logits=logits, other_logits=other_logits)
    check.several_classes("mutual_learning_loss", logits=logits)
    check.hyperparameters("mutual_learning_loss", CHECKS, reduction=reduction)
    return distillation_loss(logits, other_logits.detach(), temperature=1.0, reduction=reduction)


class MutualLearningLoss(nn.Module):
    """`mutual_learning_loss` with its hyper-parameter stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("MutualLearningLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, other_logits: Tensor) -> Tensor:
        """Return the loss of `logits` and `other_logits` [B, C]."""
        return mutual_learning_loss(logits, other_logits, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameter as text."""
        return f"reduction={self.reduction!r}"

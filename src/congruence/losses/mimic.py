"""L2 mimic: the student's embedding is matched to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def mimic_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Squared Euclidean distance of paired embeddings: ℓ_b = ‖f_b^s − f_b^t‖²; "mean" is over the batch.

    Shape:
        `student` and `teacher` [B, D]; returns [], or [B] for `reduction="none"`.

    Args:
        student: embeddings, projected to the teacher's width if it differs.
        teacher: embeddings.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ or an unknown reduction.

    Example:
        >>> import torch
        >>> mimic_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)).item()
        12.5

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, eq. 2.

    Deviations:
        None. Unlike `torch.nn.functional.mse_loss` it sums over the feature entries.
    """
    check.floating("mimic_loss", 2, student=student, teacher=teacher)
    check.same_shape("mimic_loss", student=student, teacher=teacher)
    return reduce("mimic_loss", (student - teacher).square().sum(1), reduction)


class MimicLoss(nn.Module):
    """`mimic_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("MimicLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher` [B, D]."""
        return mimic_loss(student, teacher, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

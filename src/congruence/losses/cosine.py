"""Cosine: the direction of the student's embedding is matched to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def cosine_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """One minus the cosine of paired embeddings: ℓ_b = 1 − cos(s_b, t_b); "mean" is over the batch.

    Shape:
        `student` and `teacher` [B, D]; returns [], or [B] for `reduction="none"`.

    Args:
        student: embeddings, projected to the teacher's width if it differs.
        teacher: embeddings.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A row of zeros has cosine 0 to any row, with zero gradient.

    Raises:
        ValueError: for shapes that differ or an unknown reduction.

    Example:
        >>> import torch
        >>> cosine_loss(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[6.0, 8.0], [1.0, 0.0]])).item()
        0.5

    Reference:
        From the definition. Chen et al., Improved Feature Distillation via Projector Ensemble, NeurIPS 2022, use it for
        the mean of several projectors (weight 25); Zhang et al., Jasper and Stella, arXiv 2412.19048, for the full
        width of their embeddings (weight 10).

    Deviations:
        In the code of the projector ensemble, a row of zeros gives NaN. The loss is computed as ½ ‖s/‖s‖ − t/‖t‖‖²,
        which is equal but exactly 0 for equal rows, and keeps the digits that 1 − cos loses near 0.
    """
    check.floating("cosine_loss", 2, student=student, teacher=teacher)
    check.same_shape("cosine_loss", student=student, teacher=teacher)
    student, teacher = unit(student), unit(teacher)
    # For two rows of length 1, half the squared difference is 1 − cos; if one has length 0, a half is missing.
    missing = (student == 0).all(1).to(student.dtype) + (teacher == 0).all(1).to(student.dtype)
    return reduce("cosine_loss", ((student - teacher).square().sum(1) + missing) / 2, reduction)


class CosineLoss(nn.Module):
    """`cosine_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("CosineLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher` [B, D]."""
        return cosine_loss(student, teacher, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

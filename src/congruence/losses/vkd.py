"""Orthogonal projection: the student's features, mapped orthogonally, are matched to the teacher's normalised ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {"eps": check.POSITIVE, "reduction": REDUCTION}


@float32_island
def orthogonal_feature_loss(
    projected: Tensor, teacher: Tensor, *, eps: float = 1e-5, reduction: Reduction = "mean"
) -> Tensor:
    """Smooth L1 distance of the projected student embedding to the teacher's layer-normalised embedding.

    With t̂ = (t − mean_d t) / √(var_d t + ε), var with D in the denominator, and smooth L1 with beta 1:
    ℓ_b = mean_d smooth_l1(s_bd − t̂_bd); "mean" is over the batch.

    Shape:
        `projected` and `teacher` [B, D]; returns [], or [B] for `reduction="none"`.

    Args:
        projected: the mean of the student's tokens after a learned map to the teacher's width with orthonormal columns
            and no bias (`torch.nn.utils.parametrizations.orthogonal`).
        teacher: embeddings, pooled over positions.
        eps: ε > 0, added to the variance.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. It is 0 for a student equal to the normalised teacher.

    Raises:
        ValueError: for shapes that differ or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> round(orthogonal_feature_loss(torch.zeros(1, 2), torch.tensor([[1.0, 5.0]])).item(), 4)
        0.5

    Reference:
        Miles et al., VkD: Improving Knowledge Distillation using Orthogonal Projections, CVPR 2024, and the authors'
        code for classification, with weight 1, together with cross-entropy and KD (T = 1), each of weight 1.

    Deviations:
        None. The whitening of the teacher for generative tasks is not in the released code.
    """
    name = "orthogonal_feature_loss"
    check.floating(name, 2, projected=projected, teacher=teacher)
    check.same_shape(name, projected=projected, teacher=teacher)
    check.hyperparameters(name, CHECKS, eps=eps, reduction=reduction)
    target = F.layer_norm(teacher, teacher.shape[1:], eps=eps)
    return reduce(name, F.smooth_l1_loss(projected, target, reduction="none").mean(1), reduction)


class OrthogonalFeatureLoss(nn.Module):
    """`orthogonal_feature_loss` with its hyper-parameters stored."""

    def __init__(self, *, eps: float = 1e-5, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("OrthogonalFeatureLoss", CHECKS, eps=eps, reduction=reduction)
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(self, projected: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `projected` and `teacher` [B, D]."""
        return orthogonal_feature_loss(projected, teacher, eps=self.eps, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"eps={self.eps}, reduction={self.reduction!r}"

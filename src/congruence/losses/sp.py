"""Similarity preserving: the similarities between samples of a batch are matched."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, rescaled, unit

CHECKS: Mapping[str, check.Constraint] = {}


@float32_island
def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the batch's similarity matrices with rows scaled to length 1.

    With F the flattened features, G = F Fᵀ with each row divided by its L2 norm: L = (1/B²) ‖G_t − G_s‖²_F.

    Shape:
        `student` [B, D_s], [B, T_s, D_s], [B, C_s, H_s, W_s] or, for videos, [B, C_s, T_s, H_s, W_s]; `teacher` with
        the same number of dimensions and any sizes; returns [].

    Args:
        student: maps or embeddings.
        teacher: maps or embeddings.

    Returns:
        The loss, in float32 or float64. A sample of zeros has similarity 0 to all samples, with zero gradient.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> round(similarity_preserving_loss(torch.ones(2, 3), torch.eye(2)).item(), 4)
        0.2929

    Reference:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, sec. 3, as in the common benchmark.

    Deviations:
        None. One port divides the rows by their L1 norm.
    """
    # A video's positions can be treated as a list, since rows are flattened anyway.
    student, teacher = (each.flatten(3) if getattr(each, "ndim", 0) == 5 else each for each in (student, teacher))
    check.floating("similarity_preserving_loss", (2, 3, 4), student=student, teacher=teacher)
    check.same_rows("similarity_preserving_loss", student=student, teacher=teacher)
    loss = (_similarities(teacher) - _similarities(student)).square().mean()
    return loss.to(student.dtype)


def _similarities(features: Tensor) -> Tensor:
    # In float64: on tight clusters, rows differ only in the last digits.
    rows = as_float64(rescaled(features.flatten(1)))
    return unit(rows @ rows.T)


class SimilarityPreservingLoss(nn.Module):
    """`similarity_preserving_loss` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher`, each [B, ...]."""
        return similarity_preserving_loss(student, teacher)

"""Relational knowledge distillation: distances between samples, and angles of triples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry import tiles
from congruence.geometry.angles import angle_difference
from congruence.geometry.dissimilarity import euclidean

CHECKS: Mapping[str, check.Constraint] = {}
_LEAST_DISTANCE = 1e-6  # the square root of the authors' 1e-12


@float32_island
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 difference of the distances within a batch, each side divided by its mean distance.

    With d_ij = max(‖x_i − x_j‖, 1e-6) for i ≠ j, d_ii = 0, and μ the mean of the positive d:
    L = (1/B²) Σ_ij smooth_l1(d_ij^s/μ_s − d_ij^t/μ_t). The student's μ carries gradient.

    Above 4,096 rows the loss is computed in blocks of rows, value and gradient: no [B, B] matrix is in memory, and
    there is no second derivative.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.

    Returns:
        The loss, in float32 or float64; 0 for one sample. A distance clamped at 1e-6 has gradient 0.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
        >>> round(rkd_distance_loss(student, teacher).item(), 4)
        0.045

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, sec. 3.2.1, and the authors' code.

    Deviations:
        As in the authors' code, the mean is over all B² entries including the zeros of the diagonal, but μ excludes
        them. The authors expand the squares, which loses all digits in bfloat16 or far from the origin; here
        differences are computed directly.
    """
    check.floating("rkd_distance_loss", 2, student=student, teacher=teacher)
    check.same_rows("rkd_distance_loss", student=student, teacher=teacher)
    if tiles.is_large(student):
        return tiles.rkd_distance(student, teacher)
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


def _distances(x: Tensor) -> Tensor:
    batch = x.shape[0]
    same = torch.eye(batch, dtype=torch.bool, device=x.device)
    distances = euclidean(x).clamp(min=_LEAST_DISTANCE)
    distances = distances.masked_fill(same, 0) if batch > 1 else 0 * distances  # makes non-finite values show
    # All entries off the diagonal are positive. Divided before summing, so that large values do not overflow.
    mean = (distances / max(1, batch * (batch - 1))).sum()
    return distances / torch.where(mean > 0, mean, torch.ones_like(mean))


@float32_island
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of the angles of all triples: L = (1/B³) Σ_ijk smooth_l1(ψ_ijk^s − ψ_ijk^t), ψ_ijk = ⟨e_ij, e_ik⟩.

    e_ij = (x_j − x_i)/‖x_j − x_i‖, and 0 with zero gradient if x_i = x_j; triples with equal indices are included. Time
    is O(B²D + B³) and memory O(B² + BD) plus a tile, forward and backward: see `congruence.geometry.angle_difference`.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle_loss(teacher, 2 * teacher).item()
        0.0
        >>> round(rkd_angle_loss(torch.tensor([[0.0], [1.0], [2.0]]), teacher).item(), 4)
        0.1296

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, sec. 3.2.2, and the authors' code.

    Deviations:
        None in value. In the authors' code, equal rows have gradients of about 1e12 (one over the floor of the norm);
        here they are zero.
    """
    check.floating("rkd_angle_loss", 2, student=student, teacher=teacher)
    check.same_rows("rkd_angle_loss", student=student, teacher=teacher)
    return angle_difference(student, teacher)


class RkdDistanceLoss(nn.Module):
    """`rkd_distance_loss` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return rkd_distance_loss(student, teacher)


class RkdAngleLoss(nn.Module):
    """`rkd_angle_loss` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return rkd_angle_loss(student, teacher)

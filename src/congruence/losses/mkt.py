"""Metric knowledge transfer: the teacher's embeddings themselves, and its distances between samples."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, safe_norm
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.dissimilarity import euclidean

ABSOLUTE_CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}
RELATIVE_CHECKS: Mapping[str, check.Constraint] = {}


@float32_island
def metric_transfer_absolute_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Euclidean distance of paired embeddings, not squared: ℓ_b = ‖s_b − t_b‖; "mean" is over the batch.

    Shape:
        `student` and `teacher` [B, D]; returns [], or [B] for `reduction="none"`.

    Args:
        student: embeddings, projected to the teacher's width if it differs.
        teacher: embeddings.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64; its gradient is 0 for equal rows.

    Raises:
        ValueError: for shapes that differ or an unknown reduction.

    Example:
        >>> import torch
        >>> metric_transfer_absolute_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)).item()
        2.5

    Reference:
        Yu et al., Learning Metrics from Teachers: Compact Networks for Image Embedding, CVPR 2019, the absolute
        teacher.

    Deviations:
        The authors' code adds 1e-6 to every entry of the difference (torch's `pairwise_distance`).
    """
    check.floating("metric_transfer_absolute_loss", 2, student=student, teacher=teacher)
    check.same_shape("metric_transfer_absolute_loss", student=student, teacher=teacher)
    return reduce("metric_transfer_absolute_loss", safe_norm(student - teacher), reduction)


@float32_island
def metric_transfer_relative_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of the distances within a batch: L = ‖D_s − D_t‖_F, D_ij = ‖x_i − x_j‖, neither squared nor averaged.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.

    Returns:
        The loss, in float32 or float64; its gradient is 0 if both sides are equal, and with respect to distances of 0.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> round(metric_transfer_relative_loss(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [7.0]])).item(), 4)
        4.2426

    Reference:
        Yu et al., Learning Metrics from Teachers: Compact Networks for Image Embedding, CVPR 2019, the relative
        teacher, as in the authors' code.

    Deviations:
        The authors' code expands the squares, so its diagonal is rounding noise of about 1e-3 in float32; here it is 0.
    """
    check.floating("metric_transfer_relative_loss", 2, student=student, teacher=teacher)
    check.same_rows("metric_transfer_relative_loss", student=student, teacher=teacher)
    return safe_norm((euclidean(student) - euclidean(teacher)).flatten())


class MetricTransferAbsoluteLoss(nn.Module):
    """`metric_transfer_absolute_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("MetricTransferAbsoluteLoss", ABSOLUTE_CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher` [B, D]."""
        return metric_transfer_absolute_loss(student, teacher, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"


class MetricTransferRelativeLoss(nn.Module):
    """`metric_transfer_relative_loss` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return metric_transfer_relative_loss(student, teacher)

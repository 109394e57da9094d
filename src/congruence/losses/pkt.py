"""Probabilistic knowledge transfer: the student's neighbourhood distribution is matched to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm
from congruence.geometry import tiles

CHECKS: Mapping[str, check.Constraint] = {"eps": check.POSITIVE}


@float32_island
def pkt_loss(student: Tensor, teacher: Tensor, *, eps: float = 1e-7) -> Tensor:
    """KL divergence between the row-normalised cosine similarities of a batch.

    With rows x/(‖x‖ + ε), S = (cos + 1)/2 including the diagonal, and P equal to S with each row divided by its sum:  L
    = (1/B²) Σ_ij P_t,ij log((P_t,ij + ε) / (P_s,ij + ε)).

    Above 4,096 rows the loss is computed in blocks of rows, value and gradient: no [B, B] matrix is in memory, and
    there is no second derivative.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        eps: ε > 0.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit or `eps` <= 0.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> round(pkt_loss(torch.ones(2, 3), teacher).item(), 4)
        0.0283

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018, eqs. 3–6 and
        the authors' code.

    Deviations:
        The authors' code is followed, not the paper: the mean is over B² entries (a divergence for each row would be B
        times larger, hence the usual weight of 30000), and a sample's similarity to itself is included.
    """
    check.floating("pkt_loss", 2, student=student, teacher=teacher)
    check.same_rows("pkt_loss", student=student, teacher=teacher)
    check.hyperparameters("pkt_loss", CHECKS, eps=eps)
    if tiles.is_large(student):
        return tiles.pkt(student, teacher, eps=eps).to(student.dtype)
    student_rows, teacher_rows = _neighbours(student, eps), _neighbours(teacher, eps)
    loss = (teacher_rows * torch.log((teacher_rows + eps) / (student_rows + eps))).mean()
    return loss.to(student.dtype)


def _neighbours(x: Tensor, eps: float) -> Tensor:
    x = as_float64(x)
    rows = x / (safe_norm(x, keepdim=True) + eps)
    # Rounding can give a cosine below -1, and so a negative probability in the logarithm.
    similarities = ((rows @ rows.T + 1) / 2).clamp(min=0)
    return similarities / similarities.sum(1, keepdim=True)


class PktLoss(nn.Module):
    """`pkt_loss` with its hyper-parameters stored."""

    def __init__(self, *, eps: float = 1e-7) -> None:
        super().__init__()
        check.hyperparameters("PktLoss", CHECKS, eps=eps)
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return pkt_loss(student, teacher, eps=self.eps)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"eps={self.eps}"

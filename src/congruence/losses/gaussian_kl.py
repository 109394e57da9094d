"""Kullback-Leibler divergence between the Gaussians that fit the student's and the teacher's batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.gaussian import COVARIANCE, Covariance

Direction = Literal["student_teacher", "teacher_student"]
CHECKS: Mapping[str, check.Constraint] = {
    "covariance": COVARIANCE,
    "direction": check.Choice(("student_teacher", "teacher_student")),
    "shrinkage": check.Real(low=0, high=1, closed="both"),
}
_LEAST_VARIANCE = 1e-8
# Below this fraction of the trace, a Cholesky factor may not exist.
_LEAST_SHARE = 1e-12


@float32_island
def gaussian_kl_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    covariance: Covariance = "diagonal",
    direction: Direction = "student_teacher",
    shrinkage: float = 1e-3,
) -> Tensor:
    """KL divergence between two Gaussians with the batches' means and shrunk covariances (1/n).

    KL(p‖q) = ½ (tr(Σ_q⁻¹ Σ_p) + (μ_q − μ_p)ᵀ Σ_q⁻¹ (μ_q − μ_p) − D + log(det Σ_q / det Σ_p)), with
    Σ ← (1 − s)Σ + s·(tr Σ / D)·I on both sides, and variances of at least 1e-8.

    Shape:
        `student` [n, D], `teacher` [m, D], batch sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        covariance: "diagonal" (off-diagonal entries are 0) or "full".
        direction: "student_teacher" for KL(student‖teacher), "teacher_student" for KL(teacher‖student).
        shrinkage: s in [0, 1].

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[-1.0], [1.0]])
        >>> gaussian_kl_loss(teacher + 2, teacher).item()
        2.0
        >>> gaussian_kl_loss(teacher + 2, teacher, covariance="full").item()
        2.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 6.

    Deviations:
        The paper's diagonal form omits the ½ of its equation 6; it is kept here, so that "full" and "diagonal" agree
        for diagonal covariances. Shrinkage is our addition: a batch smaller than its width has a singular covariance,
        for which the divergence is not defined. "diagonal" clamps each variance at 1e-8; "full" adds at least 1e-8, or
        1e-12 of the trace, if s·tr Σ / D is smaller.
    """
    name = "gaussian_kl_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, covariance=covariance, direction=direction, shrinkage=shrinkage)
    first, second = as_float64(student), as_float64(teacher)
    if direction == "teacher_student":
        first, second = second, first
    gap = second.mean(0) - first.mean(0)
    divergence = _diagonal if covariance == "diagonal" else _full
    return (divergence(_centred(first), _centred(second), gap, shrinkage) / 2).to(student.dtype)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def _diagonal(first: Tensor, second: Tensor, gap: Tensor, shrinkage: float) -> Tensor:
    p, q = (x.square().mean(0) for x in (first, second))
    p, q = (((1 - shrinkage) * v + shrinkage * v.mean()).clamp(min=_LEAST_VARIANCE) for v in (p, q))
    ratio = p / q
    return (ratio - 1 - ratio.log() + gap.square() / q).sum()


def _full(first: Tensor, second: Tensor, gap: Tensor, shrinkage: float) -> Tensor:
    p, q = (_factor(x, shrinkage) for x in (first, second))
    ratio = torch.linalg.solve_triangular(q, p, upper=False)
    shift = torch.linalg.solve_triangular(q, gap[:, None], upper=False)
    logs = p.diagonal().log() - q.diagonal().log()
    return ratio.square().sum() - len(gap) + shift.square().sum() - 2 * logs.sum()


def _factor(centred: Tensor, shrinkage: float) -> Tensor:
    """Return the Cholesky factor of the shrunk covariance."""
    covariance = centred.T @ centred / centred.shape[0]
    trace = covariance.trace()
    least = (_LEAST_SHARE * trace.detach()).clamp(min=_LEAST_VARIANCE)
    ridge = torch.maximum(shrinkage * trace / centred.shape[1], least)
    identity = torch.eye(centred.shape[1], dtype=centred.dtype, device=centred.device)
    return torch.linalg.cholesky_ex((1 - shrinkage) * covariance + ridge * identity).L


class GaussianKlLoss(nn.Module):
    """`gaussian_kl_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        covariance: Covariance = "diagonal",
        direction: Direction = "student_teacher",
        shrinkage: float = 1e-3,
    ) -> None:
        super().__init__()
        check.hyperparameters("GaussianKlLoss", CHECKS, covariance=covariance, direction=direction, shrinkage=shrinkage)
        self.covariance: Covariance = covariance
        self.direction: Direction = direction
        self.shrinkage = shrinkage

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D]."""
        return gaussian_kl_loss(
            student, teacher, covariance=self.covariance, direction=self.direction, shrinkage=self.shrinkage
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"covariance={self.covariance!r}, direction={self.direction!r}, shrinkage={self.shrinkage}"

"""Wasserstein distance between the Gaussians that fit the student's and the teacher's batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.gaussian import COVARIANCE, Covariance, gaussian_wasserstein

CHECKS: Mapping[str, check.Constraint] = {"covariance": COVARIANCE}


@float32_island
def gaussian_wasserstein_loss(student: Tensor, teacher: Tensor, *, covariance: Covariance = "full") -> Tensor:
    """Squared 2-Wasserstein distance between two Gaussians with the batches' means and covariances (1/n).

    L = ‖μ_s − μ_t‖² + tr Σ_s + tr Σ_t − 2‖X_s X_tᵀ‖_* / √(n m), each batch centred by its own mean and ‖·‖_* the
    nuclear norm (the Bures distance of the covariances); for "diagonal" ‖μ_s − μ_t‖² + ‖σ_s − σ_t‖².

    Shape:
        `student` [n, D], `teacher` [m, D], batch sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        covariance: "full" or "diagonal".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, or an unknown covariance.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> gaussian_wasserstein_loss(2 * teacher + 1, teacher).item()  # 2 from the means, 1 from the deviations
        3.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 5.

    Deviations:
        None in value. The paper's matrix square roots have no gradient for the singular covariances of a batch smaller
        than its width; the nuclear norm has the same value and a finite gradient, 0 for identical batches.
    """
    name = "gaussian_wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, covariance=covariance)
    return gaussian_wasserstein(student, teacher, covariance=covariance)


class GaussianWassersteinLoss(nn.Module):
    """`gaussian_wasserstein_loss` with its hyper-parameters stored."""

    def __init__(self, *, covariance: Covariance = "full") -> None:
        super().__init__()
        check.hyperparameters("GaussianWassersteinLoss", CHECKS, covariance=covariance)
        self.covariance: Covariance = covariance

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D]."""
        return gaussian_wasserstein_loss(student, teacher, covariance=self.covariance)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"covariance={self.covariance!r}"

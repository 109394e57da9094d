"""A projector ensemble: the mean of several trained maps, aligned with the teacher's direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.cosine import CosineLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected
from congruence.models.projectors import linear_projector

CHECKS = {"projectors": check.COUNT}


class ProjectorEnsemble(Projected):
    """`cosine_loss` of the teacher's embedding and the mean of Q trained maps of the student's.

    L = Σ_layers (1/B) Σ_b [1 − cos(f_b, t_b)] with f = (1/Q) Σ_q ReLU(W_q s + b_q).

    Shape:
        features [B, D] of any widths; a loss of shape [].

    Args:
        projectors: Q; they stay different because they start differently.

    Raises:
        ValueError: for a hyper-parameter out of its range.

    Example:
        >>> ProjectorEnsemble(projectors=2).needs.scope
        'sample'

    Reference:
        Chen et al., Improved Feature Distillation via Projector Ensemble, NeurIPS 2022, and the authors' code, with
        Q = 3 and the weight 25.

    Deviations:
        A row whose ReLUs are all 0 has cosine 0; the code gives NaN.
    """

    needs = Needs(scope="sample")

    def __init__(self, *, projectors: int = 3) -> None:
        super().__init__(CosineLoss())
        check.hyperparameters("ProjectorEnsemble", CHECKS, projectors=projectors)
        self.count = projectors

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return the mean of the maps."""
        return _MeanOf(linear_projector(student[1], teacher[1]) for _ in range(self.count))


class _MeanOf(nn.ModuleList):
    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([part(rows).relu() for part in self]).mean(0)

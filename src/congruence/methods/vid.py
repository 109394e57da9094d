"""Variational information distillation: regressors of the teacher's layers, and trained variances."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.vid import CHECKS as LOSS_CHECKS
from congruence.losses.vid import VariationalLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.paired import paired_maps, paired_shapes

CHECKS: Mapping[str, check.Constraint] = {**LOSS_CHECKS, "variance": check.POSITIVE}


class Variational(Method):
    """`variational_loss`, summed over pairs of layers, each with a regressor and a variance for each channel.

    μ = conv1×1(ReLU(conv1×1(ReLU(conv1×1(s))))) without biases, as many hidden channels as the teacher has; the larger
    of two maps is average-pooled first. Rows [B, C] are maps of one position.

    Shape:
        maps [B, C, H, W] of any widths; a loss of shape [].

    Args:
        variance: initial variance of every channel, larger than `eps`.
        eps: see the loss.

    Raises:
        ValueError: for a hyper-parameter out of its range.

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, sec. 3, and the benchmark of
        Tian et al. 2020, which gives the regressor its three layers and the variance its 5.
    """

    needs = Needs(roles=("maps",), stages=4, scope="sample")

    def __init__(self, *, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        check.hyperparameters("Variational", CHECKS, variance=variance, eps=eps)
        if variance <= eps:
            check.fail("Variational", "variance", f"larger than `eps` ({eps})", variance)
        self.variance = variance
        self.criterion = VariationalLoss(eps=eps)
        self.regressors = nn.ModuleList()
        self.raw_variances = nn.ParameterList()

    def build(self, probe: Probe) -> None:
        """Make a regressor and variances for each pair of layers."""
        start = self.variance - self.criterion.eps
        raw = start + math.log(-math.expm1(-start))  # its softplus is `start`
        self.regressors, self.raw_variances = nn.ModuleList(), nn.ParameterList()
        for student, teacher in paired_shapes(probe):
            self.regressors.append(_regressor(student[1], teacher[1]))
            self.raw_variances.append(nn.Parameter(torch.full((teacher[1],), raw)))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the sum over the layers."""
        layers = zip(paired_maps(signals), self.regressors, self.raw_variances, strict=True)
        values = [self.criterion(part(student), teacher, raw) for (student, teacher), part, raw in layers]
        return {"loss": torch.stack(values).sum()}


def _regressor(in_width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_width, out_width, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(out_width, out_width, 1, bias=False),
    )

"""The simple recipe: a trained linear map, batch normalisation of both sides, and the logarithm of a distance."""

from __future__ import annotations

import torch
from torch import nn

from congruence.losses.srd import Form, LogPowerLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected
from congruence.models.projectors import linear_projector


class SimpleRecipe(Projected):
    """`log_power_loss` of the teacher's embedding and a trained linear map of the student's, with bias.

    L = Σ_layers log(Σ_bd |ŝ_bd − t̂_bd|^p + φ), ŝ of W s + b and t̂ normalised over the batch; with `form="correlation"`
    log(Σ_d |c_d − 1|^p + φ), c_d the mean over the batch of ŝ_bd t̂_bd.

    Shape:
        features [B, D] of any widths; a loss of shape [].

    Args:
        power: p >= 1.
        eps: ε > 0, beside the variance.
        form: "difference" or "correlation".
        floor: φ >= 0.

    Raises:
        ValueError: for a hyper-parameter out of its range.

    Example:
        >>> SimpleRecipe(form="correlation").needs.roles
        ('features',)

    Reference:
        Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, AAAI 2024, and the
        authors' code, which weighs it 2 on ImageNet, beside KD at T = 1.

    Deviations:
        Those of `log_power_loss`.
    """

    needs = Needs()

    def __init__(
        self, *, power: float = 4.0, eps: float = 1e-4, form: Form = "difference", floor: float = 1e-5
    ) -> None:
        super().__init__(LogPowerLoss(power=power, eps=eps, form=form, floor=floor))

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return a linear map, whatever the widths."""
        return linear_projector(student[1], teacher[1])

"""Variational information distillation: the likelihood of the teacher's layer, given the student's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import softplus

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.maps import pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"eps": check.POSITIVE}


@float32_island
def variational_loss(mean: Tensor, teacher: Tensor, raw_variance: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Negative log-likelihood of the teacher's values under a Gaussian, without its constant.

    With var_c = softplus(a_c) + ε of channel c: L = mean over all elements of ½((μ − t)²/var_c + log var_c).

    Shape:
        `mean` and `teacher` [B, C, H, W] or [B, C], the larger of two maps average-pooled first; `raw_variance` [C];
        returns [].

    Args:
        mean: μ, a regressor's output for the student's layer.
        teacher: t, the teacher's layer.
        raw_variance: a, a trained parameter.
        eps: ε > 0.

    Returns:
        The loss, in float32 or float64; it may be negative, and is not 0 for μ = t.

    Raises:
        ValueError: for shapes that do not fit or `eps` <= 0.

    Example:
        >>> import torch
        >>> round(variational_loss(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(3)).item(), 4)
        0.5381

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019, eqs. 5 and 6.

    Deviations:
        The constant ½ log 2π is omitted, as in the usual code. The log(1 + e^a) of that code overflows in float32 from
        a = 89; another port does not train the variances.
    """
    name = "variational_loss"
    check.floating(name, (2, 4), mean=mean, teacher=teacher)
    check.floating(name, 1, raw_variance=raw_variance)
    check.hyperparameters(name, CHECKS, eps=eps)
    if mean.dim() == teacher.dim() == 4 and mean.shape[:2] == teacher.shape[:2]:
        mean, teacher = pooled_alike(mean, teacher)
    check.same_shape(name, mean=mean, teacher=teacher)
    check.same_device(name, mean=mean, raw_variance=raw_variance)
    if len(raw_variance) != mean.shape[1]:
        check.fail(name, "raw_variance", f"of shape [{mean.shape[1]}], one for each channel", check.shape(raw_variance))
    variance = (softplus(raw_variance) + eps).view(1, -1, *[1] * (mean.dim() - 2))
    return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()


class VariationalLoss(nn.Module):
    """`variational_loss` with its hyper-parameters stored."""

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__()
        check.hyperparameters("VariationalLoss", CHECKS, eps=eps)
        self.eps = eps

    def forward(self, mean: Tensor, teacher: Tensor, raw_variance: Tensor) -> Tensor:
        """Return the loss of `mean` and `teacher` [B, C, H, W] or [B, C] and `raw_variance` [C]."""
        return variational_loss(mean, teacher, raw_variance, eps=self.eps)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"eps={self.eps}"

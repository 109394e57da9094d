"""Logit standardisation: each row of logits has mean 0 and deviation 1, so that no shared temperature is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, safe_norm
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.losses.kd import divergence

__all__ = ["StandardizedDistillationLoss", "standardize_logits", "standardized_distillation_loss"]

STANDARDIZE_CHECKS: Mapping[str, check.Constraint] = {"eps": check.POSITIVE}
CHECKS: Mapping[str, check.Constraint] = {
    "temperature": check.POSITIVE,
    "eps": check.POSITIVE,
    "reduction": REDUCTION,
}
_LARGE = 1e30


@float32_island
def standardize_logits(logits: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Logits minus their mean over the classes, divided by their standard deviation.

    z'_c = (z_c − m) / (ε + σ), m the mean of a row and σ its standard deviation with C − 1 in the denominator.

    Shape:
        `logits` [B, C]; returns [B, C].

    Args:
        logits: logits of student or teacher.
        eps: ε > 0.

    Returns:
        The standardised logits, in float32 or float64. A row that is constant up to rounding becomes 0 with zero
        gradient.

    Raises:
        ValueError: for another shape, a single class, or `eps` <= 0.

    Example:
        >>> import torch
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])).round(decimals=4).tolist()
        [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, and the authors' code.

    Deviations:
        In the released code, a constant row has a gradient of the order of 1/ε, about 1e6.
    """
    check.floating("standardize_logits", 2, logits=logits)
    check.several_classes("standardize_logits", logits=logits)
    check.hyperparameters("standardize_logits", STANDARDIZE_CHECKS, eps=eps)
    return _standardized(logits, eps)


def _standardized(logits: Tensor, eps: float) -> Tensor:
    # The mean of equal numbers may be off by rounding, which dividing by the deviation would scale up to 1.
    low, high = logits.detach().aminmax(dim=1, keepdim=True)
    size = torch.maximum(low.abs(), high.abs())
    constant = (high - low <= 4 * torch.finfo(logits.dtype).eps * size) & size.isfinite()
    # The sum of a row near the limit of its dtype overflows; such a row is first divided by its largest magnitude.
    scale = torch.where((size > _LARGE) & size.isfinite() & ~constant, size, torch.ones_like(size))
    logits = logits / scale
    centred = (logits - logits.mean(1, keepdim=True)).masked_fill(constant, 0)
    deviation = safe_norm(centred, 1, keepdim=True) / math.sqrt(logits.shape[1] - 1)
    return centred / (eps / scale + deviation)


@float32_island
def standardized_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    eps: float = 1e-7,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence of softened outputs, computed from standardised logits.

    With z' the logits of `standardize_logits`: ℓ_b = T² · KL(softmax(z'_t,b / T) ‖ softmax(z'_s,b / T)); "mean" is over
    the batch. A cross-entropy used with it still uses the raw logits.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        temperature: T > 0.
        eps: ε > 0, added to the standard deviation.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A constant row has zero gradient.

    Raises:
        ValueError: for shapes that differ, a single class, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0]])
        >>> round(standardized_distillation_loss(5 * teacher + 2, teacher).item(), 6)
        0.0
        >>> round(standardized_distillation_loss(-teacher, teacher).item(), 4)
        1.3416

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, and the authors' code, with the weight 9
        and a cross-entropy of 0.1. To standardise DKD, pass it the logits of `standardize_logits`.

    Deviations:
        As in the released code, the variance divides by C − 1, not C. A constant row, whose gradient in that code is of
        the order of 1/ε, has zero gradient here.
    """
    name = "standardized_distillation_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.hyperparameters(name, CHECKS, temperature=temperature, eps=eps, reduction=reduction)
    student, teacher = (_standardized(z, eps) / temperature for z in (student_logits, teacher_logits))
    return reduce(name, temperature**2 * divergence(student, teacher), reduction)


class StandardizedDistillationLoss(nn.Module):
    """`standardized_distillation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 2.0, eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__()
        hyperparameters = {"temperature": temperature, "eps": eps, "reduction": reduction}
        check.hyperparameters("StandardizedDistillationLoss", CHECKS, **hyperparameters)
        self.temperature = temperature
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return standardized_distillation_loss(
            student_logits, teacher_logits, temperature=self.temperature, eps=self.eps, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}, eps={self.eps}, reduction={self.reduction!r}"

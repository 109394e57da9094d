"""The feature distillation overhaul: the teacher's values above its ReLU, and a margin for those below."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import pooled_alike

__all__ = ["OverhaulLoss", "batch_norm_margin", "overhaul_loss"]

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}
_RARE = 0.001  # fraction of negative values below which the margin is −3s


def batch_norm_margin(weight: Tensor, bias: Tensor) -> Tensor:
    """Margin of each channel before a ReLU: the mean of the negative values that a batch norm gives.

    With s = |γ|, b = β, φ and Φ the density and distribution function of N(0, 1):
    m = −s·φ(b/s)/Φ(−b/s) + b where Φ(−b/s) > 0.001, else m = −3s. For s = 0 it is the limit, min(b, 0).

    Shape:
        `weight` and `bias` [C]; returns [C], without gradient.

    Args:
        weight: γ of the batch norm.
        bias: β of the batch norm.

    Returns:
        The margins, in float32 or float64, none above 0.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> batch_norm_margin(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0.0, 0.0, 9.0]))
        tensor([-0.7979, -0.7979, -3.0000])

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, sec. 3.2, and the authors' code.
    """
    check.floating("batch_norm_margin", 1, weight=weight, bias=bias)
    check.same_shape("batch_norm_margin", weight=weight, bias=bias)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    spread, shift = as_float64(weight.detach()).abs(), as_float64(bias.detach())
    some = spread > 0
    ratio = shift / torch.where(some, spread, 1.0)
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    margin = torch.where(share > _RARE, shift - spread * density / share.clamp(min=_RARE), -3 * spread)
    return torch.where(some, margin, shift.clamp(max=0)).to(dtype)


@float32_island
def overhaul_loss(student_map: Tensor, teacher_map: Tensor, margin: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    """Partial squared difference to the teacher's values, clipped below at a margin.

    With t' = max(t, m_c): ℓ_b = Σ_chw (s − t')² · [s > t' or t' > 0]. If t' is not positive, the student may be any
    amount below it.

    Shape:
        `student_map` and `teacher_map` [B, C, H, W], the larger average-pooled first; `margin` [C]; returns [], or [B]
        for `reduction="none"`.

    Args:
        student_map: the student's map before a ReLU, with as many channels as the teacher's.
        teacher_map: the teacher's map before its ReLU.
        margin: m, a constant (see `batch_norm_margin`).
        reduction: "none", "mean" (over the batch) or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit or an unknown reduction.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([2.0, -3.0, -3.0]).view(1, 1, 1, 3)
        >>> student = torch.tensor([1.0, -9.0, 0.0]).view(1, 1, 1, 3)
        >>> overhaul_loss(student, teacher, torch.tensor([-1.0])).item()
        2.0

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, eqs. 2 and 3.

    Deviations:
        The authors' code compares only equal sizes; one port always pools the teacher's map.
    """
    name = "overhaul_loss"
    check.floating(name, 4, student_map=student_map, teacher_map=teacher_map)
    check.floating(name, 1, margin=margin)
    check.hyperparameters(name, CHECKS, reduction=reduction)
    if student_map.shape[:2] == teacher_map.shape[:2]:
        student_map, teacher_map = pooled_alike(student_map, teacher_map)
    check.same_shape(name, student_map=student_map, teacher_map=teacher_map)
    check.same_device(name, student_map=student_map, margin=margin)
    if len(margin) != student_map.shape[1]:
        check.fail(name, "margin", f"of shape [{student_map.shape[1]}], one for each channel", check.shape(margin))
    least = margin.detach().to(teacher_map.dtype).view(1, -1, 1, 1)
    # Adding 0 times the teacher makes non-finite values show, even below the margin.
    wanted = torch.maximum(teacher_map, torch.add(least, teacher_map, alpha=0))
    # Formulated so that NaN, and a student at -inf, count. Otherwise the difference is set to 0, not multiplied by 0:
    # an infinite square would give NaN.
    counted = ~((student_map <= wanted) & (wanted <= 0) & (student_map > -torch.inf))
    values = torch.where(counted, student_map - wanted, 0.0).square()
    return reduce(name, values.sum((1, 2, 3)), reduction)


class OverhaulLoss(nn.Module):
    """`overhaul_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "sum") -> None:
        super().__init__()
        check.hyperparameters("OverhaulLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor, margin: Tensor) -> Tensor:
        """Return the loss of `student_map` and `teacher_map` [B, C, H, W] and `margin` [C]."""
        return overhaul_loss(student_map, teacher_map, margin, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

"""A simple recipe: batch-normalise both sides, and use the logarithm of the distance, which damps easy samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island

Form = Literal["difference", "correlation"]

CHECKS: Mapping[str, check.Constraint] = {
    "power": check.Real(low=1, closed="low"),
    "eps": check.POSITIVE,
    "form": check.Choice(("difference", "correlation")),
    "floor": check.NOT_NEGATIVE,
}
_SMALLEST = 1e-30  # smallest sum: at a power of 4, differences below it vanish in float32


@float32_island
def log_power_loss(
    projected: Tensor,
    teacher: Tensor,
    *,
    power: float = 4.0,
    eps: float = 1e-4,
    form: Form = "difference",
    floor: float = 1e-5,
) -> Tensor:
    """Logarithm of a power of the distance between features normalised over the batch.

    With f̂ = (f − mean_b f) / √(var_b f + ε), var with B in the denominator:
    "difference": L = log(Σ_bd |ŝ_bd − t̂_bd|^p + φ);
    "correlation": L = log(Σ_d |c_d − 1|^p + φ) with c_d = (1/B) Σ_b ŝ_bd t̂_bd.

    Shape:
        `projected` and `teacher` [B, D]; returns [].

    Args:
        projected: the student's embeddings after a learned linear map to the teacher's width.
        teacher: embeddings.
        power: p >= 1.
        eps: ε > 0, added to the variance.
        form: "difference", which the authors use on ImageNet, or "correlation", used for DeiT with an ε near 0.
        floor: φ >= 0, added to the sum to limit the logarithm; 0 for none.

    Returns:
        The loss, in float32 or float64. For equal sides, "difference" gives log φ, not 0. Without a floor, a sum below
        1e-30 counts as 1e-30, without gradient. A feature that is constant over the batch becomes 0, as do all features
        for a batch of one.

    Raises:
        ValueError: for shapes that differ or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0], [-1.0]])
        >>> round(log_power_loss(-teacher, teacher).item(), 4)  # log(2 · 2⁴)
        3.4655
        >>> round(log_power_loss(-teacher, teacher, form="correlation").item(), 4)  # log(2⁴)
        2.7724

    Reference:
        Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, AAAI 2024, and the
        authors' code, with the weight 2 on ImageNet, together with KD at T = 1.

    Deviations:
        The released code for ImageNet has no floor (φ = 0), which gives −∞ for a student equal to the teacher. The code
        for DeiT has ε = 0, which gives NaN for a constant feature. The sum is not divided by B·D, which only shifts the
        value.
    """
    name = "log_power_loss"
    check.floating(name, 2, projected=projected, teacher=teacher)
    check.same_shape(name, projected=projected, teacher=teacher)
    check.hyperparameters(name, CHECKS, power=power, eps=eps, form=form, floor=floor)
    dtype = torch.promote_types(projected.dtype, teacher.dtype)
    # In float64: a constant feature minus its mean is 0, not a rounding error that ε would not suppress.
    student, target = (_normalized(as_float64(x), eps) for x in (projected, teacher))
    apart = student - target if form == "difference" else (student * target).mean(0) - 1
    total = apart.abs().pow(power).sum() + floor
    return total.clamp(min=_SMALLEST).log().to(dtype)


def _normalized(x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(0)
    return x / (x.square().mean(0) + eps).sqrt()


class LogPowerLoss(nn.Module):
    """`log_power_loss` with its hyper-parameters stored."""

    def __init__(
        self, *, power: float = 4.0, eps: float = 1e-4, form: Form = "difference", floor: float = 1e-5
    ) -> None:
        super().__init__()
        check.hyperparameters("LogPowerLoss", CHECKS, power=power, eps=eps, form=form, floor=floor)
        self.power = power
        self.eps = eps
        self.form: Form = form
        self.floor = floor

    def forward(self, projected: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `projected` and `teacher` [B, D]."""
        return log_power_loss(projected, teacher, power=self.power, eps=self.eps, form=self.form, floor=self.floor)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"power={self.power}, eps={self.eps}, form={self.form!r}, floor={self.floor}"

"""FSP: how the features change from one layer to the next (the flow of solution procedure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import check_lists, pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}
# From this ratio of flow matrix entries to pairs of positions on, products over positions are faster.
_MANY = 32


@float32_island
def fsp_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, reduction: Reduction = "mean"
) -> Tensor:
    """Squared difference of the flow matrices of consecutive layers.

    With G_i = (1/HW) Σ_hw f_i(h, w) f_{i+1}(h, w)ᵀ for each sample, the larger of the two maps average-pooled first:
    ℓ_b = Σ_i (1/(C_i C_{i+1})) Σ_cc' (G_i^s − G_i^t)²; "mean" is over the batch.

    Shape:
        `student_maps` and `teacher_maps`: two or more maps [B, C_i, H_i, W_i], shallow to deep; layer by layer the
        channels of both sides are equal, the sizes of all may differ; returns [], or [B] for `reduction="none"`.

    Args:
        student_maps: maps of the student.
        teacher_maps: maps of the teacher, equally many.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for fewer than two maps, shapes that do not fit, or an unknown reduction.

    Example:
        >>> import torch
        >>> teacher = [torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2)]
        >>> fsp_loss([2 * teacher[0], teacher[1]], teacher).item()
        1.0

    Reference:
        Yim et al., A Gift from Knowledge Distillation, CVPR 2017, eqs. 1 and 2.

    Deviations:
        The paper sums over the entries of G and pools by maximum; the common benchmark, followed here, averages both.
        Some ports divide by the number of pairs, or use unsquared column norms.
    """
    name = "fsp_loss"
    check_lists(name, student_maps, teacher_maps, least=2)
    layers = zip(pairwise(student_maps), pairwise(teacher_maps), strict=True)
    values = [_apart(*_rows(*student), *_rows(*teacher)) for student, teacher in layers]
    return reduce(name, torch.stack(values).sum(0), reduction)


def _rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (maps.flatten(2) for maps in pooled_alike(first, second))
    return first / first.shape[2], second


def _apart(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Mean square of A Bᵀ − C Dᵀ of each sample, A and C [B, C_i, HW], B and D [B, C_{i+1}, HW]."""
    channels, positions = a.shape[1] * b.shape[1], max(a.shape[2], c.shape[2])
    if _MANY * positions**2 > channels or a.shape[2] != c.shape[2]:
        return (a @ b.mT - c @ d.mT).square().mean((1, 2))
    # A Bᵀ − C Dᵀ = [A − C, C] [B, B − D]ᵀ = X Yᵀ, and ‖X Yᵀ‖² = ⟨Xᵀ X, Yᵀ Y⟩: the cost is quadratic in positions
    # instead of channels. Entries of both signs cancel, hence float64.
    dtype = a.dtype
    a, b, c, d = (as_float64(rows) for rows in (a, b, c, d))
    x, y = torch.cat([a - c, c], 2), torch.cat([b, b - d], 2)
    return (((x.mT @ x) * (y.mT @ y)).sum((1, 2)).clamp(min=0) / channels).to(dtype)


class FspLoss(nn.Module):
    """`fsp_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("FspLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss of two or more maps [B, C_i, H_i, W_i] of each side."""
        return fsp_loss(student_maps, teacher_maps, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

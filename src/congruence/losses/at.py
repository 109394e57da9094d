"""Attention transfer: the spatial pattern of the networks' activity."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, rescaled, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import check_maps, pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def attention_transfer_loss(student_map: Tensor, teacher_map: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Mean squared difference of normalised attention maps.

    With Q_b = the flattened mean over channels of f_b², divided by its L2 norm:
    ℓ_b = (1/HW) Σ_hw (Q_b^s − Q_b^t)²; "mean" is over the batch.

    Shape:
        `student_map` [B, C_s, H_s, W_s], `teacher_map` [B, C_t, H_t, W_t]: channels may differ, and the larger map is
        average-pooled to the smaller's size first (videos [B, C, T, H, W] likewise); returns [], or [B] for
        `reduction="none"`.

    Args:
        student_map: feature map, signed or not.
        teacher_map: feature map.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A map of zeros has attention 0 everywhere, with zero gradient.

    Raises:
        ValueError: for shapes that do not fit or an unknown reduction.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 3, 1, 2)
        >>> student[..., 0], teacher[..., 1] = 5.0, 1.0
        >>> attention_transfer_loss(student, teacher).item()
        1.0

    Reference:
        Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2 with p = 2, as in the authors'
        code.

    Deviations:
        The paper's equation has the unsquared L2 norm of the difference, with β/2. The authors' code, followed here,
        has the mean of squares, hence the usual weight of 1000. One port adds 1e-6 to the norm; another pools Q instead
        of f.
    """
    name = "attention_transfer_loss"
    check_maps(name, student_map=student_map, teacher_map=teacher_map)
    check.same_rows(name, student_map=student_map, teacher_map=teacher_map)
    student, teacher = (_attention(maps) for maps in pooled_alike(student_map, teacher_map))
    return reduce(name, (student - teacher).square().mean(1), reduction)


def _attention(maps: Tensor) -> Tensor:
    return unit(rescaled(maps, tuple(range(1, maps.dim()))).square().mean(1).flatten(1))


class AttentionTransferLoss(nn.Module):
    """`attention_transfer_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("AttentionTransferLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` [B, C_s, H_s, W_s] and `teacher_map` [B, C_t, H_t, W_t]."""
        return attention_transfer_loss(student_map, teacher_map, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

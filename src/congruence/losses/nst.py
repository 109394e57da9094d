"""Neuron selectivity transfer: the distribution of the channels' spatial patterns, by maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import check_maps, pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def neuron_selectivity_loss(student_map: Tensor, teacher_map: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Squared maximum mean discrepancy of the channels' normalised patterns, with the kernel k(a, b) = (a·b)².

    With a channel's map over the H·W positions divided by its L2 norm, and means over all pairs of channels:
    ℓ_b = mean k(t, t) + mean k(s, s) − 2 mean k(s, t); "mean" is over the batch.

    Shape:
        `student_map` [B, C_s, H_s, W_s], `teacher_map` [B, C_t, H_t, W_t]: channels may differ, and the larger map is
        average-pooled to the smaller's size first (videos [B, C, T, H, W] likewise); returns [], or [B] for
        `reduction="none"`.

    Args:
        student_map: feature map.
        teacher_map: feature map.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A channel of zeros stays zero, with zero gradient.

    Raises:
        ValueError: for shapes that do not fit or an unknown reduction.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 3, 1, 2)
        >>> student[..., 0], teacher[..., 1] = 5.0, 1.0
        >>> neuron_selectivity_loss(student, teacher).item()
        2.0

    Reference:
        Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, with the
        polynomial kernel d = 2, c = 0.

    Deviations:
        None. The authors' code leaves out the teacher's term: the value may then be negative, but the student's
        gradient is the same. Here, nearly equal float32 maps may give about −1e-8.
    """
    name = "neuron_selectivity_loss"
    check_maps(name, student_map=student_map, teacher_map=teacher_map)
    check.same_rows(name, student_map=student_map, teacher_map=teacher_map)
    dtype = torch.promote_types(student_map.dtype, teacher_map.dtype)
    maps = pooled_alike(student_map.to(dtype), teacher_map.to(dtype))
    student, teacher = (unit(each.flatten(2)) for each in maps)
    channels, positions = max(student.shape[1], teacher.shape[1]), student.shape[2]
    if positions <= channels:
        # mean k(a, b) = ⟨mean a aᵀ, mean b bᵀ⟩: the same value, never negative, without pairs of channels.
        values = (_moment(student) - _moment(teacher)).square().sum((1, 2))
    else:
        values = _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)
    return reduce(name, values, reduction)


def _moment(channels: Tensor) -> Tensor:
    return channels.transpose(1, 2) @ channels / channels.shape[1]


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.transpose(1, 2)).square().mean((1, 2))


class NeuronSelectivityLoss(nn.Module):
    """`neuron_selectivity_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("NeuronSelectivityLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` [B, C_s, H_s, W_s] and `teacher_map` [B, C_t, H_t, W_t]."""
        return neuron_selectivity_loss(student_map, teacher_map, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

"""Inter-channel correlation: the correlations between the channels of a map."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, rescaled, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import check_maps, pooled_alike

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def inter_channel_correlation_loss(
    student_map: Tensor, teacher_map: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Squared difference of the channels' Gram matrices with rows scaled to length 1.

    With F a sample's map [C, H·W], G = F Fᵀ and Ĝ its rows divided by their L2 norms: ℓ_b = (1/C) Σ_ij (Ĝ_s − Ĝ_t)_ij²;
    "mean" is over the batch.

    Shape:
        `student_map` and `teacher_map` [B, C, H, W], the larger one average-pooled first (videos [B, C, T, H, W]
        likewise); returns [], or [B] for `reduction="none"`.

    Args:
        student_map: feature map, projected to the teacher's channels, usually by a learned 1×1 convolution with batch
            norm.
        teacher_map: feature map.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A channel of zeros has a row of zeros.

    Raises:
        ValueError: for shapes that do not fit or an unknown reduction.

    Example:
        >>> import torch
        >>> apart = torch.eye(2).reshape(1, 2, 1, 2)  # two channels that are active at different positions
        >>> inter_channel_correlation_loss(3 * apart.flip(3), apart).item()
        0.0
        >>> round(inter_channel_correlation_loss(torch.ones(1, 2, 1, 2), apart).item(), 4)
        0.5858

    Reference:
        Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation, ICCV 2021, and
        the authors' code for CIFAR-100, with the weight 2.5.

    Deviations:
        The authors' code for ImageNet divides by the batch size a second time. The released code replaces a norm below
        1e-12 by 1e-12.
    """
    name = "inter_channel_correlation_loss"
    check_maps(name, student_map=student_map, teacher_map=teacher_map)
    if student_map.shape[:2] == teacher_map.shape[:2]:
        student_map, teacher_map = pooled_alike(student_map, teacher_map)
    check.same_shape(name, student_map=student_map, teacher_map=teacher_map)
    student, teacher = (_correlations(x.flatten(2)) for x in (student_map, teacher_map))
    return reduce(name, (student - teacher).square().sum((1, 2)) / student.shape[1], reduction)


def _correlations(channels: Tensor) -> Tensor:
    # the scale cancels, and products of very small or large numbers would underflow or overflow
    channels = rescaled(channels, (1, 2))
    return unit(channels @ channels.mT)


class InterChannelCorrelationLoss(nn.Module):
    """`inter_channel_correlation_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("InterChannelCorrelationLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` and `teacher_map` [B, C, H, W]."""
        return inter_channel_correlation_loss(student_map, teacher_map, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

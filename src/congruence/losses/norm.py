"""N-to-one matching: N groups of the student's widened channels each match the teacher's map."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def n_to_one_loss(student_map: Tensor, teacher_map: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Sum of the mean squared differences of N groups of the student's channels to the teacher's map.

    With f_g the g-th group of C of the student's N · C channels: ℓ_b = Σ_g mean over C, H and W of (f_g − t)²; "mean"
    is over the batch.

    Shape:
        `student_map` [B, N·C, H_s, W_s], `teacher_map` [B, C, H_t, W_t]; a height or width that is a multiple of the
        other map's is max-pooled to it; returns [], or [B] for `reduction="none"`.

    Args:
        student_map: feature map, expanded by a learned 1×1 convolution with batch norm.
        teacher_map: feature map.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, channels, heights or widths that are not multiples, or an unknown
            reduction.

    Example:
        >>> import torch
        >>> teacher = torch.zeros(1, 1, 2, 2)
        >>> n_to_one_loss(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2), teacher).item()
        14.0

    Reference:
        Liu et al., NORM: Knowledge Distillation via N-to-One Representation Matching, ICLR 2023, and the authors' code,
        with N = 8 on CIFAR-100.

    Deviations:
        None. The code pools the larger map: the teacher's on CIFAR and the student's on ImageNet. It also passes all
        logits through a layer norm, times 2.5, before any loss and in evaluation, which is not included here.
    """
    name = "n_to_one_loss"
    check.floating(name, 4, student_map=student_map, teacher_map=teacher_map)
    check.same_rows(name, student_map=student_map, teacher_map=teacher_map)
    channels = teacher_map.shape[1]
    shapes = f"`student_map` {check.shape(student_map)}, `teacher_map` {check.shape(teacher_map)}"
    if student_map.shape[1] % channels:
        check.fail(name, "student_map", "of channels that are a multiple of the teacher's", shapes)
    pairs = list(zip(student_map.shape[2:], teacher_map.shape[2:], strict=True))
    if any(max(pair) % min(pair) for pair in pairs):
        check.fail(
            name,
            "student_map",
            "of a height and width that are integer multiples or fractions of the teacher's",
            shapes,
        )
    student = _pooled(student_map, [max(ours // theirs, 1) for ours, theirs in pairs])
    teacher = _pooled(teacher_map, [max(theirs // ours, 1) for ours, theirs in pairs])
    squares = (student.unflatten(1, (-1, channels)) - teacher.unsqueeze(1)).square()
    return reduce(name, squares.mean((2, 3, 4)).sum(1), reduction)


def _pooled(maps: Tensor, window: list[int]) -> Tensor:
    return maps if window == [1, 1] else F.max_pool2d(maps, window)


class NToOneLoss(nn.Module):
    """`n_to_one_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("NToOneLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` [B, N·C, H_s, W_s] and `teacher_map` [B, C, H_t, W_t]."""
        return n_to_one_loss(student_map, teacher_map, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

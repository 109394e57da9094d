"""Class attention: the spatial pattern of evidence for each class."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.regions import pooled_exactly

CHECKS: Mapping[str, check.Constraint] = {
    "resolution": check.COUNT,
    "normalize": check.Flag(),
    "reduction": REDUCTION,
}


@float32_island
def class_attention_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    resolution: int = 2,
    normalize: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean squared difference of class activation maps, pooled to a few regions.

    With A the class map pooled to r × r regions, and divided by its L2 norm over the regions if `normalize`:  ℓ_b =
    mean over classes and regions of (A_s − A_t)²; "mean" is over the batch.

    Shape:
        `student_map` [B, C, H_s, W_s], `teacher_map` [B, C, H_t, W_t], sizes may differ; returns [], or [B] for
        `reduction="none"`.

    Args:
        student_map: the student's classifier, applied as a 1×1 convolution to its last map before pooling.
        teacher_map: the teacher's classifier, applied likewise.
        resolution: r, regions along a side.
        normalize: whether each class map is scaled to length 1, so that only the pattern counts, not the strength.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. A class map of zeros stays zero, with zero gradient.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
        >>> class_attention_loss(teacher.flip(3), teacher).item()
        8.0
        >>> class_attention_loss(5 * teacher, teacher, normalize=True).item()
        0.0

    Reference:
        Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023, and the authors' code. With a
        cross-entropy of weight 1, they use weights of 0.5 to 15, not normalised, for a student of the teacher's
        architecture, and 10 to 600, normalised, for another architecture.

    Deviations:
        When normalising, the released code replaces a norm below 1e-12 by 1e-12; here only norms below 1e-30 count as
        zero.
    """
    name = "class_attention_loss"
    check.floating(name, 4, student_map=student_map, teacher_map=teacher_map)
    if student_map.shape[:2] != teacher_map.shape[:2]:
        got = f"`student_map` {check.shape(student_map)}, `teacher_map` {check.shape(teacher_map)}"
        raise ValueError(f"`{name}`: `student_map` and `teacher_map` must have the same rows and classes, got {got}.")
    check.hyperparameters(name, CHECKS, resolution=resolution, normalize=normalize, reduction=reduction)
    student, teacher = (pooled_exactly(x, resolution).flatten(2) for x in (student_map, teacher_map))
    if normalize:
        student, teacher = unit(student), unit(teacher)
    return reduce(name, (student - teacher).square().mean((1, 2)), reduction)


class ClassAttentionLoss(nn.Module):
    """`class_attention_loss` with its hyper-parameters stored."""

    def __init__(self, *, resolution: int = 2, normalize: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__()
        hyperparameters = {"resolution": resolution, "normalize": normalize, "reduction": reduction}
        check.hyperparameters("ClassAttentionLoss", CHECKS, **hyperparameters)
        self.resolution = resolution
        self.normalize = normalize
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` [B, C, H_s, W_s] and `teacher_map` [B, C, H_t, W_t]."""
        return class_attention_loss(
            student_map,
            teacher_map,
            resolution=self.resolution,
            normalize=self.normalize,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"resolution={self.resolution}, normalize={self.normalize}, reduction={self.reduction!r}"

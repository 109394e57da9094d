"""ReviewKD's hierarchical context loss: maps compared at full resolution and averaged over coarser grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.maps import check_lists, pooled_alike

CHECKS: Mapping[str, check.Constraint] = {}
_GRIDS = (4, 2, 1)


@float32_island
def hierarchical_context_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over levels of a weighted mean of squared differences at several resolutions.

    With Δ = s − t at a level of height h, and A_l the average to a grid of l × l: those of l = 4, 2, 1 with l < h are
    used, the k-th of them with weight 2^{−k}; ℓ = (mean Δ² + Σ_k 2^{−k} mean A_l(Δ)²) / (1 + Σ_k 2^{−k}), L = Σ ℓ.

    Shape:
        `student_maps` and `teacher_maps`: lists of maps [B, C, H, W], shallow to deep; level by level the channels are
        equal, and the larger map is average-pooled to the smaller's size first; returns [].

    Args:
        student_maps: maps of the student.
        teacher_maps: maps of the teacher, equally many.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> ones = torch.ones(2, 3, 8, 8)
        >>> hierarchical_context_loss([ones, ones], [0 * ones, 3 * ones]).item()
        5.0

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021, sec. 3.4, and the authors' code.

    Deviations:
        None from the code. The paper does not give the weights. As in the code, a skipped grid does not halve the
        weights after it, and only the height decides which are skipped.
    """
    name = "hierarchical_context_loss"
    check_lists(name, student_maps, teacher_maps, least=1)
    levels = [_level(*pooled_alike(s, t)) for s, t in zip(student_maps, teacher_maps, strict=True)]
    return torch.stack(levels).sum()


def _level(student: Tensor, teacher: Tensor) -> Tensor:
    difference = student - teacher
    grids = [grid for grid in _GRIDS if grid < difference.shape[2]]
    total, weights = difference.square().mean(), 1.0
    for k, grid in enumerate(grids, 1):
        # The average of differences is the difference of averages.
        total = total + 0.5**k * adaptive_avg_pool2d(difference, grid).square().mean()
        weights += 0.5**k
    return total / weights


class HierarchicalContextLoss(nn.Module):
    """`hierarchical_context_loss` as a module."""

    def __init__(self) -> None:  # takes no arguments, and rejects any
        super().__init__()

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Return the loss of lists of maps [B, C, H, W]."""
        return hierarchical_context_loss(student_maps, teacher_maps)

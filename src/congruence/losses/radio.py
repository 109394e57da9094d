"""AM-RADIO: the tokens of a teacher, by direction and by value."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit
from congruence.geometry.tokens import check_mask, without_padding

CHECKS: Mapping[str, check.Constraint] = {"cosine_weight": check.Real(low=0, high=1, closed="both")}


@float32_island
def agglomerative_loss(
    student: Tensor, teacher: Tensor, *, cosine_weight: float = 0.9, mask: Tensor | None = None
) -> Tensor:
    """Cosine distance and smooth L1 of paired tokens, mixed.

    L = w · mean over tokens of (1 − cos(s, t)) + (1 − w) · mean over tokens and entries of smooth_l1(s − t), with
    smooth_l1(x) = x²/2 for |x| < 1, else |x| − 1/2. With a mask both means are over the real tokens of the batch.
    Summary tokens are compared with w = 1, the cosine alone.

    Shape:
        `student` and `teacher` [B, N, D], or summary tokens [B, D]; `mask` [B, N]; returns [].

    Args:
        student: what a head of this teacher's own made of the student's tokens.
        teacher: of the same places.
        cosine_weight: w in [0, 1].
        mask: bool, True for real tokens; None: all are. What the others hold changes nothing.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient where no token is real. A token of zeros has cosine 0 to
        all but another of zeros, to which it is equal.

    Raises:
        ValueError: for shapes or a mask that do not fit, or a weight out of its range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
        >>> agglomerative_loss(student, teacher, cosine_weight=1).item()
        1.0
        >>> agglomerative_loss(student, teacher, cosine_weight=0).item()  # the mean of 1/2 and 5/2
        1.5

    Reference:
        Ranzinger et al., AM-RADIO: Agglomerative Vision Foundation Model, CVPR 2024, from the definition.

    Deviations:
        None known; the training code is not public. A later paper of the authors, PHI-S, has the mean of squares
        instead, of features that `congruence.geometry.phi_s_transform` standardises.
    """
    name = "agglomerative_loss"
    check.floating(name, (2, 3), student=student, teacher=teacher)
    check.same_shape(name, student=student, teacher=teacher)
    if mask is not None and student.dim() == 2:
        check.fail(name, "mask", "None for summary tokens [B, D]", f"one for `student` {check.shape(student)}")
    check_mask(name, mask, student)
    check.hyperparameters(name, CHECKS, cosine_weight=cosine_weight)
    ours, theirs = (as_float64(without_padding(x, mask)) for x in (student, teacher))
    # Tokens left out are zeros on both sides: they are apart by neither.
    count = ours[..., 0].numel() if mask is None else mask.sum().clamp(min=1)
    cosine = _cosine_distances(ours, theirs).sum() / count
    values = F.smooth_l1_loss(ours, theirs, reduction="sum") / (count * ours.shape[-1])
    return (cosine_weight * cosine + (1 - cosine_weight) * values).to(student.dtype)


def _cosine_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 − cos of paired rows, as half the square between them at length 1: exactly 0 for equal ones."""
    x, y = unit(x), unit(y)
    # A row of zeros is half as far from one of length 1 as is wanted.
    alone = (x.detach() != 0).any(-1) != (y.detach() != 0).any(-1)
    return ((x - y).square().sum(-1) + alone) / 2


class AgglomerativeLoss(nn.Module):
    """`agglomerative_loss` with its hyper-parameter stored."""

    def __init__(self, *, cosine_weight: float = 0.9) -> None:
        super().__init__()
        check.hyperparameters("AgglomerativeLoss", CHECKS, cosine_weight=cosine_weight)
        self.cosine_weight = cosine_weight

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student` and `teacher`, each [B, N, D] or [B, D]."""
        return agglomerative_loss(student, teacher, cosine_weight=self.cosine_weight, mask=mask)

    def extra_repr(self) -> str:
        """Write the hyper-parameter."""
        return f"cosine_weight={self.cosine_weight}"

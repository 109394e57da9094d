"""AM-RADIO: a teacher's tokens, matched in direction and in value."""

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
    """Weighted sum of cosine distance and smooth L1 distance of paired tokens.

    L = w · mean over tokens of (1 − cos(s, t)) + (1 − w) · mean over tokens and entries of smooth_l1(s − t), with
    smooth_l1(x) = x²/2 for |x| < 1, else |x| − 1/2. With a mask, both means are over the real tokens of the batch.
    Summary tokens are usually compared with w = 1, by cosine only.

    Shape:
        `student` and `teacher` [B, N, D], or summary tokens [B, D]; `mask` [B, N]; returns [].

    Args:
        student: the student's tokens after a head for this teacher.
        teacher: the teacher's tokens at the same positions.
        cosine_weight: w in [0, 1].
        mask: bool, True for real tokens; None: all are. Values at the others have no effect.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient if no token is real. A token of zeros has cosine 0 to all
        tokens except another token of zeros, for which the distance is 0.

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
        None known; the training code is not public. A later paper of the authors, PHI-S, instead uses the mean squared
        error of features standardised by `congruence.geometry.phi_s_transform`.
    """
    name = "agglomerative_loss"
    check.floating(name, (2, 3), student=student, teacher=teacher)
    check.same_shape(name, student=student, teacher=teacher)
    if mask is not None and student.dim() == 2:
        check.fail(name, "mask", "None for summary tokens [B, D]", f"one for `student` {check.shape(student)}")
    check_mask(name, mask, student)
    check.hyperparameters(name, CHECKS, cosine_weight=cosine_weight)
    ours, theirs = (as_float64(without_padding(x, mask)) for x in (student, teacher))
    # Masked tokens are zeros on both sides, so both distances are 0.
    count = ours[..., 0].numel() if mask is None else mask.sum().clamp(min=1)
    cosine = _cosine_distances(ours, theirs).sum() / count
    values = F.smooth_l1_loss(ours, theirs, reduction="sum") / (count * ours.shape[-1])
    return (cosine_weight * cosine + (1 - cosine_weight) * values).to(student.dtype)


def _cosine_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 − cos of paired rows, as half the squared distance of unit rows: exactly 0 for equal rows."""
    x, y = unit(x), unit(y)
    # For a row of zeros and one of length 1, this gives half of the wanted distance.
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
        """Return the hyper-parameter as text."""
        return f"cosine_weight={self.cosine_weight}"

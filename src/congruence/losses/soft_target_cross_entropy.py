"""Cross entropy with a mix of the labels and the teacher's probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

__all__ = ["SoftTargetCrossEntropy", "soft_target_cross_entropy"]

CHECKS: Mapping[str, check.Constraint] = {
    "alpha": check.Real(low=0, high=1, closed="both"),
    "reduction": REDUCTION,
}


@float32_island
def soft_target_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of the student with a mix of hard and soft labels, without temperature.

    ℓ_b = −Σ_c q_b[c] log softmax(z_s,b)[c], q_b = α·onehot(y_b) + (1 − α)·softmax(z_t,b). A row without label (y_b < 0)
    has q_b = softmax(z_t,b).

    Shape:
        `student_logits` and `teacher_logits` [B, C], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        alpha: α in [0, 1], the weight of the labels; in the paper the soft labels have weight 0.9.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 4)
        >>> round(soft_target_cross_entropy(logits, logits, torch.tensor([2])).item(), 6)  # log 4
        1.386294

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 2 and 3.

    Deviations:
        None. The student's gradient equals that of the terms `ce` with weight α and `kd` with weight 1 − α and
        temperature 1; the value is larger by (1 − α) times the entropy of the soft labels.
    """
    name = "soft_target_cross_entropy"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.class_labels(name, student_logits.shape[1], unlabelled=True, labels=labels)
    check.same_rows(name, student_logits=student_logits, labels=labels)
    check.hyperparameters(name, CHECKS, alpha=alpha, reduction=reduction)
    soft = torch.softmax(teacher_logits, 1)
    hard = F.one_hot(labels.long().clamp(min=0), soft.shape[1]).to(soft.dtype)
    targets = torch.where((labels >= 0)[:, None], alpha * hard + (1 - alpha) * soft, soft)
    logs = torch.log_softmax(student_logits, 1)
    # If q is 0 its term is 0, even if a masked class makes the logarithm -inf; if q is NaN, so is the loss.
    terms = torch.where(targets == 0, torch.zeros_like(logs), targets * logs)
    return reduce(name, -terms.sum(1), reduction)


class SoftTargetCrossEntropy(nn.Module):
    """`soft_target_cross_entropy` with its hyper-parameters stored."""

    def __init__(self, *, alpha: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("SoftTargetCrossEntropy", CHECKS, alpha=alpha, reduction=reduction)
        self.alpha = alpha
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C] and `labels` [B]."""
        return soft_target_cross_entropy(
            student_logits, teacher_logits, labels, alpha=self.alpha, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"alpha={self.alpha}, reduction={self.reduction!r}"

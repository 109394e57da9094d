"""Cross-entropy of the student with the labels, without a teacher: the baseline of every table."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

_NO_LABEL = -100
CHECKS: Mapping[str, check.Constraint] = {"reduction": REDUCTION}


@float32_island
def cross_entropy_loss(student_logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Cross entropy of the student's logits over the labelled rows.

    ℓ_b = −log softmax(z_b)[y_b] where y_b >= 0, and 0 where y_b < 0 (no label). "mean" is over the labelled rows, and 0
    with zero gradient if there are none.

    Shape:
        `student_logits` [B, C], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or an unknown reduction.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [5.0, -5.0]])
        >>> round(cross_entropy_loss(logits, torch.tensor([1, -1])).item(), 6)  # log 2: the second row has no label
        0.693147

    Deviations:
        Equal to torch's cross-entropy if every row is labelled. torch's `ignore_index` is a single value and gives NaN
        if no row is labelled.
    """
    check.floating("cross_entropy_loss", 2, student_logits=student_logits)
    check.several_classes("cross_entropy_loss", student_logits=student_logits)
    classes = student_logits.shape[1]
    check.class_labels("cross_entropy_loss", classes, unlabelled=True, labels=labels)
    check.same_rows("cross_entropy_loss", student_logits=student_logits, labels=labels)
    labelled = labels >= 0
    targets = labels.long().masked_fill(~labelled, _NO_LABEL)
    values = F.cross_entropy(student_logits, targets, ignore_index=_NO_LABEL, reduction="none")
    if reduction == "mean":
        return values.sum() / labelled.sum().clamp(min=1)
    return reduce("cross_entropy_loss", values, reduction)


class CrossEntropyLoss(nn.Module):
    """`cross_entropy_loss` with its hyper-parameters stored."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check.hyperparameters("CrossEntropyLoss", CHECKS, reduction=reduction)
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` [B, C] and `labels` [B]."""
        return cross_entropy_loss(student_logits, labels, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"reduction={self.reduction!r}"

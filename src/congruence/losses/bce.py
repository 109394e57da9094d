"""Binary cross entropy: labels that hold by themselves, any number of them a sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

__all__ = ["BinaryCrossEntropyLoss", "binary_cross_entropy_loss"]

CHECKS: Mapping[str, check.Constraint] = {"positive_weight": check.POSITIVE, "reduction": REDUCTION}


@float32_island
def binary_cross_entropy_loss(
    student_logits: Tensor, labels: Tensor, *, positive_weight: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Cross entropy of the sigmoid of each logit with its label.

    ℓ_bl = −[w y_bl log σ(z_bl) + (1 − y_bl) log(1 − σ(z_bl))] where y_bl >= 0, and 0 where y_bl < 0 (unknown). A
    sample's is the mean over its known labels; "mean" is over all known labels of the batch, and 0 with zero gradient
    where there is none.

    Shape:
        `student_logits` [B, L], `labels` [B, L] or classes [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: of the student, one a label; a single one is allowed.
        labels: 0, 1 or between, of any type; a negative one is unknown. Or integer classes [B] in [0, L), of which each
            is 1 in its own column (of a single logit they are its labels themselves); a negative one has none.
        positive_weight: w > 0, by which a label that holds counts more.
        reduction: "none", "mean" or "sum" (of all known labels).

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a class >= L, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> value = binary_cross_entropy_loss(torch.zeros(1, 3), torch.tensor([[1, 0, -1]]))
        >>> round(value.item(), 6)  # log 2: the third is unknown
        0.693147

    Deviations:
        With all labels known, equal to torch's `binary_cross_entropy_with_logits`, of which "none" here is each row's
        mean.
    """
    name = "binary_cross_entropy_loss"
    check.floating(name, 2, student_logits=student_logits)
    targets = label_matrix(name, labels, student_logits)
    check.hyperparameters(name, CHECKS, positive_weight=positive_weight, reduction=reduction)
    values, known = binary_values(student_logits, targets, positive_weight), targets >= 0
    if reduction == "none":
        return values.sum(1) / known.sum(1).clamp(min=1)
    if reduction == "mean":
        return values.sum() / known.sum().clamp(min=1)
    return reduce(name, values, reduction)


def binary_values(logits: Tensor, labels: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Return the loss of each entry, 0 where its label is negative."""
    known = labels >= 0
    weight = None if positive_weight == 1.0 else logits.new_full((logits.shape[-1],), positive_weight)
    targets = labels.masked_fill(~known & ~labels.isnan(), 0.0)
    values = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    return torch.where(labels < 0, torch.zeros_like(values), values)


def label_matrix(function: str, labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels [B, L] in the logits' type, of such or of classes [B]; those of the latter are one-hot."""
    if isinstance(labels, Tensor) and labels.dim() == 1 and logits.shape[1] == 1:
        labels = labels[:, None]
    if isinstance(labels, Tensor) and labels.dim() == 1:
        check.class_labels(function, logits.shape[1], unlabelled=True, labels=labels)
        check.same_rows(function, student_logits=logits, labels=labels)
        # Not by one_hot, which looks at the labels' values: a step on a GPU would wait for it.
        hot = (labels[:, None] == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)
        return torch.where((labels >= 0)[:, None], hot, -torch.ones_like(hot))
    check.several_labels(function, labels=labels)
    check.same_shape(function, student_logits=logits, labels=labels)
    return labels.to(logits.dtype)


class BinaryCrossEntropyLoss(nn.Module):
    """`binary_cross_entropy_loss` with its hyper-parameters stored."""

    def __init__(self, *, positive_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        given = {"positive_weight": positive_weight, "reduction": reduction}
        check.hyperparameters("BinaryCrossEntropyLoss", CHECKS, **given)
        self.positive_weight = positive_weight
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` [B, L] and `labels` [B, L] or [B]."""
        return binary_cross_entropy_loss(
            student_logits, labels, positive_weight=self.positive_weight, reduction=self.reduction
        )

    def counted(self, labels: Tensor) -> Tensor:
        """Return what the mean divides by up to a factor, shape []: how many labels are known."""
        return (labels >= 0).sum()

    def extra_repr(self) -> str:
        """Write the hyper-parameters."""
        return f"positive_weight={self.positive_weight}, reduction={self.reduction!r}"

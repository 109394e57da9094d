"""Cross-entropy of the student with the labels, without a teacher: the baseline of every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

__all__ = ["CrossEntropyLoss", "cross_entropy_loss"]

_NO_LABEL = -100
_NEAR_ONE = 1e-2  # of the sum of a soft label, which may come in half precision
CHECKS: Mapping[str, check.Constraint] = {
    "label_smoothing": check.Real(low=0, high=1, closed="both"),
    "class_weights": check.Weights(),
    "reduction": REDUCTION,
}


@float32_island
def cross_entropy_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy of the student's logits over the labelled rows.

    ℓ_b = −log softmax(z_b)[y_b] where y_b >= 0, and 0 where y_b < 0 (no label). "mean" is over the labelled rows, and 0
    with zero gradient if there are none.

    Soft labels q_b [C], as mixup makes them, have ℓ_b = −Σ_c q_b[c] log softmax(z_b)[c]; a row with a negative entry
    has no label. With label smoothing ε, q_b becomes (1 − ε) q_b + ε/C, q_b being 1 at y_b for a hard label. With class
    weights w, ℓ_b = −Σ_c w_c q_b[c] log softmax(z_b)[c], and the mean of hard labels is Σ_b ℓ_b / Σ_b w_{y_b}.

    Shape:
        `student_logits` [B, C], `labels` [B] or soft ones [B, C]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        labels: integer classes in [0, C); a negative value marks an unlabelled row. Or probabilities of the classes, of
            a floating type; that each row sums to 1 is checked on the CPU only, where it costs no waiting.
        label_smoothing: ε in [0, 1].
        class_weights: w >= 0, one for each class; None: all are 1.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, soft labels whose sum is not 1, or a
            hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [5.0, -5.0]])
        >>> round(cross_entropy_loss(logits, torch.tensor([1, -1])).item(), 6)  # log 2: the second row has no label
        0.693147
        >>> round(cross_entropy_loss(logits, torch.tensor([[0.3, 0.7], [-1.0, -1.0]])).item(), 6)
        0.693147

    Reference:
        Label smoothing: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, sec. 7. Soft labels: Zhang et
        al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.

    Deviations:
        Equal to torch's cross-entropy if every row is labelled. torch's `ignore_index` is a single value and gives NaN
        if no row is labelled.
    """
    name = "cross_entropy_loss"
    check.floating(name, 2, student_logits=student_logits)
    check.several_classes(name, student_logits=student_logits)
    _check_labels(name, student_logits, labels)
    given = {"label_smoothing": label_smoothing, "class_weights": class_weights, "reduction": reduction}
    check.hyperparameters(name, CHECKS, **given)
    weights = _weights(name, class_weights, student_logits)
    labelled = is_labelled(labels)
    soft = labels.is_floating_point()
    targets = labels.to(student_logits.dtype) if soft else labels.long().masked_fill(~labelled, _NO_LABEL)
    values = F.cross_entropy(
        student_logits, targets, weights, ignore_index=_NO_LABEL, reduction="none", label_smoothing=label_smoothing
    )
    values = values.masked_fill(~labelled, 0.0) if soft else values
    if reduction == "mean" and weights is None:
        return values.sum() / labelled.sum().clamp(min=1)
    if reduction == "mean":
        return values.sum() / _positive(label_weight(labels, weights))
    return reduce(name, values, reduction)


def is_labelled(labels: Tensor) -> Tensor:
    """Return which rows have a label, bool [B], of labels [B] or soft ones [B, C]."""
    return labels >= 0 if labels.dim() == 1 else ~(labels < 0).any(1)


def label_weight(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return what the sum of a batch's losses is divided by for their mean, shape []: 0 where no row is labelled."""
    labelled = is_labelled(labels)
    if class_weights is None or labels.is_floating_point():
        return labelled.sum()
    return (class_weights[labels.long().clamp(min=0)] * labelled).sum()


def _positive(total: Tensor) -> Tensor:
    """Return a sum of weights to divide by: 1 where it is 0, as is then what it divides."""
    return torch.where(total > 0, total, torch.ones_like(total))


def _weights(function: str, class_weights: Sequence[float] | Tensor | None, logits: Tensor) -> Tensor | None:
    if class_weights is None:
        return None
    if len(class_weights) != logits.shape[1]:
        check.fail(function, "class_weights", f"one for each of the {logits.shape[1]} classes", len(class_weights))
    return torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)


def _check_labels(function: str, logits: Tensor, labels: Tensor) -> None:
    """Check class labels [B], or soft ones [B, C]."""
    soft = isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() == 2
    if not soft:
        check.class_labels(function, logits.shape[1], unlabelled=True, labels=labels)
        check.same_rows(function, student_logits=logits, labels=labels)
        return
    check.dense(function, labels=labels)
    check.same_shape(function, student_logits=logits, labels=labels)
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(labels)
    if labels.device.type != "cpu" or traced:
        return
    sums = labels.detach().double().sum(1)
    wrong = ((sums - 1).abs() > _NEAR_ONE) & sums.isfinite() & is_labelled(labels)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        wanted = "soft labels whose rows have the sum 1 (labels that hold by themselves are for `bce`)"
        check.fail(function, "labels", wanted, f"{float(sums[row]):g} in row {row}")


class CrossEntropyLoss(nn.Module):
    """`cross_entropy_loss` with its hyper-parameters stored."""

    weights: Tensor | None

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        given = {"label_smoothing": label_smoothing, "class_weights": class_weights, "reduction": reduction}
        check.hyperparameters("CrossEntropyLoss", CHECKS, **given)
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        # A buffer goes to the logits' device once; it is no state: the hyper-parameter is.
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float64)
        self.register_buffer("weights", weights, persistent=False)
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` [B, C] and `labels` [B] or [B, C]."""
        return cross_entropy_loss(
            student_logits,
            labels,
            label_smoothing=self.label_smoothing,
            class_weights=self.weights,
            reduction=self.reduction,
        )

    def counted(self, labels: Tensor) -> Tensor:
        """Return what the mean divides by, shape []: the labelled rows, or the sum of their weights."""
        return label_weight(labels, self.weights)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"label_smoothing={self.label_smoothing}, class_weights={self.class_weights}, reduction={self.reduction!r}"
        )

"""Labels that hold by themselves: mean average precision, and the F1 of each label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from congruence.core import check


@torch.no_grad()
def mean_average_precision(logits: Tensor, labels: Tensor) -> float:
    """Mean over the labels of the average precision of the samples in the order of their logits.

    AP_l = Σ_n (R_n − R_{n−1}) P_n, precision and recall at each logit that occurs (equal ones come together), over the
    samples of which the label is known. The mean is over the labels that some sample has.

    Shape:
        `logits` [N, L], `labels` [N, L].

    Args:
        logits: one score a label.
        labels: 0 or 1; a negative one is unknown.

    Returns:
        A fraction in [0, 1]; NaN where no sample has any label.

    Raises:
        ValueError: for shapes that do not fit, labels other than 0 and 1, or logits that are NaN or infinite.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0], [2.0], [1.0], [0.0]])
        >>> round(mean_average_precision(logits, torch.tensor([[1], [0], [1], [0]])), 4)  # (1 + 2/3)/2
        0.8333

    Reference:
        Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010, sec. 4.2, without its interpolation.
    """
    _check("mean_average_precision", logits, labels)
    found = [_average_precision(scores, truth) for scores, truth in zip(logits.T, labels.T, strict=True)]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else math.nan


@torch.no_grad()
def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean over the labels of the F1 of the answer "logit > 0".

    F1_l = 2 TP_l / (2 TP_l + FP_l + FN_l), over the samples of which the label is known; the mean is over the labels
    that some sample has or is given.

    Shape:
        `logits` [N, L], `labels` [N, L].

    Args:
        logits: one score a label.
        labels: 0 or 1; a negative one is unknown.

    Returns:
        A fraction in [0, 1]; NaN where no label occurs.

    Raises:
        ValueError: for shapes that do not fit, labels other than 0 and 1, or logits that are NaN or infinite.

    Example:
        >>> import torch
        >>> round(macro_f1(torch.tensor([[2.0], [1.0], [-1.0]]), torch.tensor([[1], [0], [0]])), 4)
        0.6667
    """
    _check("macro_f1", logits, labels)
    return f1_of(hits(logits, labels))


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Count true positives, false positives and false negatives of each label, int64 [3, L]."""
    given, has, not_has = logits > 0, labels > 0, labels == 0
    return torch.stack([(given & has).sum(0), (given & not_has).sum(0), (~given & has).sum(0)])


def f1_of(counts: Tensor) -> float:
    """Return the mean F1 of what `hits` counts."""
    right, wrong, missed = counts.double()
    either = 2 * right + wrong + missed
    return float((2 * right / either)[either > 0].mean())


def _average_precision(scores: Tensor, truth: Tensor) -> float | None:
    known = truth >= 0
    order = scores[known].argsort(descending=True)
    scores, right = scores[known][order], (truth[known][order] > 0).double()
    total = right.sum()
    if not bool(total > 0):
        return None
    # Of equal scores the last position speaks for all.
    last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    found = right.cumsum(0)
    precision = found / torch.arange(1, len(found) + 1, device=found.device)
    found, precision = found[last], precision[last]
    return float((torch.diff(found, prepend=found.new_zeros(1)) / total * precision).sum())


def _check(function: str, logits: Tensor, labels: Tensor) -> None:
    check.floating(function, 2, logits=logits)
    check.several_labels(function, labels=labels)
    check.same_shape(function, logits=logits, labels=labels)
    check.finite(function, logits=logits)
    if not bool(((labels == 0) | (labels == 1) | (labels < 0)).all()):
        check.fail(function, "labels", "0 and 1, or negative where unknown", "other numbers")

"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from congruence.core import check


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor, *, topk: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """Share of samples whose class is among the k with the largest logits, as a fraction in [0, 1].

    Of equal logits the lower class counts as larger, so that ties have one answer on every device. A k above C is
    taken as C. A row with NaN at its class, or anywhere above it, counts as wrong.

    Shape:
        `logits` [B, C], `labels` [B].

    Args:
        logits: one score a class.
        labels: integer classes in [0, C).
        topk: values of k >= 1.

    Returns:
        One fraction for each k, in the order of `topk`.

    Raises:
        ValueError: for shapes that do not fit, a label out of range, or a k that is not an integer >= 1.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]]), torch.tensor([0, 1]), topk=(1, 2, 3))
        (0.5, 0.5, 1.0)
    """
    check.floating("accuracy", 2, logits=logits)
    check.class_labels("accuracy", logits.shape[1], labels=labels)
    check.same_rows("accuracy", logits=logits, labels=labels)
    for k in topk:
        check.hyperparameters("accuracy", {"topk": check.COUNT}, topk=k)
    labels = labels.long()[:, None]
    own = logits.gather(1, labels)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels
    # "not <=" rather than ">": what cannot be compared with the class's own logit stands before it.
    position = (~(logits <= own) | ((logits == own) & lower)).sum(1)
    # NaN at the class itself puts all C before it, past any k <= C.
    return tuple((position < min(k, logits.shape[1])).double().mean().item() for k in topk)

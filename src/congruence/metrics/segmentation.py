"""Mean intersection over union: how well each class's positions are found."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.positions import class_axis, labels_of_positions, rows_of_positions


@torch.no_grad()
def mean_iou(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the intersection over union of answered and labelled positions.

    IoU_c = TP_c / (TP_c + FP_c + FN_c) over all labelled positions together, and the mean is over the classes that are
    labelled or answered anywhere. Of equal logits the lowest class is the answer.

    Shape:
        `logits` [N, C] and `labels` [N], or dense ones: [B, T, C] and [B, T], [B, C, H, W] and [B, H, W].

    Args:
        logits: one score a class.
        labels: integer classes in [0, C); a negative one marks a position without label, which is left out.

    Returns:
        A fraction in [0, 1]; NaN where no position is labelled.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or logits that are NaN or infinite (-inf
            masks a class).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> round(mean_iou(logits, torch.tensor([0, 0, 0, 1])), 4)  # 2/3 and 1/2
        0.5833

    Reference:
        Everingham et al., The Pascal Visual Object Classes Challenge: A Retrospective, IJCV 2015, sec. 3.
    """
    check.floating("mean_iou", (2, 3, 4, 5), logits=logits)
    check.dense("mean_iou", logits=logits, labels=labels)
    if logits.dim() > 2:
        labels = labels_of_positions(labels, logits.shape, "`mean_iou`: the metric")
        logits = rows_of_positions(logits)
    check.several_classes("mean_iou", logits=logits)
    check.finite("mean_iou", masked=True, logits=logits)
    classes = logits.shape[class_axis(logits.shape)]
    check.class_labels("mean_iou", classes, unlabelled=True, labels=labels)
    check.same_rows("mean_iou", logits=logits, labels=labels)
    return iou_of(confusion(logits.argmax(1), labels, classes))


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count answers [N] by label and class, int64 [C, C] with the labels in rows; negative labels are left out."""
    # Rows without label are counted in a place of their own, which is dropped: no number of rows is waited for.
    places = torch.where(labels >= 0, labels.long() * classes + answers, classes * classes)
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=labels.device)
    return counts.index_add_(0, places, torch.ones_like(places))[:-1].view(classes, classes)


def iou_of(counts: Tensor) -> float:
    """Return the mean intersection over union of what `confusion` counts."""
    both = counts.diagonal().double()
    either = counts.sum(0) + counts.sum(1) - both
    return float((both / either)[either > 0].mean())

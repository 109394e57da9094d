"""What validation counts of a batch by its labels, and the numbers that come of it: classes, positions, several labels.

Sums of batches are added, and those of ranks, too, so that N ranks measure what one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from congruence.core import check
from congruence.geometry.positions import class_axis, labels_of_positions, rows_of_positions
from congruence.losses.bce import binary_values
from congruence.losses.ce import is_labelled
from congruence.metrics.multilabel import f1_of, hits, mean_average_precision
from congruence.metrics.segmentation import confusion, iou_of

Kind = Literal["classes", "soft", "several"]
COUNT = "count"
_CONFUSION, _HITS, _SCORES = "_confusion", "_hits", "_scores"
_IOU, _MAP, _F1 = "mean_iou", "map", "f1"


def kind_of(shape: torch.Size, labels: Tensor, *, multilabel: bool) -> Kind | None:
    """Return what labels are to logits of a shape, by their dimensions and type; None where they are neither.

    Args:
        shape: of the logits, [B, C] or dense.
        labels: of the batch.
        multilabel: whether a term reads logits of labels that hold by themselves.

    Example:
        >>> kind_of(torch.Size([2, 4, 8, 8]), torch.zeros(2, 8, 8).long(), multilabel=False)
        'classes'
        >>> kind_of(torch.Size([2, 4]), torch.zeros(2, 4), multilabel=True)
        'several'
        >>> kind_of(torch.Size([2, 4]), torch.zeros(2, 7, 7), multilabel=False) is None
        True
    """
    whole = labels.dtype in check.INTEGERS or labels.dtype == torch.bool
    one = shape[class_axis(shape)] == 1
    if multilabel and (labels.dim() == len(shape) or (one and labels.dim() == len(shape) - 1)):
        return "several"
    if whole and labels.dim() == len(shape) - 1:
        return "classes"
    return "soft" if labels.is_floating_point() and labels.dim() == len(shape) else None


def sums_of(logits: Tensor, labels: Tensor, kind: Kind, *, counted: Tensor | None, end: str) -> dict[str, Tensor]:
    """Return what a batch adds to the numbers of one student, and how many labels it is of.

    Soft labels count as their largest entry in the accuracy, and as they are in the loss.

    Args:
        logits: [B, C], or dense.
        labels: as `kind` says.
        kind: of `kind_of`.
        counted: which positions of dense logits count.
        end: of the numbers' names.
    """
    dense = logits.dim() > 2
    if dense:
        labels = labels_of_positions(labels, logits.shape, "The validation")
        logits = rows_of_positions(logits)
        if counted is not None:
            logits, labels = logits[counted.flatten()], labels[counted.flatten()]
    if kind == "several":
        return _several(logits, labels, dense, end)
    classes = logits.shape[1]
    if kind == "soft":
        check.same_shape("validation", logits=logits, labels=labels)
        labelled, answers = is_labelled(labels), labels.argmax(1)
        losses = F.cross_entropy(logits, labels.to(logits.dtype), reduction="none").masked_fill(~labelled, 0.0)
    else:
        check.class_labels("validation", classes, unlabelled=True, labels=labels)
        check.same_rows("validation", logits=logits, labels=labels)
        labelled, answers = labels >= 0, labels
        losses = F.cross_entropy(logits, labels.long().clamp(min=-1), ignore_index=-1, reduction="none")
    right = (logits.argmax(1) == answers) & labelled
    # Beside the count, 0 times the largest logit: of NaN argmax makes a class, and accuracy shall be NaN.
    shown = 0 * logits.amax(1).masked_fill(~labelled, 0.0)
    sums = {COUNT: labelled.sum().double(), f"accuracy{end}": (right + shown).double().sum()}
    sums[f"loss{end}"] = losses.double().sum()
    if dense:
        hard = answers.masked_fill(~labelled, -1)
        sums[f"{_CONFUSION}{end}"] = confusion(logits.argmax(1), hard, classes)
    return sums


def _several(logits: Tensor, labels: Tensor, dense: bool, end: str) -> dict[str, Tensor]:
    """Return the sums of labels that hold by themselves; average precision needs all scores, kept on the host."""
    labels = labels.reshape(logits.shape) if labels.numel() == logits.numel() else labels
    check.same_shape("validation", logits=logits, labels=labels)
    losses = binary_values(logits, labels.to(logits.dtype))
    sums = {COUNT: (labels >= 0).sum().double(), f"loss{end}": losses.double().sum()}
    sums[f"{_HITS}{end}"] = hits(logits, labels)
    if not dense:
        sums[f"{_SCORES}{end}"] = torch.stack([logits.float(), labels.float()]).cpu()
    return sums


def add(sums: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add to sums those of another batch or rank: scores are joined."""
    for name, value in more.items():
        if name not in sums:
            sums[name] = value
        elif name.startswith(_SCORES):
            sums[name] = torch.cat([sums[name], value], 1)
        else:
            sums[name] = sums[name] + value


def numbers_of(sums: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of all batches' sums, those that decide which epoch is the best first.

    Accuracy and loss; "mean_iou" of positions; of several labels "map" (mean average precision, unless they are dense),
    "f1" (the mean of the labels' F1 at a probability of one half) and the loss.
    """
    count = sums[COUNT]
    plain = {name: total / count for name, total in sums.items() if isinstance(total, float) and name != COUNT}
    first: dict[str, float] = {}
    for name, total in sums.items():
        if name.startswith(_SCORES):
            logits, labels = total
            finite = bool(torch.isfinite(logits).all())
            first[f"{_MAP}{name.removeprefix(_SCORES)}"] = (
                mean_average_precision(logits, labels) if finite else math.nan
            )
    for name, total in sums.items():
        if name.startswith(_HITS):
            end = name.removeprefix(_HITS)
            first[f"{_F1}{end}"] = f1_of(total) if math.isfinite(plain[f"loss{end}"]) else math.nan
        elif name.startswith(_CONFUSION):
            end = name.removeprefix(_CONFUSION)
            plain[f"{_IOU}{end}"] = iou_of(total) if not math.isnan(plain[f"accuracy{end}"]) else math.nan
    return first | plain

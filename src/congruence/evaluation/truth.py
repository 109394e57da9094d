"""Labels that are not one class a sample: a class for each position, or several labels that hold independently."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.positions import class_axis

LOG = logging.getLogger("congruence")
_SHORT = torch.iinfo(torch.int16).max


class Labels(NamedTuple):
    """What the labels of a loader are: one of the two, or neither.

    Args:
        classes: [N], a class for each sample, -1 where it has none.
        truth: [P], a class for each position of all samples, negative where it has none; or [N, L], 0 or 1 for each
            label of a sample, negative where it is unknown.
    """

    classes: Tensor | None = None
    truth: Tensor | None = None


def labels_of(batches: Sequence[Tensor], *, dense: bool) -> Labels:
    """Return what labels are; labels of another kind are left out, with a line in the log.

    Probabilities of the classes, as of mixup, count as their largest one.

    Args:
        batches: the labels of each batch.
        dense: whether a model's logits have positions.

    Example:
        >>> labels_of([torch.tensor([2, 0])], dense=False).classes
        tensor([2, 0])
        >>> labels_of([torch.tensor([[0.7, 0.3]])], dense=False).classes
        tensor([0])
        >>> labels_of([torch.tensor([[1, 1], [0, 1]])], dense=False).truth
        tensor([[1, 1],
                [0, 1]])
    """
    if not batches:
        return Labels()
    first = batches[0]
    whole = first.dtype in check.INTEGERS or first.dtype == torch.bool
    if whole and first.dim() == 1:
        return Labels(torch.cat(list(batches)))
    if dense and whole:
        return Labels(truth=_short(torch.cat([labels.flatten() for labels in batches])))
    if not dense and first.dim() == 2 and len({labels.shape[1:] for labels in batches}) == 1:
        rows = torch.cat(list(batches))
        labelled = ~(rows < 0).any(1)
        if bool(labelled.any()) and torch.allclose(rows[labelled].sum(1).double(), torch.ones(1).double(), atol=1e-3):
            return Labels(rows.argmax(1).masked_fill(~labelled, -1))
        if bool(((rows <= 0) | (rows == 1)).all()):
            return Labels(truth=rows)
    kind = f"{str(first.dtype).removeprefix('torch.')} {list(first.shape)}"
    LOG.warning("Numbers that need labels are left out: the labels (%s) are not those of the logits.", kind)
    return Labels()


def answers_of(logits: Tensor) -> Tensor:
    """Return the class of each position of dense logits, flat; of a single logit, whether it is above 0.

    Shape:
        `logits` [B, T, C], [B, C, H, W] or [B, C, D, H, W]; returns [positions].

    Example:
        >>> answers_of(torch.tensor([[[0.1, 0.9], [2.0, 1.0]]]))
        tensor([1, 0], dtype=torch.int16)
    """
    axis = class_axis(logits.shape)
    several = logits.shape[axis] > 1
    return _short((logits.argmax(axis) if several else logits.squeeze(axis) > 0).flatten())


def _short(classes: Tensor) -> Tensor:
    """Return classes in few bytes, since a photograph has a million positions; -1 for each negative one."""
    whole = classes.long()
    fits = not whole.numel() or int(whole.amax()) <= _SHORT
    return whole.clamp(min=-1).to(torch.int16 if fits else torch.int32)

"""Removal of samples without a label before classes are compared."""

from __future__ import annotations

from torch import Tensor


def labelled(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that have a label, and their labels; no copy is made if no label is negative.

    Example:
        >>> import torch
        >>> labelled(torch.tensor([[0.0], [1.0]]), torch.tensor([-1, 3]))
        (tensor([[1.]]), tensor([3]))
    """
    known = labels >= 0
    return (rows, labels) if bool(known.all()) else (rows[known], labels[known])

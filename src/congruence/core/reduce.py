"""The one place where per-sample values become a loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from congruence.core import check

Reduction = Literal["none", "mean", "sum"]
REDUCTION = check.Choice(("none", "mean", "sum"))


def reduce(function: str, values: Tensor, reduction: str) -> Tensor:
    """Reduce per-sample `values` [B] by "none", "mean" or "sum".

    Example:
        >>> import torch
        >>> reduce("f", torch.tensor([1.0, 3.0]), "mean")
        tensor(2.)
    """
    check.hyperparameters(function, {"reduction": REDUCTION}, reduction=reduction)
    if reduction == "none":
        return values
    return values.mean() if reduction == "mean" else values.sum()

"""The one place where per-sample values become a loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from congruence.core import check

Reduction = Literal["none", "mean", "sum"]
REDUCTION = check.Choice(("none", "mean", "sum"))


def reduce(function: str, values: Tensor, reduction: str, *, counted: Tensor | None = None) -> Tensor:
    """Reduce per-sample `values` [B] by "none", "mean" or "sum".

    Args:
        function: for the sentence.
        values: 0 where a sample does not count.
        reduction: as named.
        counted: bool [B], the samples over which the mean is taken, 0 where there is none; None: all.

    Example:
        >>> import torch
        >>> reduce("f", torch.tensor([1.0, 3.0]), "mean")
        tensor(2.)
        >>> reduce("f", torch.tensor([1.0, 0.0]), "mean", counted=torch.tensor([True, False]))
        tensor(1.)
    """
    check.hyperparameters(function, {"reduction": REDUCTION}, reduction=reduction)
    if reduction == "none":
        return values
    if reduction == "mean" and counted is not None:
        return values.sum() / counted.sum().clamp(min=1)
    return values.mean() if reduction == "mean" else values.sum()

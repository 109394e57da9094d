"""The reduction of per-sample values to a loss."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from congruence.core import check

Reduction = Literal["none", "mean", "sum"]
REDUCTION = check.Choice(("none", "mean", "sum"))


def reduce(function: str, values: Tensor, reduction: str, *, counted: Tensor | None = None) -> Tensor:
    """Reduce per-sample `values` [B] by "none", "mean" or "sum".

    Args:
        function: the function that an error names.
        values: per-sample values, 0 for samples that do not count.
        reduction: "none", "mean" or "sum".
        counted: bool [B], the samples over which the mean is taken (the mean of none is 0); None: all.

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

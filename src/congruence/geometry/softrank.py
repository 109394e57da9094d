"""Soft ranks of dissimilarities: the differentiable stand-in for sorting."""

from __future__ import annotations

from torch import Tensor

from congruence.core import check
from congruence.core.numerics import float32_island

TEMPERATURE = check.POSITIVE


@float32_island
def soft_rank(dissimilarities: Tensor, temperature: float) -> Tensor:
    """Soft rank of every entry within its row: r̃_ij = Σ_k σ((d_ij − d_ik)/τ), k over all columns, j included.

    As τ tends to 0 it tends to the number of smaller entries plus half the number of equal ones, j included. Rows do
    not see each other: any subset of anchors gives the same numbers. Time and memory are O(A·B²).

    Shape:
        `dissimilarities` [A, B], a row for each anchor; returns [A, B].

    Raises:
        ValueError: unless `dissimilarities` is a non-empty floating matrix and `temperature` > 0.

    Example:
        >>> import torch
        >>> [round(rank, 3) for rank in soft_rank(torch.tensor([[0.0, 0.5, 0.9]]), 0.01)[0].tolist()]
        [0.5, 1.5, 2.5]

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, eq. 3.
    """
    check.floating("soft_rank", 2, dissimilarities=dissimilarities)
    check.hyperparameters("soft_rank", {"temperature": TEMPERATURE}, temperature=temperature)
    return _exact(dissimilarities, temperature)


def _exact(dissimilarities: Tensor, temperature: float) -> Tensor:
    # In place: one [A, B, B] buffer, which the sigmoid's backward needs anyway.
    differences = dissimilarities[:, :, None] - dissimilarities[:, None, :]
    return differences.div_(temperature).sigmoid_().sum(2)

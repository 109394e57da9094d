"""Ranks around chosen anchors, from which the diagnostics of perception coherence are computed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import widen
from congruence.geometry.dissimilarity import (
    DISSIMILARITY,
    Dissimilarity,
    block_rows,
    dissimilarity_blocks,
    pairwise_dissimilarity,
)
from congruence.metrics.order import row_ranks

CHECKS: dict[str, check.Constraint] = {
    "dissimilarity": DISSIMILARITY,
    "teacher_dissimilarity": check.Choice(DISSIMILARITY.choices, callable_too=True, optional=True),
    "chunk_size": check.Real(low=1, closed="low", integer=True, optional=True),
}
_CHUNK_ENTRIES = 2**19


def anchor_ranks(
    function: str, x: Tensor, anchors: Tensor, dissimilarity: Dissimilarity, chunk_size: int | None
) -> Iterator[Tensor]:
    """Yield N·F_i(j) = #{k : d_ik <= d_ij} for the anchors i, `chunk_size` at a time, ties as `perception_coherence`.

    Shape:
        `x` [N, D], `anchors` [A]; yields integers [chunk_size, N], the last block smaller.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> [block.tolist() for block in anchor_ranks("f", x, torch.tensor([2, 0]), "euclidean", 1)]
        [[[3, 2, 1]], [[1, 2, 3]]]
    """
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-6
    rows = chunk_size or block_rows(len(x), _CHUNK_ENTRIES)
    blocks: Iterator[Tensor]
    if isinstance(dissimilarity, str):
        blocks = dissimilarity_blocks(x[anchors], x, dissimilarity, rows)
    else:
        blocks = iter(pairwise_dissimilarity(widen(x), dissimilarity, function=function)[anchors].split(rows))
    for block in blocks:
        yield row_ranks(block, tolerance)


def check_spaces(
    function: str,
    student: Tensor,
    teacher: Tensor,
    dissimilarity: Dissimilarity,
    teacher_dissimilarity: Dissimilarity | None,
    chunk_size: int | None = None,
) -> None:
    """Check two spaces of the same samples and how they are ranked."""
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_rows(function, student=student, teacher=teacher)
    check.finite(function, student=student, teacher=teacher)
    check.hyperparameters(
        function,
        CHECKS,
        dissimilarity=dissimilarity,
        teacher_dissimilarity=teacher_dissimilarity,
        chunk_size=chunk_size,
    )


def check_rows(function: str, argument: str, rows: Tensor, count: int) -> None:
    """Check that `rows` is a non-empty 1-D integer tensor of positions in [0, count)."""
    expected = f"a non-empty 1-D integer tensor of rows in [0, {count})"
    if not isinstance(rows, Tensor):
        check.fail(function, argument, expected, type(rows).__name__)
    if rows.dtype not in check.INTEGERS or rows.dim() != 1 or rows.numel() == 0:
        check.fail(function, argument, expected, f"{rows.dtype} of shape {check.shape(rows)}")
    check.dense(function, **{argument: rows})
    if rows.is_meta:
        check.fail(function, argument, expected, "the device meta, which has no values")
    low, high = (int(value) for value in rows.aminmax())
    if low < 0 or high >= count:
        check.fail(function, argument, expected, high if high >= count else low)


def at_most(share: float, count: int) -> int:
    """Return the largest whole k with k/count <= share, as floats compare.

    Example:
        >>> at_most(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    k = int(share * count) + 1
    while k / count > share:
        k -= 1
    return k


def at_least(share: float, count: int) -> int:
    """Return the smallest whole k >= 0 with k/count >= share, as floats compare.

    Example:
        >>> at_least(0.07, 100), at_least(0.071, 100)
        (7, 8)
    """
    k = max(0, int(share * count) - 1)
    while k / count < share:
        k += 1
    return k

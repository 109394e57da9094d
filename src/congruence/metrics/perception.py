"""Perception coherence: the agreement of two spaces in how each sample ranks all others by distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import widen
from congruence.core.threads import share_out
from congruence.geometry.dissimilarity import (
    DISSIMILARITY,
    Dissimilarity,
    block_maker,
    block_rows,
    pairwise_dissimilarity,
)
from congruence.metrics.order import rank_gaps
from congruence.metrics.subsets import mean_and_spread, subsets

_CHECKS: dict[str, check.Constraint] = {
    "dissimilarity": DISSIMILARITY,
    "teacher_dissimilarity": check.Choice(DISSIMILARITY.choices, callable_too=True, optional=True),
    "chunk_size": check.Real(low=1, closed="low", integer=True, optional=True),
}
_CHUNK_ENTRIES = 2**21  # a product of more rows is faster; what it gives is sorted a few rows at a time


@torch.no_grad()
def perception_coherence(
    student: Tensor,
    teacher: Tensor,
    *,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Perception coherence φ_i of every sample, in [0, 1]; 1 if both spaces rank all others identically around it.

    F_i(j) = (1/N) #{k : d_ik <= d_ij} over all k; φ_i = 1 − (1/N) Σ_j |F_i^s(j) − F_i^t(j)|, i and j included.

    Equal distances have equal ranks. Distances that differ only by rounding count as equal: d_ik <= d_ij is read as
    d_ik <= d_ij + ε|d_ij|, with ε = 1e-6 for float32 and half inputs and 1e-12 for float64.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ; returns [N].

    Args:
        student: embeddings.
        teacher: embeddings.
        dissimilarity: "cosine", "euclidean" or a callable [N, D] → [N, N].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        chunk_size: c, anchors at a time for each of torch's threads (`torch.set_num_threads`); None: about two million
            pairs. Memory is about 48 c N bytes a thread, 16 N (D_s + D_t), and some MB for sorting a few rows at a
            time; a callable needs its whole [N, N].

    Returns:
        float64 [N].

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [1.0], [3.0]])
        >>> perception_coherence(10 * teacher, teacher, dissimilarity="euclidean").tolist()
        [1.0, 1.0, 1.0]

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, defs. 3.2 and 3.3.
    """
    gaps = _rank_gaps("perception_coherence", student, teacher, dissimilarity, teacher_dissimilarity, chunk_size)
    return 1 - gaps.double() / student.shape[0] ** 2


@torch.no_grad()
def global_perception_coherence(
    student: Tensor,
    teacher: Tensor,
    *,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    chunk_size: int | None = None,
) -> float:
    """Global perception coherence level: GPCL = 1 − (1/N²) Σ_ij |F_i^s(j) − F_i^t(j)|, the mean of φ_i.

    F, ties, arguments and memory are as in `perception_coherence`. Ranks are integers: equal rankings give exactly 1,
    and neither the order of the samples nor the chunk size changes the value.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [1.0], [3.0]])
        >>> round(global_perception_coherence(teacher.roll(1, 0), teacher, dissimilarity="euclidean"), 6)
        0.851852

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, def. 3.4.
    """
    gaps = _rank_gaps("global_perception_coherence", student, teacher, dissimilarity, teacher_dissimilarity, chunk_size)
    return 1 - int(gaps.sum()) / student.shape[0] ** 3


@torch.no_grad()
def estimate_perception_coherence(
    student: Tensor,
    teacher: Tensor,
    *,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    batch_size: int,
    repeats: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Estimate the global perception coherence from batches: mean and spread of 1 − DC_B.

    Each batch is drawn without replacement from all samples and ranked by itself. The estimate is biased upwards for
    small batches. The spread is that of the batches, not a confidence interval for the true value.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        dissimilarity: "cosine", "euclidean" or a callable [B, D] → [B, B].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        batch_size: B, from 1 to N.
        repeats: number of batches.
        generator: random generator for the batches.

    Returns:
        The mean over the batches and their standard deviation (n − 1; 0 for one batch).

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> draws = torch.Generator().manual_seed(0)
        >>> estimate_perception_coherence(x, 2 * x, batch_size=3, repeats=5, generator=draws)
        (1.0, 0.0)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, def. 4.1.

    Deviations:
        The paper draws the samples of a batch independently; without replacement, no pair consists of one sample twice.
    """
    name = "estimate_perception_coherence"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.finite(name, student=student, teacher=teacher)
    levels = []
    for drawn in subsets(name, student, "batch_size", batch_size, repeats, generator):
        gaps = _rank_gaps(name, student[drawn], teacher[drawn], dissimilarity, teacher_dissimilarity, None)
        levels.append(1 - int(gaps.sum()) / batch_size**3)
    return mean_and_spread(levels)


def _rank_gaps(
    function: str,
    student: Tensor,
    teacher: Tensor,
    dissimilarity: Dissimilarity,
    teacher_dissimilarity: Dissimilarity | None,
    chunk_size: int | None,
) -> Tensor:
    """Return Σ_j |rank_i^s(j) − rank_i^t(j)| for every anchor, as int64 [N]."""
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_rows(function, student=student, teacher=teacher)
    check.finite(function, student=student, teacher=teacher)
    check.hyperparameters(
        function,
        _CHECKS,
        dissimilarity=dissimilarity,
        teacher_dissimilarity=teacher_dissimilarity,
        chunk_size=chunk_size,
    )
    count, rows = len(student), chunk_size or block_rows(len(student), _CHUNK_ENTRIES)
    student_block = _block_maker(function, student, dissimilarity)
    teacher_block = _block_maker(function, teacher, teacher_dissimilarity or dissimilarity)
    tolerances = _tolerance(student), _tolerance(teacher)
    gaps = torch.empty(count, dtype=torch.int64, device=student.device)

    def work(anchors: slice) -> None:
        gaps[anchors] = rank_gaps(student_block(anchors), teacher_block(anchors), tolerances)

    pieces = [slice(start, start + rows) for start in range(0, count, rows)]
    share_out(work, pieces, student.device)
    return gaps


def _block_maker(function: str, x: Tensor, dissimilarity: Dissimilarity) -> Callable[[slice], Tensor]:
    """Return what gives the dissimilarities [rows, N] of some anchors to all rows of `x`."""
    if isinstance(dissimilarity, str):
        return block_maker(x, x, dissimilarity)
    return pairwise_dissimilarity(widen(x), dissimilarity, function=function).__getitem__


def _tolerance(x: Tensor) -> float:
    return 1e-12 if x.dtype == torch.float64 else 1e-6

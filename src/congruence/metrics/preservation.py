"""How reliably a student preserves the teacher's ranking, around one sample or all, and bounds from coherence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import Dissimilarity
from congruence.metrics.ranks import anchor_ranks, at_least, at_most, check_rows, check_spaces

_CHECKS: dict[str, check.Constraint] = {
    "teacher_gap": check.POSITIVE,
    "student_gap": check.POSITIVE,
    "pairings": check.Real(low=1, closed="low", integer=True, optional=True),
}
_Test = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Preservation:
    """An estimated probability and its bound: `probability` <= `bound`; None if no pair met the condition."""

    level: float  # α: mean φ over the anchors
    condition: float  # P(A)
    probability: float | None
    constant: float | None  # C = 4 / P(A)
    bound: float | None  # C (1 − α) / ε; above 1 it is vacuous
    pairs: int  # pairs examined, over all anchors


@torch.no_grad()
def rank_preservation(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor | None = None,
    *,
    teacher_gap: float = 0.05,
    student_gap: float = 0.2,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    pairings: int | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Preservation:
    """How often samples with similar ranks around an anchor for the teacher are ranked far apart by the student.

    P(|F^s(x, X') − F^s(x, X)| >= ε₂ | A) <= C (1 − α)/(ε₂ − ε₁), A: |F^t(x, X') − F^t(x, X)| <= ε₁, C = 4/P(A).
    F is that of `perception_coherence`, on the N samples. One anchor x gives the local theorem, all anchors the global
    one. Pairs (X, X') are (j, π(j)) for permutations π of the samples: X and X' are each uniform, so the bound holds
    for the estimate itself, for any number of permutations.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ; `anchors` int64 [A].

    Args:
        student: embeddings.
        teacher: embeddings.
        anchors: the rows x, a single one for theorem 4.2; None: all rows, theorem 4.4.
        teacher_gap: ε₁ > 0, as a fraction of the samples.
        student_gap: ε₂ > ε₁.
        dissimilarity: "cosine", "euclidean" or a callable [N, D] → [N, N].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        pairings: number of random permutations, the same for all anchors; None: all N² pairs of each anchor, in A N²
            steps.
        generator: random generator, needed with `pairings` and otherwise unused.
        chunk_size: c, anchors processed at once; None: half a million ranks. Memory is about
            (80 c + 8 `pairings`) N + 16 N (D_s + D_t) bytes; a callable needs its whole [N, N].

    Returns:
        The estimate, its bound, and the quantities in them: fractions in [0, 1] (except `bound` and `constant`).

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.arange(20.0)[:, None]
        >>> student = teacher.clone()
        >>> student[19] = -1.0  # the farthest from sample 0 becomes its neighbour
        >>> result = rank_preservation(student, teacher, torch.tensor([0]), dissimilarity="euclidean")
        >>> round(result.level, 4), round(result.probability, 4), round(result.bound, 4)
        (0.9125, 0.0345, 16.092)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, theorems 4.2 and 4.4.1 (C in
        proofs B.1 and C.1).

    Deviations:
        The proof uses lemma B.1 and assumption 4.2 (no two samples with the same gap of ranks), which a finite set
        violates. The same constant follows without them: P(max(U, U') >= t) <= 2 P(U >= t) for identically distributed
        U, U'.
    """
    name = "rank_preservation"
    check.hyperparameters(name, _CHECKS, teacher_gap=teacher_gap, student_gap=student_gap)
    if student_gap <= teacher_gap:
        check.fail(name, "student_gap", f"larger than `teacher_gap` ({teacher_gap})", student_gap)
    check_spaces(name, student, teacher, dissimilarity, teacher_dissimilarity, chunk_size)
    rows = len(student)
    most, least = at_most(teacher_gap, rows), at_least(student_gap, rows)
    return _preservation(
        _ranked(name, student, teacher, anchors, dissimilarity, teacher_dissimilarity, chunk_size),
        _drawn(name, rows, pairings, generator),
        lambda change: change.abs() <= most,
        lambda change: change.abs() >= least,
        student_gap - teacher_gap,
    )


@torch.no_grad()
def order_preservation(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor | None = None,
    *,
    student_gap: float = 0.2,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    pairings: int | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Preservation:
    """How often the student ranks a sample clearly farther from an anchor although the teacher ranks it nearer.

    P(F^s(x, X') − F^s(x, X) >= ε | A) <= C (1 − α)/ε, A: F^t(x, X') <= F^t(x, X), C = 4/P(A). Pairs, F and the other
    arguments are as in `rank_preservation`.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ; `anchors` int64 [A].

    Args:
        student: embeddings.
        teacher: embeddings.
        anchors: the rows x, a single one for theorem 4.3; None: all rows, theorem 4.4.
        student_gap: ε > 0, as a fraction of the samples.
        dissimilarity: "cosine", "euclidean" or a callable [N, D] → [N, N].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        pairings: number of random permutations; None: all N² pairs of each anchor.
        generator: random generator for the permutations.
        chunk_size: anchors processed at once.

    Returns:
        The estimate, its bound, and the quantities in them.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.arange(20.0)[:, None]
        >>> student = teacher.clone()
        >>> student[19] = -1.0
        >>> result = order_preservation(student, teacher, torch.tensor([0]), dissimilarity="euclidean")
        >>> round(result.probability, 4), round(result.bound, 4)
        (0.0667, 3.3333)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, theorems 4.3 and 4.4.2 (C in
        proofs B.2 and C.1).

    Deviations:
        The proof applies lemma B.1, which needs an event that is symmetric in X and X'; this one is not. The constant
        is still right, by the argument in `rank_preservation`.
    """
    name = "order_preservation"
    check.hyperparameters(name, _CHECKS, student_gap=student_gap)
    check_spaces(name, student, teacher, dissimilarity, teacher_dissimilarity, chunk_size)
    least = at_least(student_gap, len(student))
    return _preservation(
        _ranked(name, student, teacher, anchors, dissimilarity, teacher_dissimilarity, chunk_size),
        _drawn(name, len(student), pairings, generator),
        lambda change: change <= 0,
        lambda change: change >= least,
        student_gap,
    )


def _drawn(function: str, rows: int, pairings: int | None, generator: torch.Generator | None) -> list[Tensor] | None:
    check.hyperparameters(function, _CHECKS, pairings=pairings)
    if pairings is None:
        return None
    if not isinstance(generator, torch.Generator):
        check.fail(function, "generator", "a torch.Generator where `pairings` are drawn", type(generator).__name__)
    return [torch.randperm(rows, generator=generator, device=generator.device) for _ in range(pairings)]


def _ranked(
    function: str,
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor | None,
    dissimilarity: Dissimilarity,
    teacher_dissimilarity: Dissimilarity | None,
    chunk_size: int | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the ranks of student and teacher around the anchors, a chunk at a time."""
    if anchors is None:
        anchors = torch.arange(len(student), device=student.device)
    check_rows(function, "anchors", anchors, len(student))
    return zip(
        anchor_ranks(function, student, anchors, dissimilarity, chunk_size),
        anchor_ranks(function, teacher, anchors, teacher_dissimilarity or dissimilarity, chunk_size),
        strict=True,
    )


def _preservation(
    ranks: Iterator[tuple[Tensor, Tensor]],
    drawn: list[Tensor] | None,
    condition: _Test,
    event: _Test,
    margin: float,
) -> Preservation:
    """Count pairs over all anchors; both tests get the difference of ranks between j and its partner."""
    anchors = gaps = pairs = met = held = rows = 0
    for ours, theirs in ranks:
        anchors, rows = anchors + len(ours), ours.shape[1]
        gaps += int((ours - theirs).abs_().sum())
        for other in drawn or _shifts(ours):
            partner = other.to(ours.device)
            close = condition(theirs[:, partner] - theirs)
            pairs += close.numel()
            met += int(close.sum())
            held += int((close & event(ours[:, partner] - ours)).sum())
    level, share = 1 - gaps / (anchors * rows**2), met / pairs
    if not met:
        return Preservation(level=level, condition=0.0, probability=None, constant=None, bound=None, pairs=pairs)
    return Preservation(
        level=level,
        condition=share,
        probability=held / met,
        constant=4 / share,
        bound=4 / share * (1 - level) / margin,
        pairs=pairs,
    )


def _shifts(ranks: Tensor) -> Iterator[Tensor]:
    """Yield the N cyclic shifts of the samples: together every pair once."""
    columns = torch.arange(ranks.shape[1], device=ranks.device)
    for step in range(len(columns)):
        yield columns.roll(step)

"""How far perception coherence can drop around a region in which it is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import Dissimilarity
from congruence.metrics.ranks import anchor_ranks, at_most, check_rows, check_spaces

_CHECKS: dict[str, check.Constraint] = {
    "radius": check.Real(low=0, high=1, closed="high"),
    "drop": check.POSITIVE,
}


@dataclass(frozen=True, kw_only=True)
class PerceptionStability:
    """Both sides of theorem 4.5: `probability` <= `bound`."""

    level: float  # α: the smallest φ in the region
    share: float  # P(A_δ)
    probability: float  # P(φ <= α − ε | A_δ)
    constant: float  # C_δ
    bound: float  # C_δ / (ε P(A_δ)); above 1 it is vacuous


@torch.no_grad()
def perception_stability(
    student: Tensor,
    teacher: Tensor,
    region: Tensor,
    *,
    radius: float = 0.1,
    drop: float = 0.1,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    chunk_size: int | None = None,
) -> PerceptionStability:
    """How often coherence drops around a region in which it is at least α.

    P(φ(X) <= α − ε | X ∈ A_δ) <= C_δ/(ε P(A_δ)), A the region, α = min_A φ and
    A_δ = {x : min_{a∈A} max(F^s(a, x), F^t(a, x)) <= δ}. With a(x) the nearest of A, C_δ is the largest
    |F^t(x, x') − F^s(x, x')| − |F^t(a(x), x') − F^s(a(x), x')| over x in A_δ and all x', at least 0. F and φ are those
    of `perception_coherence`, on the N samples; X is one of them.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ; `region` int64 [A].

    Args:
        student: embeddings.
        teacher: embeddings.
        region: the rows of A.
        radius: δ in (0, 1], as a fraction of the samples.
        drop: ε > 0.
        dissimilarity: "cosine", "euclidean" or a callable [N, D] → [N, N].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        chunk_size: c, rows ranked at a time; None: half a million ranks. Memory is about 100 c N + 32 N (D_s + D_t)
            bytes; a callable needs its whole [N, N]. Ranks are computed once around A and twice around A_δ.

    Returns:
        Both sides of the bound and the quantities in them: fractions in [0, 1] (except `bound`).

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.arange(10.0)[:, None]
        >>> student = teacher.clone()
        >>> student[7:] = student[7:].flip(0)  # the last three in reverse order
        >>> settings = {"radius": 0.7, "drop": 0.02, "dissimilarity": "euclidean"}
        >>> stability = perception_stability(student, teacher, torch.tensor([0]), **settings)
        >>> round(stability.level, 4), stability.share, round(stability.probability, 4), round(stability.constant, 4)
        (0.96, 0.7, 0.4286, 0.2)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, theorem 4.5 and proof D.1.

    Deviations:
        The paper has C_δ = O(δ), for metrics under assumption 4.3; "cosine" breaks the triangle inequality and a finite
        set is not continuous, so C_δ is measured. A point is at F = 1/N from itself, not 0: A is counted in A_δ at any
        δ. The last step of the proof writes P(A) for P(A_δ), which is larger; the second line of its chain omits α −.
        Keeping the condition throughout would give C_δ/ε, without P(A_δ).
    """
    name = "perception_stability"
    check_spaces(name, student, teacher, dissimilarity, teacher_dissimilarity, chunk_size)
    check.hyperparameters(name, _CHECKS, radius=radius, drop=drop)
    rows = len(student)
    check_rows(name, "region", region, rows)
    region = region.to(student.device).long()

    def ranked(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        ours = anchor_ranks(name, student, chosen, dissimilarity, chunk_size)
        theirs = anchor_ranks(name, teacher, chosen, teacher_dissimilarity or dissimilarity, chunk_size)
        return zip(ours, theirs, strict=True)

    least, nearest, worst = _nearest(ranked(region), region, rows)
    close = (least <= at_most(radius, rows)).nonzero().squeeze(1)
    constant = dropped = 0
    for (ours, theirs), (near, near_theirs) in zip(ranked(close), ranked(nearest[close]), strict=True):
        gaps = (ours - theirs).abs()
        constant = max(constant, int((gaps - (near - near_theirs).abs()).max()))
        dropped += int(((gaps.sum(1) - worst).double() / rows**2 >= drop).sum())
    share = len(close) / rows
    return PerceptionStability(
        level=1 - worst / rows**2,
        share=share,
        probability=dropped / len(close),
        constant=constant / rows,
        bound=constant / rows / (drop * share),
    )


def _nearest(ranks: Iterator[tuple[Tensor, Tensor]], region: Tensor, rows: int) -> tuple[Tensor, Tensor, int]:
    """Return, for every x, min_a N·F(a, x) and its a (the first of equals); and the largest N²·(1 − φ) in A.

    A row of the region is its own nearest, at 0.
    """
    count, start, worst = len(region), 0, 0
    best = torch.full((rows,), (rows + 1) * count, dtype=torch.int64, device=region.device)
    for ours, theirs in ranks:
        worst = max(worst, int((ours - theirs).abs().sum(1).max()))
        order = torch.arange(start, start + len(ours), device=region.device)[:, None]
        best = torch.minimum(best, (torch.maximum(ours, theirs).long() * count + order).amin(0))
        start += len(ours)
    least, nearest = best // count, region[best % count]
    least[region], nearest[region] = 0, region
    return least, nearest, worst

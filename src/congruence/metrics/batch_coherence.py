"""The estimate of perception coherence as a function of the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import Dissimilarity
from congruence.metrics.perception import estimate_perception_coherence
from congruence.metrics.ranks import check_spaces

_CHECKS: dict[str, check.Constraint] = {"repeats": check.COUNT}


@dataclass(frozen=True, kw_only=True)
class BatchCoherence:
    """One point of the curve: mean and spread of 1 − DC_B over batches of one size."""

    batch_size: int
    mean: float
    spread: float  # standard deviation over the batches (n − 1)


@torch.no_grad()
def batch_coherence(
    student: Tensor,
    teacher: Tensor,
    *,
    batch_sizes: Sequence[int],
    repeats: int,
    generator: torch.Generator,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
) -> tuple[BatchCoherence, ...]:
    """Mean and spread of the mini-batch estimate 1 − DC_B of the global perception coherence, for each batch size B.

    Each point is `estimate_perception_coherence`. Its error E|DC_B − DC| falls at least like 1/√B: the spread of a
    batch falls like 1/√B, and the upward bias like 1/B.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        batch_sizes: B, each from 1 to N.
        repeats: batches drawn for each B.
        generator: random generator for the batches, used from the first B to the last.
        dissimilarity: "cosine", "euclidean" or a callable [B, D] → [B, B].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.

    Returns:
        One point for each B, in the order given; a level in [0, 1] and its spread. Memory is linear in N and in B².

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> draws = torch.Generator().manual_seed(0)
        >>> for point in batch_coherence(x, 2 * x, batch_sizes=(2, 4), repeats=5, generator=draws):
        ...     print(point)
        BatchCoherence(batch_size=2, mean=1.0, spread=0.0)
        BatchCoherence(batch_size=4, mean=1.0, spread=0.0)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, theorem 4.1 and fig. 6.

    Deviations:
        Table 4 gives ± without saying of what; its values are far below the spread of one batch. Batches are drawn
        without replacement, so the spread for B = N is 0.
    """
    name = "batch_coherence"
    check_spaces(name, student, teacher, dissimilarity, teacher_dissimilarity)
    check.hyperparameters(name, _CHECKS, repeats=repeats)
    size = check.Real(low=1, high=len(student), closed="both", integer=True)
    if not batch_sizes or not all(size.accepts(value) for value in batch_sizes):
        check.fail(name, "batch_sizes", f"one or more numbers, each {size.describe()}", list(batch_sizes))
    if not isinstance(generator, torch.Generator):
        check.fail(name, "generator", "a torch.Generator", type(generator).__name__)
    points = []
    for batch_size in batch_sizes:
        mean, spread = estimate_perception_coherence(
            student,
            teacher,
            dissimilarity=dissimilarity,
            teacher_dissimilarity=teacher_dissimilarity,
            batch_size=batch_size,
            repeats=repeats,
            generator=generator,
        )
        points.append(BatchCoherence(batch_size=batch_size, mean=mean, spread=spread))
    return tuple(points)

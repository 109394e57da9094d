"""Relative similarity: pairs of a batch are ordered by similarity as the teacher orders them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit

CHECKS: Mapping[str, check.Constraint] = {
    "margin": check.NOT_NEGATIVE,
    "sampled_pairs": check.Real(low=1, closed="low", integer=True, optional=True),
}


@float32_island
def relative_similarity_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    margin: float = 0.015,
    sampled_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Hinge loss on the order of the cosines of a batch's pairs, over all pairs of pairs.

    s_p and t_p are the cosines of student and teacher of the P = B(B − 1)/2 pairs p = (i, j), i < j, row by row. With
    σ_pq = 1 if t_q < t_p and −1 otherwise: L = 2/(P(P − 1)) Σ_{p<q} max(0, σ_pq (s_q − s_p) + m). Of two pairs, the one
    that is less similar for the teacher should be less similar for the student too, by the margin m. All P(P − 1)/2
    terms are summed in O(B² log² B) time, besides the cosines, and O(B²) memory: see `_active`.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings; only the order of their cosines counts, so their gradient is 0.
        margin: m >= 0. With m > 0 the loss of a student equal to the teacher is not 0: pairs whose cosines differ by
            less than m for the teacher must still be separated by m.
        sampled_pairs: None for all pairs of pairs, or the number of pairs of pairs to draw uniformly and independently
            and average over: an unbiased estimate.
        generator: random generator, needed with `sampled_pairs`.

    Returns:
        The loss, in float32 or float64; 0 for fewer than three samples. A row of zeros has cosine 0 to all.

    Raises:
        ValueError: for shapes that do not fit, a hyper-parameter out of its range, or draws without a generator.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])  # cosines 0.8, 0, 0.6
        >>> relative_similarity_loss(teacher, teacher).item()
        0.0
        >>> round(relative_similarity_loss(teacher.roll(1, 0), teacher).item(), 4)  # 0, 0.6, 0.8
        0.4767

    Reference:
        Zhang et al., Jasper and Stella, arXiv 2412.19048, and the authors' code; weight 20, with 200 for
        `correlation_congruence_loss(kernel="bilinear")` and 10 for `cosine_loss`; the first two are averaged over
        widths to which the student is truncated, while the teacher keeps its full width.

    Deviations:
        None in value. The authors' code stores all pairs of pairs at once, O(B⁴). As in that code, of two pairs with
        equal t the first should be less similar, so the order of the batch matters for these.
    """
    name = "relative_similarity_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, margin=margin, sampled_pairs=sampled_pairs)
    if sampled_pairs is not None and not isinstance(generator, torch.Generator):
        check.fail(name, "generator", "a torch.Generator where `sampled_pairs` are drawn", type(generator).__name__)
    student_rows, teacher_rows = unit(as_float64(student)), unit(as_float64(teacher))
    ours, theirs = _pairs(student_rows), _pairs(teacher_rows)
    # Non-finite values have no order, but must show: 0 times them is NaN.
    shown = 0 * (student_rows.sum() + teacher_rows.sum())
    if len(ours) < 2:
        return shown.to(student.dtype)
    if sampled_pairs is not None and generator is not None:
        first, second = _drawn(len(ours), sampled_pairs, generator)
        first, second = first.to(ours.device), second.to(ours.device)
        gap = ours[second] - ours[first]
        loss = (torch.where(theirs[second] < theirs[first], gap, -gap) + margin).clamp(min=0).mean()
        return (loss + shown).to(student.dtype)
    # A stable sort puts the earlier of equal values first; each term is then max(0, s_a − s_b + m) with a before b.
    ours = ours[theirs.sort(stable=True).indices]
    times, active = _active(ours.detach(), margin)
    count = math.comb(len(ours), 2)
    loss = (times.to(ours.dtype) / count * ours).sum() + active.to(ours.dtype) * (margin / count)
    return (loss + shown).to(student.dtype)


def _pairs(rows: Tensor) -> Tensor:
    """Return the inner products of all pairs i < j, row by row."""
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    return (rows @ rows.T)[first, second]


def _drawn(pairs: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two different indices of `pairs`, the lower first, `count` times."""
    device = generator.device
    one = torch.randint(pairs, (count,), generator=generator, device=device)
    other = torch.randint(pairs - 1, (count,), generator=generator, device=device)
    other = other + (other >= one)
    return torch.minimum(one, other), torch.maximum(one, other)


def _active(values: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return each value's count in Σ_{a<b} max(0, v_a − v_b + m), as v_a minus as v_b, and the number of terms > 0.

    The sum is piecewise linear in the values, so these counts give the sum and its gradient. They come from a merge
    sort: adjacent blocks of 1, 2, 4, ... values are sorted; for each value of a left block, bisection finds how many
    values of the right block are below v_a + m, and likewise for values of the right block. Each pair a < b meets in
    exactly one of the O(log P) rounds.
    """
    size = 1 << (len(values) - 1).bit_length()
    # Padding to a power of two comes last and is infinite, so no term with it is > 0.
    block = torch.cat([values, values.new_full((size - len(values),), math.inf)])[:, None]
    place = torch.arange(size, device=values.device)[:, None]
    times = torch.zeros_like(place).flatten()
    active = times.new_zeros(())
    while len(block) > 1:
        left, right = block[0::2].contiguous(), block[1::2].contiguous()
        raised = left + margin
        below = torch.searchsorted(right, raised)
        above = left.shape[1] - torch.searchsorted(raised, right, right=True)
        times = times.index_add(0, place[0::2].flatten(), below.flatten())
        times = times.index_add(0, place[1::2].flatten(), -above.flatten())
        active = active + below.sum()
        block, order = block.reshape(len(block) // 2, -1).sort(1)
        place = place.reshape(len(block), -1).gather(1, order)
    return times[: len(values)], active


class RelativeSimilarityLoss(nn.Module):
    """`relative_similarity_loss` with its hyper-parameters stored; the generator is passed with the embeddings."""

    def __init__(self, *, margin: float = 0.015, sampled_pairs: int | None = None) -> None:
        super().__init__()
        check.hyperparameters("RelativeSimilarityLoss", CHECKS, margin=margin, sampled_pairs=sampled_pairs)
        self.margin = margin
        self.sampled_pairs = sampled_pairs

    def forward(self, student: Tensor, teacher: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return relative_similarity_loss(
            student, teacher, margin=self.margin, sampled_pairs=self.sampled_pairs, generator=generator
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"margin={self.margin}, sampled_pairs={self.sampled_pairs}"

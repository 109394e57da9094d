"""Perception coherence: around each sample, the student should rank the batch as the teacher does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry import tiles
from congruence.geometry.dissimilarity import DISSIMILARITY, Dissimilarity, pairwise_dissimilarity
from congruence.geometry.softrank import METHOD, TEMPERATURE, Method, soft_rank_within

CHECKS: Mapping[str, check.Constraint] = {
    "dissimilarity": DISSIMILARITY,
    "teacher_dissimilarity": dataclasses.replace(DISSIMILARITY, optional=True),
    "student_temperature": TEMPERATURE,
    "teacher_temperature": TEMPERATURE,
    "method": METHOD,
}
_BOUNDS = {"cosine": 1.0}


@float32_island
def perception_coherence_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    dissimilarity: Dissimilarity = "cosine",
    teacher_dissimilarity: Dissimilarity | None = None,
    student_temperature: float = 0.3,
    teacher_temperature: float = 0.1,
    method: Method = "auto",
) -> Tensor:
    """Mean squared difference of the soft ranks of a batch around each of its samples, in the two spaces.

    r̃_ij = Σ_k σ((d_ij − d_ik)/τ) over all k, i and j included; L = (1/B³) Σ_i ‖r̃_i^s − r̃_i^t‖².

    Only the order of the dissimilarities counts, so the student need not copy the teacher's geometry. For a student
    equal to the teacher, the loss is exactly 0 only if the temperatures are equal.

    Above 4,096 rows, and with named dissimilarities, the loss is computed in blocks of rows, value and gradient: no
    [B, B] matrix is in memory, and there is no second derivative.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings or logits.
        teacher: embeddings or logits.
        dissimilarity: "cosine" (1 − cos)/2, "euclidean" (not squared) or a callable [B, D] → [B, B].
        teacher_dissimilarity: the teacher's dissimilarity; None: as for the student.
        student_temperature: τ > 0 of the student's ranks.
        teacher_temperature: τ > 0 of the teacher's ranks.
        method: "exact" is the defining sum, O(B³) in time and memory; "fast" expands the sigmoid in m polynomials,
            O(B²·m) in time and O(B²) in memory, exact to the precision of the dtype (see `soft_rank`, also for the cost
            of a second derivative); "auto" chooses the faster one by the batch size.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a hyper-parameter out of its range, or a callable that does not return
            [B, B].

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> same = {"student_temperature": 0.1, "teacher_temperature": 0.1}
        >>> perception_coherence_loss(3 * teacher, 3 * teacher, **same).item()
        0.0
        >>> perception_coherence_loss(teacher.roll(1, 0), teacher, **same).item() > 0.01
        True

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, eqs. 3 and 4.

    Deviations:
        None. The paper's temperatures are τ_t = 0.1, τ_s = 0.3 for retrieval (the defaults) and τ_t = 0.2, τ_s = 0.3
        for classification.
    """
    name = "perception_coherence_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.hyperparameters(
        name,
        CHECKS,
        dissimilarity=dissimilarity,
        teacher_dissimilarity=teacher_dissimilarity,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        method=method,
    )
    if teacher_dissimilarity is None:
        teacher_dissimilarity = dissimilarity
    if tiles.is_large(student) and isinstance(dissimilarity, str) and isinstance(teacher_dissimilarity, str):
        measures, temperatures = (dissimilarity, teacher_dissimilarity), (student_temperature, teacher_temperature)
        return tiles.perception_coherence(student, teacher, measures, temperatures, method).to(student.dtype)
    student_ranks, teacher_ranks = (
        soft_rank_within(pairwise_dissimilarity(x, measure, function=name), temperature, method, _bound(measure))
        for x, measure, temperature in (
            (student, dissimilarity, student_temperature),
            (teacher, teacher_dissimilarity, teacher_temperature),
        )
    )
    return (student_ranks - teacher_ranks).square().sum() / student.shape[0] ** 3


def _bound(dissimilarity: Dissimilarity) -> float:
    return _BOUNDS.get(dissimilarity, math.inf) if isinstance(dissimilarity, str) else math.inf


class PerceptionCoherenceLoss(nn.Module):
    """`perception_coherence_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        dissimilarity: Dissimilarity = "cosine",
        teacher_dissimilarity: Dissimilarity | None = None,
        student_temperature: float = 0.3,
        teacher_temperature: float = 0.1,
        method: Method = "auto",
    ) -> None:
        super().__init__()
        check.hyperparameters(
            "PerceptionCoherenceLoss",
            CHECKS,
            dissimilarity=dissimilarity,
            teacher_dissimilarity=teacher_dissimilarity,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            method=method,
        )
        self.dissimilarity = dissimilarity
        self.teacher_dissimilarity = teacher_dissimilarity
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.method: Method = method

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return perception_coherence_loss(
            student,
            teacher,
            dissimilarity=self.dissimilarity,
            teacher_dissimilarity=self.teacher_dissimilarity,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            method=self.method,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"dissimilarity={self.dissimilarity!r}, teacher_dissimilarity={self.teacher_dissimilarity!r}, "
            f"student_temperature={self.student_temperature}, teacher_temperature={self.teacher_temperature}, "
            f"method={self.method!r}"
        )

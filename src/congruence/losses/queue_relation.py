"""Queue relation: each sample's similarities to the teacher's earlier embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island, unit
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.losses.kd import divergence

CHECKS: Mapping[str, check.Constraint] = {
    "student_temperature": check.POSITIVE,
    "teacher_temperature": check.POSITIVE,
    "reduction": REDUCTION,
}


@float32_island
def queue_relation_loss(
    student: Tensor,
    teacher: Tensor,
    queue: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence between the two networks' softmax over cosines to a queue of the teacher's embeddings.

    With rows of length 1 and p = softmax(x queueᵀ / T) over the queue: ℓ_b = KL(p_b^t ‖ p_b^s); "mean" is over the
    batch. There is no factor T². Memory is B·Q entries for each side.

    Shape:
        `student` and `teacher` [B, D], `queue` [Q, D]; returns [], or [B] for `reduction="none"`.

    Args:
        student: embeddings, projected to the teacher's width if it differs.
        teacher: embeddings.
        queue: the teacher's embeddings of other samples, constants without gradient.
        student_temperature: T > 0 of the student.
        teacher_temperature: T > 0 of the teacher.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64; 0 for a queue of one row, and for a student equal to the teacher if the
        temperatures are equal. A row of zeros has cosine 0 to all rows.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher, queue = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> queue_relation_loss(3 * teacher, teacher, queue).item()
        0.0
        >>> round(queue_relation_loss(teacher.flip(0), teacher, queue).item(), 4)
        9.4144

    Reference:
        From the definition, after the public documentation of LightlyTrain, which compares student and teacher by
        their similarity to a queue of the teacher's embeddings.

    Deviations:
        The documentation gives no temperature: the defaults here are ours.
    """
    name = "queue_relation_loss"
    check.floating(name, 2, student=student, teacher=teacher, queue=queue)
    check.same_shape(name, student=student, teacher=teacher)
    check.same_width(name, student=student, queue=queue)
    check.hyperparameters(
        name, CHECKS, student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    others = unit(queue.detach())
    student_logits = unit(student) @ others.T.to(student.dtype) / student_temperature
    teacher_logits = unit(teacher) @ others.T.to(teacher.dtype) / teacher_temperature
    return reduce(name, divergence(student_logits, teacher_logits), reduction)


class QueueRelationLoss(nn.Module):
    """`queue_relation_loss` with its hyper-parameters stored."""

    def __init__(
        self, *, student_temperature: float = 0.1, teacher_temperature: float = 0.1, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check.hyperparameters(
            "QueueRelationLoss",
            CHECKS,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            reduction=reduction,
        )
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.reduction: Reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor, queue: Tensor) -> Tensor:
        """Return the loss of `student` and `teacher` [B, D] with the `queue` [Q, D]."""
        return queue_relation_loss(
            student,
            teacher,
            queue,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"student_temperature={self.student_temperature}, teacher_temperature={self.teacher_temperature}, "
            f"reduction={self.reduction!r}"
        )

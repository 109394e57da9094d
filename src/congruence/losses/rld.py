"""Refined logits: the teacher's confidence is moved to the label; classes that it ranks below the label are matched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.beside_label import one_against_others
from congruence.losses.kd import divergence

CHECKS: Mapping[str, check.Constraint] = {
    "alpha": check.NOT_NEGATIVE,
    "beta": check.NOT_NEGATIVE,
    "temperature": check.POSITIVE,
    "confidence_temperature": check.Real(low=0, optional=True),
    "reduction": REDUCTION,
}


@float32_island
def refined_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    confidence_temperature: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence of the teacher's confidence, moved to the label, and of the classes it ranks below the label.

    With p and q = softmax(z / T_a) of teacher and student, and p̌ and q̌ = softmax of z / T over the classes whose
    teacher logit is below that of the label, t_c < t_y:  ℓ_b = α T_a² KL([p_max, 1 − p_max] ‖ [q_y, 1 − q_y]) + β T²
    KL(p̌ ‖ q̌). The second term is 0 if the label has the teacher's smallest logit; both are 0 if y_b < 0 (no label).
    "mean" is over the labelled rows, and 0 where there is none. If the teacher is right, this equals DKD.

    Shape:
        `student_logits` and `teacher_logits` [B, C], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        alpha: α >= 0, weight of the confidence.
        beta: β >= 0, weight of the classes below the label.
        temperature: T > 0.
        confidence_temperature: T_a > 0; None: T.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. If the teacher is wrong, it is not 0 for a student equal to the teacher.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 2.0, 0.0, -1.0]])
        >>> right, wrong = torch.tensor([0]), torch.tensor([1])
        >>> refined_logit_loss(teacher, teacher, right).item()
        0.0
        >>> swapped = teacher[:, [1, 0, 2, 3]]  # as confident in the label as the teacher is in its prediction
        >>> round(abs(refined_logit_loss(swapped, teacher, wrong).item()), 4)
        0.0

    Reference:
        Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025, arXiv 2408.07703, and the authors' code.

    Deviations:
        Computed from log-probabilities; the released code takes logarithms of probabilities, which gives infinity and
        NaN for logits of 1e4. Its configuration has T_a = 1, but its command line sets T_a = T, which is the default
        here (None). It also multiplies by min(epoch / 20, 1).
    """
    name = "refined_logit_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.class_labels(name, student_logits.shape[1], unlabelled=True, labels=labels)
    check.same_rows(name, student_logits=student_logits, labels=labels)
    check.hyperparameters(
        name,
        CHECKS,
        alpha=alpha,
        beta=beta,
        temperature=temperature,
        confidence_temperature=confidence_temperature,
        reduction=reduction,
    )
    labelled = labels >= 0
    # Unlabelled rows must not count: set equal logits, so that no class is below another.
    student, teacher = (
        torch.where(labelled[:, None], z, torch.zeros_like(z)) for z in (student_logits, teacher_logits)
    )
    classes = labels.long().clamp(min=0)
    first = torch.where(labelled, teacher.argmax(1), 0)
    sure = temperature if confidence_temperature is None else confidence_temperature
    confidence = divergence(one_against_others(student / sure, classes), one_against_others(teacher / sure, first))
    below = (teacher < teacher.gather(1, classes[:, None])) & ~teacher.isneginf()  # a masked class does not count
    none = ~below.any(1, keepdim=True)
    # Rows without such a class keep all classes, as zeros, so that their divergence is 0.
    ours, theirs = (
        (z / temperature).masked_fill(~(below | none), -torch.inf).masked_fill(none, 0) for z in (student, teacher)
    )
    values = alpha * sure**2 * confidence + beta * temperature**2 * divergence(ours, theirs)
    return reduce(name, values, reduction, counted=labelled)


class RefinedLogitLoss(nn.Module):
    """`refined_logit_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        hyperparameters = {
            "alpha": alpha,
            "beta": beta,
            "temperature": temperature,
            "confidence_temperature": confidence_temperature,
            "reduction": reduction,
        }
        check.hyperparameters("RefinedLogitLoss", CHECKS, **hyperparameters)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.confidence_temperature = confidence_temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C] with `labels` [B]."""
        return refined_logit_loss(
            student_logits,
            teacher_logits,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            confidence_temperature=self.confidence_temperature,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}, "
            f"confidence_temperature={self.confidence_temperature}, reduction={self.reduction!r}"
        )

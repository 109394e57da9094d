"""Normalised distillation: the label's class, weighted by the teacher, and the other classes among themselves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.beside_label import expectation, other_logits

CHECKS: Mapping[str, check.Constraint] = {
    "gamma": check.NOT_NEGATIVE,
    "temperature": check.POSITIVE,
    "reduction": REDUCTION,
}


@float32_island
def normalized_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy with the teacher: of the label's class, and of the other classes normalised among themselves.

    With p, q = softmax(z) of teacher and student, and p̂, q̂ = softmax of z / T over the classes c ≠ y:
    ℓ_b = −p_y log q_y − γ T² Σ_{c≠y} p̂_c log q̂_c, p_y a constant; 0 where y_b < 0 (no label).
    "mean" is over the labelled rows, and 0 if there are none.

    Shape:
        `student_logits` and `teacher_logits` [B, C], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        gamma: γ >= 0, weight of the other classes.
        temperature: T > 0, for the other classes.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. As a sum of cross-entropies, it is not 0 for a student equal to the teacher.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> label = torch.tensor([0])
        >>> teacher = torch.tensor([[1e4, 0.0, 0.0]])  # certain of the label; the two others are equally likely
        >>> round(normalized_kd_loss(teacher, teacher, label, gamma=1.0).item(), 4)  # ln 2
        0.6931

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss
        and Customized Soft Labels, ICCV 2023, and the authors' code. They add it to a cross-entropy, with (γ, T) of
        (1.5, 1) on ImageNet and (3.5, 3) on CIFAR.

    Deviations:
        None in value. The released code also accepts soft labels, and uses their largest entry.
    """
    name = "normalized_kd_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.class_labels(name, student_logits.shape[1], unlabelled=True, labels=labels)
    check.same_rows(name, student_logits=student_logits, labels=labels)
    check.hyperparameters(name, CHECKS, gamma=gamma, temperature=temperature, reduction=reduction)
    labelled = labels >= 0
    # Unlabelled rows must not count.
    student, teacher = (
        torch.where(labelled[:, None], z, torch.zeros_like(z)) for z in (student_logits, teacher_logits)
    )
    classes = labels.long().clamp(min=0)
    own = teacher.detach().softmax(1).gather(1, classes[:, None])
    target = expectation(own, student.log_softmax(1).gather(1, classes[:, None]))
    values = -target
    if gamma > 0:  # an infinite term times 0 would be NaN
        ours, theirs = (other_logits(z / temperature, classes) for z in (student, teacher))
        values = values - gamma * temperature**2 * expectation(theirs.softmax(1), ours.log_softmax(1))
    values = torch.where(labelled, values, 0.0)
    return reduce(name, values, reduction, counted=labelled)


class NormalizedKdLoss(nn.Module):
    """`normalized_kd_loss` with its hyper-parameters stored."""

    def __init__(self, *, gamma: float = 1.5, temperature: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        hyperparameters = {"gamma": gamma, "temperature": temperature, "reduction": reduction}
        check.hyperparameters("NormalizedKdLoss", CHECKS, **hyperparameters)
        self.gamma = gamma
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C] with `labels` [B]."""
        return normalized_kd_loss(
            student_logits,
            teacher_logits,
            labels,
            gamma=self.gamma,
            temperature=self.temperature,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"gamma={self.gamma}, temperature={self.temperature}, reduction={self.reduction!r}"

"""Decoupled distillation: the teacher's confidence in the label, and the other classes, weighted separately."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.losses.kd import divergence

CHECKS: Mapping[str, check.Constraint] = {
    "alpha": check.NOT_NEGATIVE,
    "beta": check.NOT_NEGATIVE,
    "temperature": check.POSITIVE,
    "reduction": REDUCTION,
}


@float32_island
def decoupled_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """KL divergence of softened outputs, split into the label's class against the rest, and the rest among themselves.

    With p = softmax(z / T) and q = softmax of z / T over the classes c ≠ y:
    ℓ_b = T² · ( α KL([p_t(y), 1 − p_t(y)] ‖ [p_s(y), 1 − p_s(y)]) + β KL(q_t ‖ q_s) ),
    and 0 where y_b < 0 (no label). "mean" is over the labelled rows, and 0 if there are none.

    Shape:
        `student_logits` and `teacher_logits` [B, C], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        alpha: α >= 0, weight of the label's class.
        beta: β >= 0, weight of the other classes.
        temperature: T > 0.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher, label = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([0])
        >>> surer = torch.tensor([[9.0, 2.0, 0.0]])  # more confident in the label; others as the teacher's
        >>> [round(decoupled_kd_loss(surer, teacher, label, alpha=a, beta=1 - a).item(), 4) for a in (0.0, 1.0)]
        [0.0, 2.9255]

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7.

    Deviations:
        Computed from log-probabilities throughout. The usual code takes the logarithm of a probability, which becomes
        infinite from a gap of about 104·T between the student's logits, and removes the label by subtracting 1000 from
        its logit. That code also multiplies by min(epoch / 20, 1), epochs counted from 1:  `Term("dkd",
        warmup_epochs=19)`.
    """
    name = "decoupled_kd_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.class_labels(name, student_logits.shape[1], unlabelled=True, labels=labels)
    check.same_rows(name, student_logits=student_logits, labels=labels)
    check.hyperparameters(name, CHECKS, alpha=alpha, beta=beta, temperature=temperature, reduction=reduction)
    labelled = labels >= 0
    # Unlabelled rows must not count: equal logits have no divergence.
    student_logits, teacher_logits = (
        torch.where(labelled[:, None], z, torch.zeros_like(z)) for z in (student_logits, teacher_logits)
    )
    targets = labels.long().clamp(min=0)[:, None]
    sides = [_split(z / temperature, targets) for z in (student_logits, teacher_logits)]
    (student_sure, student_others), (teacher_sure, teacher_others) = sides
    target, others = divergence(student_sure, teacher_sure), divergence(student_others, teacher_others)
    values = temperature**2 * (alpha * target + beta * others)
    if reduction == "mean":
        return values.sum() / labelled.sum().clamp(min=1)
    return reduce(name, values, reduction)


def _split(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return two logits, of the label's class and of all others together, and the others' logits [B, C − 1]."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, places + (places >= targets))
    # If all others are masked (-inf), they are not a distribution; their sum is 0.
    masked = others.isneginf().all(1, keepdim=True)
    others = torch.where(masked, torch.zeros_like(others), others)
    total = others.logsumexp(1, keepdim=True).masked_fill(masked, -torch.inf)
    return torch.cat([logits.gather(1, targets), total], 1), others


class DecoupledKdLoss(nn.Module):
    """`decoupled_kd_loss` with its hyper-parameters stored."""

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        hyperparameters = {"alpha": alpha, "beta": beta, "temperature": temperature, "reduction": reduction}
        check.hyperparameters("DecoupledKdLoss", CHECKS, **hyperparameters)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C] with `labels` [B]."""
        return decoupled_kd_loss(
            student_logits,
            teacher_logits,
            labels,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}, reduction={self.reduction!r}"

"""Multi-level logit distillation: correlations between classes, and between samples, in the predictions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE}


@float32_island
def class_correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Squared difference of the Gram matrices between classes, averaged over classes.

    With P = softmax(z / T): L = (1/C) ‖P_tᵀ P_t − P_sᵀ P_s‖²_F.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [].

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        temperature: T > 0.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, a single class, or `temperature` <= 0.

    Example:
        >>> import torch
        >>> teacher = 1e4 * torch.eye(2)  # certain of one class for each sample, unlike the student
        >>> class_correlation_loss(torch.zeros(2, 2), teacher, temperature=1.0).item()
        0.5

    Reference:
        Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.

    Deviations:
        The released code, not the paper, is followed: the Gram matrices are sums over the batch, and there is no T².
    """
    return class_correlation_rows(
        *_softened("class_correlation_loss", student_logits, teacher_logits, temperature)
    ).mean()


@float32_island
def batch_correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Squared difference of the Gram matrices between samples, averaged over samples.

    With P = softmax(z / T): L = (1/B) ‖P_t P_tᵀ − P_s P_sᵀ‖²_F.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [].

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        temperature: T > 0.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, a single class, or `temperature` <= 0.

    Example:
        >>> import torch
        >>> teacher = 1e4 * torch.eye(2)
        >>> batch_correlation_loss(teacher.flip(0), teacher, temperature=1.0).item()  # two samples, two classes
        0.0

    Reference:
        Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.

    Deviations:
        The released code, not the paper, is followed: there is no T².
    """
    return batch_correlation_rows(
        *_softened("batch_correlation_loss", student_logits, teacher_logits, temperature)
    ).mean()


@float32_island
def class_correlation_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Return each class's loss [..., C] for probabilities [..., B, C]; `class_correlation_loss` is their mean."""
    return (teacher.mT @ teacher - student.mT @ student).square().sum(-1)


@float32_island
def batch_correlation_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Return each sample's loss [..., B] for probabilities [..., B, C]; `batch_correlation_loss` is their mean."""
    return (teacher @ teacher.mT - student @ student.mT).square().sum(-1)


def _softened(
    function: str, student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    check.floating(function, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(function, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(function, student_logits=student_logits)
    check.hyperparameters(function, CHECKS, temperature=temperature)
    return (student_logits / temperature).softmax(1), (teacher_logits / temperature).softmax(1)


class ClassCorrelationLoss(nn.Module):
    """`class_correlation_loss` with its hyper-parameter stored."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        check.hyperparameters("ClassCorrelationLoss", CHECKS, temperature=temperature)
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return class_correlation_loss(student_logits, teacher_logits, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the hyper-parameter as text."""
        return f"temperature={self.temperature}"


class BatchCorrelationLoss(nn.Module):
    """`batch_correlation_loss` with its hyper-parameter stored."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        check.hyperparameters("BatchCorrelationLoss", CHECKS, temperature=temperature)
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return batch_correlation_loss(student_logits, teacher_logits, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the hyper-parameter as text."""
        return f"temperature={self.temperature}"

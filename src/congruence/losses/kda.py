"""Kernel transfer: the student's similarities to its landmarks match the teacher's to the teacher's landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm, unit

Scale = Literal["mean", "sum", "teacher_norm"]
CHECKS: Mapping[str, check.Constraint] = {
    "normalize": check.Flag(),
    "scale": check.Choice(("mean", "sum", "teacher_norm")),
}


@float32_island
def kernel_transfer_loss(
    student: Tensor,
    teacher: Tensor,
    student_landmarks: Tensor,
    teacher_landmarks: Tensor,
    *,
    normalize: bool = False,
    scale: Scale = "mean",
) -> Tensor:
    """Smooth L1 distance between the partial kernel matrices of a batch and landmark points.

    C = X Dᵀ on both sides; L = Σ_im smooth_l1(C_s,im − C_t,im), with smooth_l1(z) = z²/2 for |z| < 1 and |z| − 1/2
    beyond. Landmark m of the student and landmark m of the teacher represent the same class or sample.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], `student_landmarks` [M, D_s], `teacher_landmarks` [M, D_t]; widths may
        differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_landmarks: the student's landmarks, constants without gradient.
        teacher_landmarks: the teacher's landmarks, constants without gradient.
        normalize: divide each row of student and teacher by its length; landmarks are used as given.
        scale: "sum" is L itself; "mean" is L/(B·M); "teacher_norm" is L/‖C_t‖_F, and 0 if C_t is 0.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]])
        >>> kernel_transfer_loss(student, teacher, torch.eye(2), torch.ones(2, 1), scale="sum").item()
        4.0

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, eq. 4.

    Deviations:
        The paper sums; "mean" does not depend on the numbers of samples and landmarks. "teacher_norm" is used in the
        authors' released code, with a weight of 0.04.
    """
    name = "kernel_transfer_loss"
    check.floating(
        name,
        2,
        student=student,
        teacher=teacher,
        student_landmarks=student_landmarks,
        teacher_landmarks=teacher_landmarks,
    )
    check.same_rows(name, student=student, teacher=teacher)
    check.same_rows(name, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    check.same_width(name, student=student, student_landmarks=student_landmarks)
    check.same_width(name, teacher=teacher, teacher_landmarks=teacher_landmarks)
    check.hyperparameters(name, CHECKS, normalize=normalize, scale=scale)
    student_kernel = _partial_kernel(student, student_landmarks, normalize)
    teacher_kernel = _partial_kernel(teacher, teacher_landmarks, normalize)
    reduction = "mean" if scale == "mean" else "sum"
    loss = F.smooth_l1_loss(student_kernel, teacher_kernel, reduction=reduction)
    if scale == "teacher_norm":
        norm = safe_norm(teacher_kernel.flatten())
        positive = ~(norm <= 0)  # keeps NaN as a divisor
        loss = torch.where(positive, loss / torch.where(positive, norm, 1), 0 * loss)
    return loss.to(student.dtype)


def _partial_kernel(rows: Tensor, landmarks: Tensor, normalize: bool) -> Tensor:
    rows, landmarks = as_float64(rows), as_float64(landmarks.detach())
    return (unit(rows) if normalize else rows) @ landmarks.T


class KernelTransferLoss(nn.Module):
    """`kernel_transfer_loss` with its hyper-parameters stored."""

    def __init__(self, *, normalize: bool = False, scale: Scale = "mean") -> None:
        super().__init__()
        check.hyperparameters("KernelTransferLoss", CHECKS, normalize=normalize, scale=scale)
        self.normalize = normalize
        self.scale: Scale = scale

    def forward(self, student: Tensor, teacher: Tensor, student_landmarks: Tensor, teacher_landmarks: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t] by landmarks [M, D_s] and [M, D_t]."""
        return kernel_transfer_loss(
            student, teacher, student_landmarks, teacher_landmarks, normalize=self.normalize, scale=self.scale
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"normalize={self.normalize}, scale={self.scale!r}"

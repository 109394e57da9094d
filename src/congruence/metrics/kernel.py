"""Kernel transfer: how far the student's Gram matrix is from the teacher's, whole and by landmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64

_CHECKS: dict[str, check.Constraint] = {"chunk_size": check.Real(low=1, closed="low", integer=True, optional=True)}
_CHUNK_ENTRIES = 2**22  # 32 MB a block


@torch.no_grad()
def kernel_transfer_error(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Share of the teacher's kernel that was not transferred: ‖K_S − K_T‖_F / ‖K_T‖_F with K = X Xᵀ over all samples.

    Computed in float64 from blocks of K, so that equal kernels give exactly 0 and no large squares cancel.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        chunk_size: rows of K at a time; None: about four million entries. Memory is linear in `chunk_size` · N.

    Returns:
        A number >= 0; where the teacher's kernel is 0, infinity, or 0 if the student's is too.

    Raises:
        ValueError: for shapes that do not fit or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> kernel_transfer_error(teacher.flip(1), teacher), round(kernel_transfer_error(2 * teacher, teacher), 6)
        (0.0, 3.0)

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, fig. 3.
    """
    return _relative(*gram_squares("kernel_transfer_error", student, teacher, chunk_size))


@torch.no_grad()
def landmark_transfer_error(
    student: Tensor,
    teacher: Tensor,
    student_landmarks: Tensor,
    teacher_landmarks: Tensor,
    *,
    chunk_size: int | None = None,
) -> float:
    """Estimate of the kernel transfer error by landmarks: ‖C_S − C_T‖_F / ‖K_T‖_F with C = X Dᵀ.

    It has N·M entries where the error has N²: smaller, and it falls and rises with it.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], `student_landmarks` [M, D_s], `teacher_landmarks` [M, D_t].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_landmarks: D of the student, as of `kernel_transfer_loss`.
        teacher_landmarks: D of the teacher.
        chunk_size: rows at a time, as of `kernel_transfer_error`.

    Returns:
        A number >= 0; where the teacher's kernel is 0, infinity, or 0 if C_S = C_T.

    Raises:
        ValueError: for shapes that do not fit or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> round(landmark_transfer_error(2 * teacher, teacher, 2 * teacher[:1], teacher[:1]), 6)  # 3/√2
        2.12132

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, fig. 4.
    """
    name = "landmark_transfer_error"
    student, teacher = _pair(name, student, teacher, chunk_size)
    student_landmarks, teacher_landmarks = _landmarks(name, student, teacher, student_landmarks, teacher_landmarks)
    gap, size = _zero(student), _zero(student)
    for ours, theirs in _chunks(student, teacher, chunk_size):
        size += (theirs @ teacher.T).square().sum()
        gap += (ours @ student_landmarks.T - theirs @ teacher_landmarks.T).square().sum()
    return _relative(gap, size)


@torch.no_grad()
def smallest_landmark_eigenvalue(landmarks: Tensor) -> float:
    """Smallest eigenvalue of the landmarks' kernel W = D Dᵀ; corollaries 1 and 2 assume that it is larger than 1.

    Shape:
        `landmarks` [M, D].

    Returns:
        A number; 0 up to rounding where M > D.

    Raises:
        ValueError: for landmarks that are no [M, D].

    Example:
        >>> import torch
        >>> smallest_landmark_eigenvalue(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        4.0

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, fig. 5.
    """
    check.floating("smallest_landmark_eigenvalue", 2, landmarks=landmarks)
    landmarks = as_float64(landmarks)
    return float(torch.linalg.eigvalsh(landmarks @ landmarks.T)[0])


@torch.no_grad()
def kernel_transfer_bound(
    student: Tensor, teacher: Tensor, student_landmarks: Tensor, teacher_landmarks: Tensor, assignment: Tensor
) -> tuple[float, float]:
    """Terms A and B of the bound ‖K_S − K_T‖_F <= A + B, where sample i belongs to landmark a_i (its class, say).

    A = N e Σ_i (‖x_i^S − d_{a_i}^S‖ + ‖x_i^T − d_{a_i}^T‖), e the longest row of either side;
    B = Σ_ij |d_{a_i}^S·x_j^S − d_{a_i}^T·x_j^T|. Class centres make A small, the loss makes B small.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], `student_landmarks` [M, D_s], `teacher_landmarks` [M, D_t],
        `assignment` int64 [N].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_landmarks: D of the student.
        teacher_landmarks: D of the teacher.
        assignment: the landmark of each sample, in [0, M).

    Returns:
        A and B.

    Raises:
        ValueError: for shapes that do not fit or an assignment out of range.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> kernel_transfer_bound(2 * teacher, teacher, 2 * teacher, teacher, torch.tensor([0, 1]))
        (0.0, 6.0)

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, theorem 2.
    """
    name = "kernel_transfer_bound"
    student, teacher = _pair(name, student, teacher, None)
    student_landmarks, teacher_landmarks = _landmarks(name, student, teacher, student_landmarks, teacher_landmarks)
    check.class_labels(name, len(student_landmarks), assignment=assignment)
    check.same_rows(name, student=student, assignment=assignment)
    longest = torch.maximum(student.norm(dim=1).max(), teacher.norm(dim=1).max())
    away = (student - student_landmarks[assignment]).norm(dim=1) + (teacher - teacher_landmarks[assignment]).norm(dim=1)
    apart = (student_landmarks @ student.T - teacher_landmarks @ teacher.T).abs().sum(1)
    return float(len(student) * longest * away.sum()), float(apart[assignment].sum())


def gram_squares(function: str, student: Tensor, teacher: Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    """Return ‖K_S − K_T‖²_F and ‖K_T‖²_F from blocks of K, for metrics; errors name `function`."""
    student, teacher = _pair(function, student, teacher, chunk_size)
    gap, size = _zero(student), _zero(student)
    for ours, theirs in _chunks(student, teacher, chunk_size):
        kernel = theirs @ teacher.T
        size += kernel.square().sum()
        gap += (ours @ student.T - kernel).square().sum()
    return gap, size


def _pair(function: str, student: Tensor, teacher: Tensor, chunk_size: int | None) -> tuple[Tensor, Tensor]:
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_rows(function, student=student, teacher=teacher)
    check.hyperparameters(function, _CHECKS, chunk_size=chunk_size)
    return as_float64(student), as_float64(teacher)


def _landmarks(
    function: str, student: Tensor, teacher: Tensor, student_landmarks: Tensor, teacher_landmarks: Tensor
) -> tuple[Tensor, Tensor]:
    check.floating(function, 2, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    check.same_rows(function, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    check.same_width(function, student=student, student_landmarks=student_landmarks)
    check.same_width(function, teacher=teacher, teacher_landmarks=teacher_landmarks)
    return as_float64(student_landmarks), as_float64(teacher_landmarks)


def _chunks(student: Tensor, teacher: Tensor, chunk_size: int | None) -> zip[tuple[Tensor, Tensor]]:
    rows = chunk_size or max(1, _CHUNK_ENTRIES // student.shape[0])
    return zip(student.split(rows), teacher.split(rows), strict=True)


def _zero(like: Tensor) -> Tensor:
    return like.new_zeros(())


def _relative(gap: Tensor, size: Tensor) -> float:
    """Return √(gap/size)."""
    above, below = math.sqrt(float(gap)), math.sqrt(float(size))
    if below == 0:
        return 0.0 if above == 0 else math.inf
    return above / below

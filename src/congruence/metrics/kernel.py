"""Kernel transfer: distances between the Gram matrices of student and teacher, in full and by landmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64, unit, widen

_CHECKS: dict[str, check.Constraint] = {"chunk_size": check.Real(low=1, closed="low", integer=True, optional=True)}
_CHUNK_ENTRIES = 2**20  # 8 MB for each block


@torch.no_grad()
def kernel_transfer_error(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Share of the teacher's kernel that was not transferred: ‖K_S − K_T‖_F / ‖K_T‖_F with K = X Xᵀ over all samples.

    Computed in float64, to about 1e-15: no large squares cancel. Equal embeddings give exactly 0. From N = 2 (D_s +
    D_t) on, K is not computed: with [S, T] = Q R, ‖S Sᵀ − T Tᵀ‖ = ‖R_S R_Sᵀ − R_T R_Tᵀ‖, since Q has orthonormal
    columns, in time O(N (D_s + D_t)²). For fewer samples, blocks of K are computed.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        chunk_size: rows of both sides, or of K, processed at once; None: about a million entries. With w = D_s + D_t,
            memory is about 40 (`chunk_size` + w) · w bytes without K, whatever N, and some 8 N · (4 `chunk_size` + w)
            with it.

    Returns:
        A number >= 0. If the teacher's kernel is 0: infinity, or 0 if the student's is 0 too. NaN if an embedding is
        not finite.

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
    return _relative(*gram_norms("kernel_transfer_error", student, teacher, chunk_size))


@torch.no_grad()
def cosine_kernel_transfer_error(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """`kernel_transfer_error` of unit rows, so that K holds cosines: most methods do not constrain the rows' lengths.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        chunk_size: see `kernel_transfer_error`.

    Returns:
        A number >= 0, see `kernel_transfer_error`; a row of zeros has cosine 0 with all rows.

    Raises:
        ValueError: for shapes that do not fit or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> cosine_kernel_transfer_error(2 * teacher, teacher), round(kernel_transfer_error(2 * teacher, teacher), 6)
        (0.0, 3.0)

    Reference:
        None: the paper's error is `kernel_transfer_error`.
    """
    _check("cosine_kernel_transfer_error", student, teacher, chunk_size)
    student, teacher = unit(widen(student)), unit(widen(teacher))
    return _relative(*gram_norms("cosine_kernel_transfer_error", student, teacher, chunk_size))


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

    C has N·M entries instead of N², so the estimate is smaller than the error, but rises and falls with it. In float64.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], `student_landmarks` [M, D_s], `teacher_landmarks` [M, D_t].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_landmarks: D of the student, see `kernel_transfer_loss`.
        teacher_landmarks: D of the teacher.
        chunk_size: rows processed at once; None: about a million entries. With w = D_s + D_t, memory is about
            8 `chunk_size` · (2 M + w) + 16 min(N, D_t)² bytes.

    Returns:
        A number >= 0. If the teacher's kernel is 0: infinity, or 0 if C_S = C_T.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> round(landmark_transfer_error(2 * teacher, teacher, 2 * teacher[:1], teacher[:1]), 6)  # 3/√2
        2.12132

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, fig. 4.
    """
    name = "landmark_transfer_error"
    _check(name, student, teacher, chunk_size)
    student_landmarks, teacher_landmarks = _landmarks(name, student, teacher, student_landmarks, teacher_landmarks)
    gap = student_landmarks.new_zeros(())
    for ours, theirs in _chunks(student, teacher, chunk_size, len(student_landmarks)):
        gap += (ours @ student_landmarks.T).sub_(theirs @ teacher_landmarks.T).norm().square()
    return _relative(math.sqrt(gap), _kernel_norm(teacher, chunk_size))


@torch.no_grad()
def smallest_landmark_eigenvalue(landmarks: Tensor) -> float:
    """Smallest eigenvalue of the landmarks' kernel W = D Dᵀ; corollaries 1 and 2 assume that it is larger than 1.

    Shape:
        `landmarks` [M, D].

    Returns:
        A number; 0 up to rounding if M > D.

    Raises:
        ValueError: for landmarks that are not [M, D], or not finite.

    Example:
        >>> import torch
        >>> smallest_landmark_eigenvalue(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        4.0

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, fig. 5.
    """
    check.floating("smallest_landmark_eigenvalue", 2, landmarks=landmarks)
    check.finite("smallest_landmark_eigenvalue", landmarks=landmarks)
    landmarks = as_float64(landmarks)
    gram = landmarks @ landmarks.T
    if not gram.isfinite().all():
        check.fail(
            "smallest_landmark_eigenvalue",
            "landmarks",
            "small enough for products in float64",
            f"entries of up to {float(landmarks.abs().max()):.3g}",
        )
    return float(torch.linalg.eigvalsh(gram)[0])


@torch.no_grad()
def nystrom_error(embeddings: Tensor, landmarks: Tensor, *, chunk_size: int | None = None) -> float:
    """How much of a kernel its landmarks miss: ‖K − C W⁺ Cᵀ‖_F / ‖K‖_F with K = X Xᵀ, C = X Dᵀ, W = D Dᵀ.

    C W⁺ Cᵀ is the Nyström approximation. It is the kernel of the rows projected onto the span of the landmarks, so that
    this is the kernel's norm of what is left of the rows, and no N×N matrix is needed. In float64.

    Shape:
        `embeddings` [N, D], `landmarks` [M, D].

    Args:
        embeddings: X.
        landmarks: D, such as class centres.
        chunk_size: rows processed at once; None: about a million entries.

    Returns:
        A number from 0 (the landmarks span all rows) to 1 (they are orthogonal to them); 0 for a kernel of zeros.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> nystrom_error(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[5.0, 0.0]]))  # 1/√(9² + 1²)
        0.11043152607484653

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, eq. 2; the ε of corollaries 1 and 2.
    """
    name = "nystrom_error"
    check.floating(name, 2, embeddings=embeddings, landmarks=landmarks)
    check.same_width(name, embeddings=embeddings, landmarks=landmarks)
    check.finite(name, embeddings=embeddings, landmarks=landmarks)
    check.hyperparameters(name, _CHECKS, chunk_size=chunk_size)
    marks = as_float64(landmarks)
    _, sizes, axes = torch.linalg.svd(marks, full_matrices=False)
    axes = axes[sizes > sizes[:1].clamp(min=0) * max(marks.shape) * torch.finfo(torch.float64).eps]
    whole = left = as_float64(embeddings.new_zeros(embeddings.shape[1], embeddings.shape[1]))
    for part, _ in _chunks(embeddings, embeddings, chunk_size, embeddings.shape[1]):
        rest = part - part @ axes.T @ axes
        whole, left = whole + part.T @ part, left + rest.T @ rest
    size = float(whole.norm())
    return float(left.norm()) / size if size else 0.0


@torch.no_grad()
def kernel_transfer_bound(
    student: Tensor, teacher: Tensor, student_landmarks: Tensor, teacher_landmarks: Tensor, assignment: Tensor
) -> tuple[float, float]:
    """Terms A and B of the bound ‖K_S − K_T‖_F <= A + B, where sample i belongs to landmark a_i (such as its class).

    A = N e Σ_i (‖x_i^S − d_{a_i}^S‖ + ‖x_i^T − d_{a_i}^T‖), e the length of the longest row of either side;  B = Σ_ij
    |d_{a_i}^S·x_j^S − d_{a_i}^T·x_j^T|. Class centres make A small, and the loss makes B small. Memory is linear in N:
    about 8 N (2 M + 3 (D_s + D_t)) bytes.

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
        ValueError: for shapes that do not fit, embeddings that are not finite, or an assignment out of range.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> kernel_transfer_bound(2 * teacher, teacher, 2 * teacher, teacher, torch.tensor([0, 1]))
        (0.0, 6.0)

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, theorem 2.
    """
    name = "kernel_transfer_bound"
    _check(name, student, teacher, None)
    student, teacher = as_float64(student), as_float64(teacher)
    student_landmarks, teacher_landmarks = _landmarks(name, student, teacher, student_landmarks, teacher_landmarks)
    check.class_labels(name, len(student_landmarks), assignment=assignment)
    check.same_rows(name, student=student, assignment=assignment)
    assignment = assignment.long()  # an 8-bit index would be used as a mask
    longest = torch.maximum(student.norm(dim=1).max(), teacher.norm(dim=1).max())
    away = (student - student_landmarks[assignment]).norm(dim=1) + (teacher - teacher_landmarks[assignment]).norm(dim=1)
    apart = (student_landmarks @ student.T - teacher_landmarks @ teacher.T).abs().sum(1)
    return float(len(student) * longest * away.sum()), float(apart[assignment].sum())


def gram_norms(function: str, student: Tensor, teacher: Tensor, chunk_size: int | None) -> tuple[float, float]:
    """Return ‖K_S − K_T‖_F and ‖K_T‖_F, as `kernel_transfer_error` says, for metrics; errors name `function`."""
    _check(function, student, teacher, chunk_size)
    split, width = student.shape[1], student.shape[1] + teacher.shape[1]
    if 2 * width <= len(student):
        return _norms_of_factors(_chunks(student, teacher, chunk_size, width, least=width), split)
    student, teacher = as_float64(student), as_float64(teacher)
    gap, size = student.new_zeros(()), teacher.new_zeros(())
    for ours, theirs in _chunks(student, teacher, chunk_size, len(student)):
        kernel = theirs @ teacher.T
        size += kernel.norm().square()
        gap += (ours @ student.T).sub_(kernel).norm().square()
    return math.sqrt(gap), math.sqrt(size)


def _norms_of_factors(chunks: Iterator[tuple[Tensor, Tensor]], split: int) -> tuple[float, float]:
    """Return both norms from the R of [S, T] = Q R, which is computed from blocks of rows."""
    factor: list[Tensor] = []
    copied = True
    for ours, theirs in chunks:
        copied = copied and torch.equal(ours, theirs)
        factor = [torch.linalg.qr(torch.cat([*factor, torch.cat([ours, theirs], 1)]), mode="r").R]
    ours, theirs = factor[0][:, :split], factor[0][:, split:]
    kernel = theirs @ theirs.T
    gap = 0.0 if copied else float((ours @ ours.T).sub_(kernel).norm())
    return gap, float(kernel.norm())


def _check(function: str, student: Tensor, teacher: Tensor, chunk_size: int | None) -> None:
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_rows(function, student=student, teacher=teacher)
    check.hyperparameters(function, _CHECKS, chunk_size=chunk_size)


def _landmarks(
    function: str, student: Tensor, teacher: Tensor, student_landmarks: Tensor, teacher_landmarks: Tensor
) -> tuple[Tensor, Tensor]:
    check.floating(function, 2, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    check.same_rows(function, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    check.same_width(function, student=student, student_landmarks=student_landmarks)
    check.same_width(function, teacher=teacher, teacher_landmarks=teacher_landmarks)
    check.finite(function, student=student, teacher=teacher)
    check.finite(function, student_landmarks=student_landmarks, teacher_landmarks=teacher_landmarks)
    return as_float64(student_landmarks), as_float64(teacher_landmarks)


def _chunks(
    student: Tensor, teacher: Tensor, chunk_size: int | None, width: int, *, least: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of both sides in float64, `chunk_size` at a time, or as many as fill a block with `width` columns."""
    rows = chunk_size or max(least, _CHUNK_ENTRIES // width)
    for ours, theirs in zip(student.split(rows), teacher.split(rows), strict=True):
        yield as_float64(ours), as_float64(theirs)


def _kernel_norm(x: Tensor, chunk_size: int | None) -> float:
    """Return ‖X Xᵀ‖_F = ‖Xᵀ X‖_F, from the smaller of both."""
    rows, width = x.shape
    if width >= rows:
        x = as_float64(x)
        return float((x @ x.T).norm())
    total = as_float64(x.new_zeros(width, width))
    for part, _ in _chunks(x, x, chunk_size, width, least=width):
        total += part.T @ part
    return float(total.norm())


def _relative(gap: float, size: float) -> float:
    if size == 0:
        return 0.0 if gap == 0 else math.inf
    return gap / size

"""Similarity of two spaces on the same samples: centred kernel alignment, and RKD's relative distances."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from congruence.core import check
from congruence.core.numerics import as_float64
from congruence.geometry.dissimilarity import dissimilarity_blocks

_CHECKS: dict[str, check.Constraint] = {"chunk_size": check.Real(low=1, closed="low", integer=True, optional=True)}
_CHUNK_ENTRIES = 2**20  # 8 MB for each block
_SHORTEST = 1e-6  # RKD clamps squared distances at 1e-12
_ROUNDING = 1e-14


@torch.no_grad()
def linear_cka(student: Tensor, teacher: Tensor) -> float:
    """Linear centred kernel alignment of two spaces: 1 for a rotated or scaled copy, 0 for uncorrelated features.

    CKA = ‖X_sᵀ X_t‖²_F / (‖X_sᵀ X_s‖_F ‖X_tᵀ X_t‖_F), columns centred. Computed in float64 from products of features,
    or, if there are fewer samples than features, from Gram matrices, which gives the same value.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.

    Returns:
        A number in [0, 1]; NaN if all rows of a side are equal. With w = D_s + D_t, memory is about 32 (2²⁰ + w²) bytes
        for any N >= 2 w, and about 24 (2²⁰ + N w) below.

    Raises:
        ValueError: for shapes that do not fit, or embeddings that are not finite.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 3.0]])
        >>> round(linear_cka(5 * teacher.flip(1), teacher), 6), round(linear_cka(teacher[:, :1], teacher), 4)
        (1.0, 0.9824)

    Reference:
        Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, sec. 3.
    """
    check.floating("linear_cka", 2, student=student, teacher=teacher)
    check.same_rows("linear_cka", student=student, teacher=teacher)
    check.finite("linear_cka", student=student, teacher=teacher)
    if 2 * (student.shape[1] + teacher.shape[1]) <= len(student):
        ours, theirs, both = _streamed_alignments(student, teacher)
    else:
        x, y = _centred(student), _centred(teacher)
        ours, theirs, both = _alignment(x, x), _alignment(y, y), _alignment(x, y)
    own = math.sqrt(ours * theirs)
    # NaN comes first, because min keeps its first argument unless another is smaller
    return min(both / own, 1.0) if own > 0 else math.nan


@torch.no_grad()
def rkd_distance_discrepancy(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Difference of relative distances over all pairs: the value of RKD's distance loss, streamed.

    (1/N²) Σ_ij smooth_l1(d_ij^s/μ^s − d_ij^t/μ^t), d Euclidean, at least 1e-6 off the diagonal, and μ its mean over
    i ≠ j. 0 for a rotated, shifted or scaled copy.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        chunk_size: c, rows of distances at a time; None: about a million entries. Memory is about
            80 c N + 32 N (D_s + D_t) bytes.

    Returns:
        A number >= 0; 0 for a single sample.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [1.0], [3.0]])
        >>> [round(rkd_distance_discrepancy(student, teacher), 6) for student in (7 * teacher - 2, teacher**2)]
        [0.0, 0.024691]

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, eqs. 5 to 7.
    """
    name = "rkd_distance_discrepancy"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.finite(name, student=student, teacher=teacher)
    check.hyperparameters(name, _CHECKS, chunk_size=chunk_size)
    rows = len(student)
    if rows == 1:
        return 0.0
    step = chunk_size or max(1, _CHUNK_ENTRIES // rows)
    x, y = as_float64(student), as_float64(teacher)
    means = [math.fsum(float(d.sum()) for d in _distances(side, step)) / (rows * (rows - 1)) for side in (x, y)]
    total = 0.0
    for ours, theirs in zip(_distances(x, step), _distances(y, step), strict=True):
        total += float(F.smooth_l1_loss(ours / means[0], theirs / means[1], reduction="sum"))
    return total / rows**2


def _distances(x: Tensor, step: int) -> Iterator[Tensor]:
    for number, block in enumerate(dissimilarity_blocks(x, x, "euclidean", step)):
        block.clamp_(min=_SHORTEST)
        block[:, number * step : number * step + len(block)].fill_diagonal_(0)
        yield block


def _streamed_alignments(student: Tensor, teacher: Tensor) -> tuple[float, float, float]:
    """Return ‖X_sᵀ X_s‖²_F, ‖X_tᵀ X_t‖²_F and ‖X_sᵀ X_t‖²_F, three parts of [X_s, X_t]ᵀ [X_s, X_t]."""
    split, width = student.shape[1], student.shape[1] + teacher.shape[1]
    step = max(1, _CHUNK_ENTRIES // width)
    mean = torch.cat([_mean(student, step), _mean(teacher, step)])
    products = mean.new_zeros(width, width)
    for ours, theirs in zip(student.split(step), teacher.split(step), strict=True):
        rows = torch.cat([as_float64(ours), as_float64(theirs)], 1).sub_(mean)
        products += rows.T @ rows
    own = []
    for part in (slice(split), slice(split, None)):
        spread, offset = products[part, part].trace(), len(student) * mean[part].square().sum()
        own.append(float(products[part, part].norm().square() * (spread > _ROUNDING**2 * (spread + offset))))
    return own[0], own[1], float(products[:split, split:].norm().square())


def _mean(x: Tensor, step: int) -> Tensor:
    return torch.stack([as_float64(part).sum(0) for part in x.split(step)]).sum(0) / len(x)


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean; equal rows become exactly 0, without rounding errors."""
    wide = as_float64(x)
    centred = wide - wide.mean(0)
    return centred * (centred.norm() > _ROUNDING * wide.norm())


def _alignment(x: Tensor, y: Tensor) -> float:
    """Return ‖Xᵀ Y‖²_F = Σ_ij (X Xᵀ)_ij (Y Yᵀ)_ij, computed from blocks of both Gram matrices."""
    rows, least = len(x), min(x.shape[1], y.shape[1])
    if rows < least:
        step = max(1, _CHUNK_ENTRIES // rows)
        parts = zip(x.split(step), y.split(step), strict=True)
        return math.fsum(float(((ours @ x.T) * (theirs @ y.T)).sum()) for ours, theirs in parts)
    step = max(1, _CHUNK_ENTRIES // y.shape[1])
    return math.fsum(float((columns.T @ y).square().sum()) for columns in x.split(step, dim=1))

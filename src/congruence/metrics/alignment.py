"""Alignment measures from CCKD's theory: Gram matrices of features, and effective kernels of outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.metrics.kernel import gram_norms


@torch.no_grad()
def gram_alignment(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Mean squared gap of the Gram matrices of features: G(h) = ‖K_S − K_T‖²_F / n², K = F Fᵀ over all n samples.

    This equals `correlation_congruence_loss` with the bilinear kernel on raw rows, over the whole set, in float64. By
    lemma 1, for any λ > 0, an exact minimiser of L_KD + λ·G has a G no larger than that of an exact minimiser of L_KD.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: features, the input of the last linear layer.
        teacher: features of the same samples.
        chunk_size: rows processed at once; time, memory and rounding are as in `kernel_transfer_error`.

    Returns:
        A number >= 0, in the features' unit to the fourth power.

    Raises:
        ValueError: for shapes that do not fit or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> gram_alignment(teacher.flip(1), teacher), round(gram_alignment(2 * teacher, teacher), 6)  # (3² + 3²)/2²
        (0.0, 4.5)

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, appendix, defs. 3 and 4, lemma 1.

    Deviations:
        Assumption 4 calls G convex in h. G has degree four in the features and is not convex in general; if L_KD is the
        mean squared error of these features, L_KD + λ·G is convex up to λ = n/(2‖K_T‖₂). Part 1 of lemma 1 needs exact
        minimisers but no convexity; it does not cover a student that training did not bring to a minimum.
    """
    gap, _ = gram_norms("gram_alignment", student, teacher, chunk_size)
    return (gap / student.shape[0]) ** 2


@torch.no_grad()
def effective_kernel_alignment(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Distance of the effective kernels: ‖K_S^eff(h) − K_T^eff‖_F, K^eff = [⟨h(x_i), h(x_j)⟩] of the outputs h(x).

    Lemma 2: for small λ, this distance is smaller for the exact minimiser of L_KD + λ·G than for that of L_KD, if a
    smaller gap of the features' Gram matrices implies a smaller gap of the outputs' (assumption 2).

    Shape:
        `student` [N, C_s], `teacher` [N, C_t], widths may differ.

    Args:
        student: logits h(x) = W f(x) + b, before any softmax.
        teacher: logits of the same samples.
        chunk_size: rows processed at once, see `gram_alignment`.

    Returns:
        A number >= 0, in the logits' unit squared. It grows with N; `kernel_transfer_error` of the logits does not.

    Raises:
        ValueError: for shapes that do not fit or `chunk_size` < 1.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> round(effective_kernel_alignment(2 * teacher, teacher), 4)  # √(3² + 3²)
        4.2426

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, appendix, def. 3 and lemma 2.

    Deviations:
        The lemma is stated for any λ; its proof, through part 2 of lemma 1, gives it for small λ and ∇G ≠ 0 only.
        Assumption 2 certainly holds if both last layers have WᵀW = s²·I with the same s and no bias; otherwise it must
        be measured.
    """
    return gram_norms("effective_kernel_alignment", student, teacher, chunk_size)[0]

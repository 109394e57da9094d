"""Alignment of CCKD's theory: Gram matrices of the features, and effective kernels of the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.metrics.kernel import gram_norms


@torch.no_grad()
def gram_alignment(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Mean squared gap of the Gram matrices of features: G(h) = ‖K_S − K_T‖²_F / n², K = F Fᵀ over all n samples.

    It is `correlation_congruence_loss` with the bilinear kernel on raw rows, over the whole set, in float64. By lemma
    1, a student that minimises L_KD + λ·G exactly has no larger G than one that minimises L_KD, for any λ > 0.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ.

    Args:
        student: features, what enters the last linear layer.
        teacher: features of the same samples.
        chunk_size: rows at a time; time, memory and rounding are those of `kernel_transfer_error`.

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
        Assumption 4 calls G convex in h. It is of degree four in the features and not convex in general; beside the
        mean squared error of those features, L_KD + λ·G is convex up to λ = n/(2‖K_T‖₂). Part 1 of lemma 1 needs
        exact minimisers and no convexity: a student that training left elsewhere is not covered.
    """
    gap, _ = gram_norms("gram_alignment", student, teacher, chunk_size)
    return (gap / student.shape[0]) ** 2


@torch.no_grad()
def effective_kernel_alignment(student: Tensor, teacher: Tensor, *, chunk_size: int | None = None) -> float:
    """Distance of the effective kernels: ‖K_S^eff(h) − K_T^eff‖_F, K^eff = [⟨h(x_i), h(x_j)⟩] of the outputs h(x).

    Lemma 2: the exact minimiser of L_KD + λ·G has a smaller one than that of L_KD, for small λ, where a smaller gap
    of the features' Gram matrices means a smaller gap of the outputs' (assumption 2).

    Shape:
        `student` [N, C_s], `teacher` [N, C_t], widths may differ.

    Args:
        student: logits h(x) = W f(x) + b, before any softmax.
        teacher: logits of the same samples.
        chunk_size: rows at a time, as of `gram_alignment`.

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
        Assumption 2 is sure where both last layers have WᵀW = s²·I, one s and no bias; elsewhere it is to be measured.
    """
    return gram_norms("effective_kernel_alignment", student, teacher, chunk_size)[0]

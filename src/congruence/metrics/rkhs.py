"""CCKD's theory beyond lemma 2: norms in the space of a kernel, what the congruence does to them, and the bound."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64

_CHECKS: Mapping[str, check.Constraint] = {
    "weight_decay": check.POSITIVE,
    "risk": check.Real(low=0, closed="low"),
    "norm": check.Real(low=0, closed="low"),
    "lipschitz": check.Real(low=0, closed="low"),
    "failure": check.Real(low=0, high=1),
}


@torch.no_grad()
def rkhs_norm(outputs: Tensor, kernel: Tensor) -> float:
    """Norm of the smallest function with these outputs: ‖h‖_H = √tr(Hᵀ Θ⁺ H), for h(x_i) = H_i and the kernel Θ.

    With h = Σ_i α_i Θ(x_i, ·), H = ΘA, it is the paper's √tr(Aᵀ Θ A). In float64.

    Shape:
        `outputs` [N, C], `kernel` [N, N], symmetric and without negative eigenvalues.

    Args:
        outputs: H, such as logits of the training samples.
        kernel: Θ of the same samples, such as the tangent kernel's Gram matrix.

    Returns:
        A number >= 0; infinity where the outputs lie outside the kernel's range.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.

    Example:
        >>> import torch
        >>> rkhs_norm(torch.tensor([[2.0], [4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]))  # √(2²/1 + 4²/4)
        2.8284271247461903

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, appendix, def. 2.
    """
    _check("rkhs_norm", kernel, outputs)
    values, vectors = torch.linalg.eigh(as_float64(kernel))
    within = values > values[-1].clamp(min=0) * len(kernel) * torch.finfo(torch.float64).eps
    parts = vectors.T @ as_float64(outputs)
    left = parts[~within].norm()
    if left > 1e-8 * parts.norm():
        return math.inf
    return math.sqrt(float((parts[within].square() / values[within, None]).sum()))


@torch.no_grad()
def norm_reduction(outputs: Tensor, teacher: Tensor, kernel: Tensor, *, weight_decay: float) -> float:
    """Slope at which the congruence shortens a student of kernel ridge regression: ⟨h, H⁻¹∇G(h)⟩ of assumption 3.

    L_KD(h) = (1/2n) Σ_i ‖h(x_i) − y_i‖² + (μ/2) ‖h‖² and G(h) = ‖HHᵀ − TTᵀ‖²_F / n², where the features are the
    outputs. With the minimiser h(λ) of L_KD + λG, d‖h(λ)‖²/dλ = −2 × this number at λ = 0 (eq. 15): positive where
    lemma 3 holds, the norm falls and with it the bound of theorem 4; negative where the congruence makes h longer.

    Shape:
        `outputs` and `teacher` [N, C_s] and [N, C_t], `kernel` [N, N].

    Args:
        outputs: H of the minimiser of L_KD.
        teacher: T, the teacher's outputs of the same samples.
        kernel: Θ of the samples, symmetric and without negative eigenvalues.
        weight_decay: μ > 0.

    Returns:
        A number of any sign, in the outputs' unit to the fourth power.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or `weight_decay` <= 0.

    Example:
        >>> import torch
        >>> teacher, kernel = torch.eye(2), torch.eye(2)
        >>> norm_reduction(2 * teacher, teacher, kernel, weight_decay=0.5) > 0  # a student that overshoots is shortened
        True

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, appendix, assumption 3 and lemma 3.

    Deviations:
        The paper's L_KD has cross-entropy; squared errors have the Hessian Θ/n + μ at every h, in closed form.
    """
    name = "norm_reduction"
    _check(name, kernel, outputs)
    check.floating(name, 2, teacher=teacher)
    check.same_rows(name, outputs=outputs, teacher=teacher)
    check.finite(name, teacher=teacher)
    check.hyperparameters(name, {"weight_decay": _CHECKS["weight_decay"]}, weight_decay=weight_decay)
    ours, theirs, gram = as_float64(outputs), as_float64(teacher), as_float64(kernel)
    count = len(ours)
    gradient = 4 / count**2 * (ours @ ours.T - theirs @ theirs.T) @ ours  # of G by the outputs: coefficients of ∇G
    hessian = gram / count + weight_decay * torch.eye(count, dtype=gram.dtype, device=gram.device)
    return float((ours * torch.linalg.solve(hessian, gradient)).sum())


@torch.no_grad()
def generalization_bound(
    *, risk: float, norm: float, kernel: Tensor, lipschitz: float = 1.0, failure: float = 0.05
) -> float:
    """Upper bound of the true risk: R̂ + 2 C ‖h‖/√n + 2 L √(ln(2/δ)/(2n)), with C = L √(mean of Θ(x_i, x_i)).

    C‖h‖/√n bounds the Rademacher complexity of all functions of at most this norm (theorem 3). Between two students of
    the same samples and kernel, only the risk and the norm differ.

    Args:
        risk: R̂, the empirical risk.
        norm: ‖h‖, see `rkhs_norm`.
        kernel: Θ [N, N] of the training samples; its diagonal is used.
        lipschitz: L of the loss by the outputs.
        failure: δ in (0, 1): the bound holds with probability 1 − δ.

    Returns:
        A number >= `risk`. It is loose: the paper reads only the order of two bounds from it.

    Raises:
        ValueError: for a kernel that is not square or not finite, or a number out of its range.

    Example:
        >>> import torch
        >>> round(generalization_bound(risk=0.1, norm=2.0, kernel=torch.eye(100)), 4)  # 0.1 + 0.4 + 0.2716
        0.7716

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, appendix, theorems 3 and 4.

    Deviations:
        The paper leaves C open; this is the constant of Bartlett and Mendelson 2002 for balls of such a space.
    """
    name = "generalization_bound"
    given = {"risk": risk, "norm": norm, "lipschitz": lipschitz, "failure": failure}
    check.hyperparameters(name, {key: _CHECKS[key] for key in given}, **given)
    _check(name, kernel)
    count = len(kernel)
    diagonal = max(float(as_float64(kernel).diagonal().mean()), 0.0)
    complexity = lipschitz * math.sqrt(diagonal) * norm / math.sqrt(count)
    return risk + 2 * complexity + 2 * lipschitz * math.sqrt(math.log(2 / failure) / (2 * count))


def _check(function: str, kernel: Tensor, outputs: Tensor | None = None) -> None:
    check.floating(function, 2, kernel=kernel)
    check.finite(function, kernel=kernel)
    if outputs is not None:
        check.floating(function, 2, outputs=outputs)
        check.finite(function, outputs=outputs)
        check.same_rows(function, outputs=outputs, kernel=kernel)
    if kernel.shape[0] != kernel.shape[1]:
        check.fail(function, "kernel", "a square matrix", f"shape {list(kernel.shape)}")

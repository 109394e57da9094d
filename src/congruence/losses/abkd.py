"""α-β divergence, a family between forward and reverse KL: how strongly it follows the teacher's likely classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce

CHECKS: Mapping[str, check.Constraint] = {
    "alpha": check.Real(),
    "beta": check.Real(),
    "temperature": check.POSITIVE,
    "reduction": REDUCTION,
}
_NONE = 1e-6  # exponents closer to 0 count as 0
_LARGEST = 60.0  # largest exponent: sums of e^60 = 1e26 stay finite in float32


@float32_island
def alpha_beta_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.8,
    beta: float = 0.3,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    mask: Tensor | None = None,
) -> Tensor:
    """α-β divergence between the softened outputs of student and teacher.

    With p and q = softmax(z / T) of teacher and student: ℓ = −1/(αβ) Σ_c [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)],
    with the limits: for β = 0, (1/α²) Σ (p^α ln(p^α/q^α) − p^α + q^α); for α = 0, that expression with p, q and α, β
    exchanged; for α + β = 0, (1/α²) Σ ((p/q)^α − 1 − α ln(p/q)); for α = β = 0, ½ Σ ln²(p/q). (1, 0) is KL(p ‖ q), and
    (0, 1) is KL(q ‖ p). "mean" is over the rows; for tokens, over the tokens of the whole batch that `mask` marks.

    Shape:
        `student_logits` and `teacher_logits` [B, C], or of tokens [B, L, C]; `mask` [B] or [B, L]; returns [], or the
        shape of the mask for `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        alpha: α, the exponent of the teacher's probabilities.
        beta: β, the exponent of the student's.
        temperature: T > 0.
        reduction: "none", "mean" or "sum".
        mask: bool, True for rows that count; None: all count. Values in other rows have no effect.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient if no row counts. With a negative exponent, probabilities
        whose power exceeds e^60 are raised to that bound, without gradient.

    Raises:
        ValueError: for shapes or a mask that do not fit, a single class, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher, student = torch.tensor([[2.0, 0.0, -2.0]]), torch.zeros(1, 3)
        >>> round(alpha_beta_loss(student, teacher, alpha=1.0, beta=0.0).item(), 4)  # as distillation_loss
        0.6576
        >>> round(alpha_beta_loss(student, teacher).item(), 4)
        0.6047

    Reference:
        Wang et al., ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
        α-β-Divergence, ICML 2025, and the authors' code, which has (0.8, 0.3) for classification and runs its GPT-2
        with (0, 1).

    Deviations:
        For tokens, if β, α or α + β is 0, the released code divides by α (or β), but the limit of the formula has α²
        (β²): the limit is used here. As in the code, there is no factor T². Computed from log-probabilities.
    """
    name = "alpha_beta_loss"
    check.floating(name, (2, 3), student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.hyperparameters(name, CHECKS, alpha=alpha, beta=beta, temperature=temperature, reduction=reduction)
    if mask is not None:
        _check_mask(name, mask, student_logits)
        # Rows that do not count are set equal, so that their divergence is 0.
        student_logits, teacher_logits = (
            z.masked_fill(~mask.unsqueeze(-1), 0) for z in (student_logits, teacher_logits)
        )
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    student, teacher = student_logits, teacher_logits
    if abs(alpha + beta) < 1e-2:
        student, teacher = as_float64(student), as_float64(teacher)  # the sum of the exponents is a divisor
    values = _divergence((student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1), alpha, beta)
    return reduce(name, values.to(dtype), reduction, counted=mask)


def _check_mask(function: str, mask: Tensor, logits: Tensor) -> None:
    wanted = f"None or a boolean tensor of shape {list(logits.shape[:-1])}"
    if not isinstance(mask, Tensor):
        check.fail(function, "mask", wanted, type(mask).__name__)
    if mask.dtype != torch.bool or mask.shape != logits.shape[:-1]:
        check.fail(function, "mask", wanted, f"{mask.dtype} of shape {check.shape(mask)}")
    check.dense(function, student_logits=logits, mask=mask)


def _divergence(student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """Return the divergence of log-probabilities [..., C] over the last dimension.

    In all forms the first-order parts cancel, so differences of powers are computed from one difference of logarithms.
    """
    both = student.isneginf() & teacher.isneginf()  # classes that are masked on both sides have no difference
    student, teacher = student.masked_fill(both, 0), teacher.masked_fill(both, 0)
    total = alpha + beta
    lowest = min(alpha, beta, total, -abs(alpha) if abs(total) < _NONE else 0.0)
    if lowest < -_NONE:  # powers of small probabilities would overflow
        student, teacher = (x.clamp(min=_LARGEST / lowest) for x in (student, teacher))
    apart = teacher - student
    if abs(alpha) < _NONE and abs(beta) < _NONE:
        terms = apart.square() / 2
    elif abs(beta) < _NONE:
        terms = _one_sided(teacher, student, apart, alpha)
    elif abs(alpha) < _NONE:
        terms = _one_sided(student, teacher, -apart, beta)
    elif abs(total) < _NONE:
        terms = (torch.expm1(alpha * apart) - alpha * apart) / alpha**2
    else:
        mixed = alpha * teacher + beta * student
        ours = _gap(total * student, mixed, -alpha * apart) / alpha
        theirs = _gap(total * teacher, mixed, beta * apart) / beta
        terms = (ours + theirs) / total
    return terms.sum(-1)


def _one_sided(first: Tensor, second: Tensor, apart: Tensor, power: float) -> Tensor:
    """Return (p^a ln(p^a/q^a) − p^a + q^a) / a² of ln p, ln q and ln p − ln q."""
    share = (power * first).exp()
    weighed = share * power * torch.where(share > 0, apart, torch.zeros_like(apart))
    return (weighed + _gap(power * second, power * first, -power * apart)) / power**2


def _gap(high: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Return e^high − e^low where high − low = step, from the smaller factor: exact near 0, and without overflow."""
    up = -high.exp() * torch.expm1(-step.clamp(min=0))
    return torch.where(step > 0, up, low.exp() * torch.expm1(step.clamp(max=0)))


class AlphaBetaLoss(nn.Module):
    """`alpha_beta_loss` with its hyper-parameters stored."""

    def __init__(
        self, *, alpha: float = 0.8, beta: float = 0.3, temperature: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        hyperparameters = {"alpha": alpha, "beta": beta, "temperature": temperature, "reduction": reduction}
        check.hyperparameters("AlphaBetaLoss", CHECKS, **hyperparameters)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C], or of tokens [B, L, C]."""
        return alpha_beta_loss(
            student_logits,
            teacher_logits,
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            reduction=self.reduction,
            mask=mask,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}, reduction={self.reduction!r}"

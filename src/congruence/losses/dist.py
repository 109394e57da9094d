"""DIST: the student matches the teacher's relations between classes and samples, not the probabilities themselves."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm

CHECKS: Mapping[str, check.Constraint] = {
    "beta": check.NOT_NEGATIVE,
    "gamma": check.NOT_NEGATIVE,
    "temperature": check.POSITIVE,
}
_EPS = 1e-8
_CONSTANT = 1e-13  # of a vector's norm: what centring leaves of a constant vector is rounding


@float32_island
def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """One minus Pearson's correlation of softened outputs, within each sample and within each class.

    With P = softmax(z / τ) and ρ(a, b) = ⟨a', b'⟩ / (‖a'‖ ‖b'‖ + 1e-8), a' and b' centred:
    L = τ² [ β (1 − (1/B) Σ_b ρ(P_s,b·, P_t,b·)) + γ (1 − (1/C) Σ_c ρ(P_s,·c, P_t,·c)) ].
    The second term is 0 for a single sample, where no correlation exists.

    Shape:
        `student_logits` and `teacher_logits` [B, C]; returns [].

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        beta: β >= 0, weight of the term within samples.
        gamma: γ >= 0, weight of the term within classes.
        temperature: τ > 0.

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that differ, a single class, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
        >>> round(dist_loss(teacher + 5, teacher).item(), 4), round(dist_loss(-teacher, teacher).item(), 4)
        (0.0, 3.8374)

    Reference:
        Huang et al., Knowledge Distillation from a Stronger Teacher, NeurIPS 2022, and the authors' code.

    Deviations:
        The authors' code adds ε to the product of the norms, other code clamps each norm: they differ for classes that
        are nearly constant over the batch. For these, ρ falls to 0 although the sides may be equal. A constant row or
        column correlates with nothing: ρ is 0 with gradient 0, where the code's gradient is of the order of 1/ε. The
        factor τ² comes from the code, not the paper.
    """
    check.floating("dist_loss", 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape("dist_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes("dist_loss", student_logits=student_logits)
    check.hyperparameters("dist_loss", CHECKS, beta=beta, gamma=gamma, temperature=temperature)
    student, teacher = ((as_float64(z) / temperature).softmax(1) for z in (student_logits, teacher_logits))
    loss = beta * (1 - _correlation(student, teacher).mean())
    if len(student) > 1:
        loss = loss + gamma * (1 - _correlation(student.T, teacher.T).mean())
    return (temperature**2 * loss).to(student_logits.dtype)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each row of one with that of the other; 0 with gradient 0 where one is constant."""
    centred = [x - x.mean(1, keepdim=True) for x in (first, second)]
    norms = [safe_norm(x) for x in centred]
    product: Tensor = (centred[0] * centred[1]).sum(1)
    constant = [norm <= _CONSTANT * safe_norm(x) for norm, x in zip(norms, (first, second), strict=True)]
    invalid = (constant[0] | constant[1]) & product.isfinite()  # NaN on the other side must show
    return (product / (norms[0] * norms[1] + _EPS)).masked_fill(invalid, 0.0)


class DistLoss(nn.Module):
    """`dist_loss` with its hyper-parameters stored."""

    def __init__(self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check.hyperparameters("DistLoss", CHECKS, beta=beta, gamma=gamma, temperature=temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C]."""
        return dist_loss(student_logits, teacher_logits, beta=self.beta, gamma=self.gamma, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"beta={self.beta}, gamma={self.gamma}, temperature={self.temperature}"

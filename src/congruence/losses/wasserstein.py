"""Wasserstein distance of feature distributions: optimal transport between the student's and the teacher's batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.graph import differentiable_once
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.dissimilarity import euclidean
from congruence.geometry.transport import REGULARIZATION, SOLVER, Solver, squared_transport_cost, transport_plan

CHECKS: Mapping[str, check.Constraint] = {"solver": SOLVER, "regularization": REGULARIZATION}


@float32_island
def wasserstein_loss(
    student: Tensor, teacher: Tensor, *, solver: Solver = "exact", regularization: float = 0.05
) -> Tensor:
    """Squared 2-Wasserstein distance between two batches with uniform weights.

    L = min_P Σ_ij P_ij ‖f_i^s − f_j^t‖² over plans P >= 0 with row sums 1/n and column sums 1/m. P is computed in
    float64 and constant for the gradient, which is exact by the envelope theorem.

    Shape:
        `student` [n, D], `teacher` [m, D], batch sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        solver: "exact", or "sinkhorn": P minimises ⟨P, M⟩ + ε Σ P log P and the loss is ⟨P, M⟩, without the entropy.
        regularization: ε > 0 of "sinkhorn", in units of the squared distance.

    Returns:
        The loss, in float32 or float64; NaN if a feature is not finite.

    Raises:
        ValueError: for shapes that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [10.0]])
        >>> wasserstein_loss(torch.tensor([[11.0], [0.0]]), teacher).item()  # 11 is transported to 10
        0.5

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 2.

    Deviations:
        None for "exact". The paper has no entropic solver: with "sinkhorn", the loss is not 0 for a student equal to
        the teacher, and the gradient ⟨P, ∂M⟩ omits the change of P. The identity of samples is not used: a student
        whose batch is the teacher's in another order has loss 0, and with few labels a large weight can move classes to
        each other's positions. The paper gives no λ: the default weight is 1, in units of the squared features, and
        recipes set their own.
    """
    name = "wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, solver=solver, regularization=regularization)
    dtype = student.dtype
    student, teacher = as_float64(student), as_float64(teacher)
    cost = euclidean(student.detach(), teacher.detach()).square()
    plan = transport_plan(cost, solver=solver, regularization=regularization)
    if solver == "sinkhorn":  # an exact plan is piecewise constant
        student, teacher = student.view_as(student), teacher.view_as(teacher)
        differentiable_once(name, "its gradient takes the plan as a constant", student, teacher)
    return squared_transport_cost(plan, cost, student, teacher).to(dtype)


class WassersteinLoss(nn.Module):
    """`wasserstein_loss` with its hyper-parameters stored."""

    def __init__(self, *, solver: Solver = "exact", regularization: float = 0.05) -> None:
        super().__init__()
        check.hyperparameters("WassersteinLoss", CHECKS, solver=solver, regularization=regularization)
        self.solver: Solver = solver
        self.regularization = regularization

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D]."""
        return wasserstein_loss(student, teacher, solver=self.solver, regularization=self.regularization)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"solver={self.solver!r}, regularization={self.regularization}"

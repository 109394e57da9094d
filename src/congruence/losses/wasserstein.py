"""Wasserstein distance of feature distributions: the student's batch moved onto the teacher's at the least cost."""

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
        The loss, in float32 or float64; NaN where a feature is not finite.

    Raises:
        ValueError: for shapes that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [10.0]])
        >>> wasserstein_loss(torch.tensor([[11.0], [0.0]]), teacher).item()  # 11 is moved to 10
        0.5

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 2.

    Deviations:
        None for "exact". The paper has no entropic solver: with "sinkhorn" a student equal to the teacher is not at 0,
        and the gradient ⟨P, ∂M⟩ leaves out how P itself moves. Which sample is matched with which is not used: a
        student whose batch is the teacher's in another order has nothing to learn, and a large weight beside few
        labels can move classes onto each other's places. The paper gives no λ: the row's weight is 1, in units of the
        squared features, and recipes set their own.
    """
    name = "wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, solver=solver, regularization=regularization)
    dtype = student.dtype
    student, teacher = as_float64(student), as_float64(teacher)
    cost = euclidean(student.detach(), teacher.detach()).square()
    plan = transport_plan(cost, solver=solver, regularization=regularization)
    if solver == "sinkhorn":  # an exact plan is a constant but where it jumps
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
        """Write the hyper-parameters."""
        return f"solver={self.solver!r}, regularization={self.regularization}"

"""Optimal transport between two batches with uniform weights: plans that carry no gradient, in float64."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.plans import Matrix, class_plan, class_transport, exact_plan, sinkhorn_plan

Solver = Literal["exact", "sinkhorn"]
SOLVER = check.Choice(("exact", "sinkhorn"))
REGULARIZATION = check.POSITIVE


def transport_plan(cost: Tensor, *, solver: Solver = "exact", regularization: float = 0.05) -> Tensor:
    """Cheapest way to move n equal weights onto m equal weights.

    P = argmin ⟨P, M⟩ over P >= 0 with row sums 1/n and column sums 1/m; for "sinkhorn" argmin ⟨P, M⟩ + ε Σ P log P.
    By the envelope theorem the gradient of min ⟨P, M⟩ is ⟨P, ∂M⟩: a loss may take P as a constant.

    Shape:
        `cost` [n, m]; returns [n, m].

    Args:
        cost: M.
        solver: "exact" (an assignment where n = m or their least common multiple is small, else network simplex) or
            "sinkhorn" (in logarithms, started at the exact potentials; after 1000 iterations, or an error of 1e-12, put
            onto the exact marginals).
        regularization: ε > 0 of "sinkhorn", in units of the cost.

    Returns:
        The plan without gradient, in float64 on the cost's device (float32 where there is no float64); NaN throughout
        where the cost is not finite, so that a loss shows what happened.

    Raises:
        ValueError: for a cost that is no matrix, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> transport_plan(torch.tensor([[0.0, 1.0], [1.0, 3.0]])).tolist()
        [[0.0, 0.5], [0.5, 0.0]]
        >>> transport_plan(torch.tensor([[0.0, 4.0, 1.0], [4.0, 0.0, 1.0]])).sum(0).mul(3).tolist()
        [1.0, 1.0, 1.0]

    Reference:
        Peyré and Cuturi, Computational Optimal Transport, 2019, eqs. 2.11 and 4.2; Altschuler et al., Near-linear Time
        Approximation Algorithms for Optimal Transport via Sinkhorn Iteration, 2017, algorithm 2 (the marginals).
    """
    checks: dict[str, check.Constraint] = {"solver": SOLVER, "regularization": REGULARIZATION}
    check.hyperparameters("transport_plan", checks, solver=solver, regularization=regularization)
    check.floating("transport_plan", 2, cost=cost)
    return cast(Tensor, _plan_op(cost.detach(), solver, float(regularization)))


def class_transport_plan(cost: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    """Exact plans of each class for itself, averaged over the classes that are on both sides.

    P = (1/K) Σ_c P_c, where P_c is the plan between the rows and the columns of class c and 0 elsewhere, and K is the
    number of those classes; P = 0 where there is none. A negative label is no class.

    Shape:
        `cost` [n, m], `student_labels` [n], `teacher_labels` [m]; returns [n, m].

    Args:
        cost: M.
        student_labels: integer classes of the rows.
        teacher_labels: integer classes of the columns.

    Returns:
        The plan without gradient, as in `transport_plan`.

    Raises:
        ValueError: for a cost that is no matrix, or labels that do not fit it.

    Example:
        >>> import torch
        >>> class_transport_plan(torch.ones(3, 2), torch.tensor([0, 7, 7]), torch.tensor([7, 5])).tolist()
        [[0.0, 0.0], [0.5, 0.0], [0.5, 0.0]]
    """
    name = "class_transport_plan"
    check.floating(name, 2, cost=cost)
    check.class_labels(name, student_labels=student_labels, teacher_labels=teacher_labels)
    for side, labels, count in (("student", student_labels, cost.shape[0]), ("teacher", teacher_labels, cost.shape[1])):
        if labels.shape[0] != count:
            check.fail(name, f"{side}_labels", f"one label for each of {count}", check.shape(labels))
    return cast(Tensor, _class_plan_op(cost.detach(), student_labels, teacher_labels))


@float32_island
def squared_transport_cost(plan: Tensor, squares: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Total Σ_ij P_ij ‖x_i − y_j‖², its value from `squares` and its derivatives from x and y.

    With p = P 1 and q = Pᵀ 1 the total is Σ p_i ‖x_i‖² + Σ q_j ‖y_j‖² − 2 Σ ⟨x_i, (P y)_i⟩, whose gradient by x,
    2 (p x − P y), is one product of matrices where that of the distances is n·m·D differences. The value does not come
    from this form: it would lose the digits of rows close to each other and far from the origin.

    Shape:
        `plan` [n, m] and `squares` [n, m], constants; `x` [n, D], `y` [m, D]; returns [].

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[2.0]], requires_grad=True), torch.tensor([[0.0], [5.0]])
        >>> squares = torch.cdist(x.detach(), y).square()
        >>> cost = squared_transport_cost(transport_plan(squares).float(), squares, x, y)
        >>> cost.item(), torch.autograd.grad(cost, x)[0].item()
        (6.5, -1.0)
    """
    plan, centre = plan.detach(), y.detach().mean(0)
    x, y = x - centre, y - centre
    form = (plan.sum(1) @ x.square()).sum() + (plan.sum(0) @ y.square()).sum() - 2 * (x * (plan @ y)).sum()
    return (plan * squares.detach()).sum() + (form - form.detach())


@float32_island
def transport_cost(plan: Tensor, cost: Tensor) -> Tensor:
    """Total ⟨P, M⟩ = Σ_ij P_ij M_ij, with gradient through the cost alone.

    Shape:
        `plan` and `cost` [n, m]; returns [].

    Example:
        >>> import torch
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 3.0]])
        >>> transport_cost(transport_plan(cost), cost).item()
        1.0
    """
    return (plan.detach() * cost).sum()


def class_squared_transport_cost(x: Tensor, y: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    """Total ⟨P, M⟩ of `class_transport_plan` for M_ij = ‖x_i − y_j‖², of which no more than P needs is computed.

    Shape:
        `x` [n, D], `y` [m, D], `student_labels` [n], `teacher_labels` [m]; returns [], NaN if x or y is not finite.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [7.0], [2.0]]).double(), torch.tensor([[2.0], [2.0], [8.0]]).double()
        >>> class_squared_transport_cost(x, y, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1])).item()
        0.75
    """
    plan, squares = cast(
        tuple[Tensor, Tensor], _class_transport_op(x.detach(), y.detach(), student_labels, teacher_labels)
    )
    return squared_transport_cost(plan, squares, x, y)


# Solvers run in NumPy. As operators of torch they are one opaque node to torch.compile, which cannot trace them.
@torch.library.custom_op(
    "congruence::transport_plan",
    mutates_args=(),
    schema="(Tensor cost, str solver, float regularization) -> Tensor",
)
def _plan_op(cost: Tensor, solver: str, regularization: float) -> Tensor:
    matrix = _matrix(cost)
    if not np.isfinite(matrix).all():
        return _like(cost, np.full(matrix.shape, np.nan))
    return _like(cost, exact_plan(matrix) if solver == "exact" else sinkhorn_plan(matrix, regularization))


@torch.library.custom_op(
    "congruence::class_transport_plan",
    mutates_args=(),
    schema="(Tensor cost, Tensor student_labels, Tensor teacher_labels) -> Tensor",
)
def _class_plan_op(cost: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    matrix = _matrix(cost)
    if not np.isfinite(matrix).all():
        return _like(cost, np.full(matrix.shape, np.nan))
    return _like(cost, class_plan(matrix, student_labels.cpu().numpy(), teacher_labels.cpu().numpy()))


@torch.library.custom_op(
    "congruence::class_transport",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor student_labels, Tensor teacher_labels) -> (Tensor, Tensor)",
)
def _class_transport_op(x: Tensor, y: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> tuple[Tensor, Tensor]:
    ours, theirs = _matrix(x), _matrix(y)
    with np.errstate(over="ignore"):
        bound = ours.shape[1] * (np.abs(ours).max() + np.abs(theirs).max()) ** 2
    if not np.isfinite(bound):
        nowhere = np.full((len(ours), len(theirs)), np.nan)
        return _like(x, nowhere), _like(x, nowhere.copy())
    plan, squares = class_transport(ours, theirs, student_labels.cpu().numpy(), teacher_labels.cpu().numpy())
    return _like(x, plan), _like(x, squares)


@_plan_op.register_fake
def _(cost: Tensor, solver: str, regularization: float) -> Tensor:
    return cost.new_empty(cost.shape, dtype=_plan_dtype(cost))


@_class_plan_op.register_fake
def _(cost: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    return cost.new_empty(cost.shape, dtype=_plan_dtype(cost))


@_class_transport_op.register_fake
def _(x: Tensor, y: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> tuple[Tensor, Tensor]:
    plan = x.new_empty((x.shape[0], y.shape[0]), dtype=_plan_dtype(x))
    return plan, torch.empty_like(plan)


def _plan_dtype(cost: Tensor) -> torch.dtype:
    return torch.float32 if cost.device.type == "mps" else torch.float64


def _matrix(cost: Tensor) -> Matrix:
    return cast("Matrix", cost.cpu().double().numpy())


def _like(cost: Tensor, plan: Matrix) -> Tensor:
    return torch.from_numpy(plan).to(cost.device, _plan_dtype(cost))

"""Solvers of optimal transport between uniform weights, in NumPy and float64; `transport` calls them for torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Matrix: TypeAlias = "NDArray[np.float64]"
Integers: TypeAlias = "NDArray[np.int64]"
_SIMPLEX_STEPS = 10_000_000
_SINKHORN_STEPS = 1_000
_SINKHORN_ERROR = 1e-12
# Up to here the network simplex, which has 35 µs to prepare whatever it solves, is the slower one.
_COPIES = 48


def exact_plan(cost: Matrix) -> Matrix:
    """Cheapest plan between n and m uniform weights, for a finite cost [n, m].

    Let L be a multiple of n and m, and split each weight into equal parts of 1/L: L/n copies of a row, L/m of a column.
    Summing a plan of the copies gives one of the whole weights at the same cost, and dividing evenly goes back; so
    both have the same least cost. That of the copies is reached by an assignment (Birkhoff). It is used where L is
    small; n = m is L = n.

    Example:
        >>> exact_plan(np.array([[0.0, 4.0, 1.0], [4.0, 0.0, 1.0]])).round(3).tolist()
        [[0.333, 0.0, 0.167], [0.0, 0.333, 0.167]]
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = cost.shape
    if rows == columns:
        plan = np.zeros(cost.shape)
        plan[linear_sum_assignment(cost)] = 1 / rows
        return plan
    if 1 in cost.shape:
        return np.full(cost.shape, 1 / cost.size)
    copies = math.lcm(rows, columns)
    if copies > _COPIES:
        return _simplex(cost)[0]
    of_row, of_column = copies // rows, copies // columns
    row, column = linear_sum_assignment(cost.repeat(of_row, 0).repeat(of_column, 1))
    moved = np.bincount(row // of_row * columns + column // of_column, minlength=cost.size)
    return moved.reshape(cost.shape) / copies


def class_plan(cost: Matrix, row_labels: Integers, column_labels: Integers) -> Matrix:
    """Mean over the classes on both sides of their exact plans, 0 elsewhere; a negative label is no class.

    Example:
        >>> class_plan(np.zeros((3, 2)), np.array([0, 7, 7]), np.array([7, 5])).tolist()
        [[0.0, 0.0], [0.5, 0.0], [0.5, 0.0]]
    """
    return _class_plan(row_labels, column_labels, lambda rows, columns: cost[rows[:, None], columns])[0]


def class_transport(x: Matrix, y: Matrix, row_labels: Integers, column_labels: Integers) -> tuple[Matrix, Matrix]:
    """`class_plan` for the costs ‖x_i − y_j‖², and these; costs between two classes are not computed, but 0.

    Example:
        >>> x, y = np.array([[1.0], [7.0], [2.0]]), np.array([[2.0], [2.0], [8.0]])
        >>> plan, squares = class_transport(x, y, np.array([0, 1, 0]), np.array([0, 0, 1]))
        >>> squares.tolist(), float((plan * squares).sum())
        ([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], 0.75)
    """
    from scipy.spatial.distance import cdist

    squares = np.zeros((len(x), len(y)))

    def measured(rows: Integers, columns: Integers) -> Matrix:
        costs: Matrix = cdist(x[rows], y[columns], "sqeuclidean")  # from differences
        squares[rows[:, None], columns] = costs
        return costs

    plan, even = _class_plan(row_labels, column_labels, measured)
    squares[even] = np.square(x[even[0]] - y[even[1]]).sum(1)
    return plan, squares


def _class_plan(
    row_labels: Integers, column_labels: Integers, cost: Callable[[Integers, Integers], Matrix]
) -> tuple[Matrix, tuple[Integers, Integers]]:
    """Return the plan, and the cells of classes for which the cost was not asked, as there is but one plan."""
    plan = np.zeros((len(row_labels), len(column_labels)))
    rows, columns, (top, bottom), (left, right) = shared_classes(row_labels, column_labels)
    height, width = bottom - top, right - left
    even = np.minimum(height, width) == 1  # a single sample on one side
    cells = (height * width)[even]
    cell = np.arange(cells.sum()) - np.repeat(cells.cumsum() - cells, cells)
    down, across = (cell * np.repeat(size[even] > 1, cells) for size in (height, width))
    at = rows[np.repeat(top[even], cells) + down], columns[np.repeat(left[even], cells) + across]
    plan[at] = np.repeat(1 / (len(top) * cells), cells)
    for start, stop, first, last in np.stack([top, bottom, left, right], 1)[~even].tolist():
        ours, theirs = rows[start:stop], columns[first:last]
        plan[ours[:, None], theirs] = exact_plan(cost(ours, theirs)) / len(top)
    return plan, at


def shared_classes(
    row_labels: Integers, column_labels: Integers
) -> tuple[Integers, Integers, tuple[Integers, Integers], tuple[Integers, Integers]]:
    """Order rows and columns by class, and say from where to where each class that both have lies in these orders.

    Example:
        >>> rows, columns, (top, bottom), (left, right) = shared_classes(np.array([3, 0, 3]), np.array([2, 3, -1]))
        >>> rows[top[0] : bottom[0]].tolist(), columns[left[0] : right[0]].tolist()
        ([0, 2], [1])
    """
    rows, columns = row_labels.argsort(kind="stable"), column_labels.argsort(kind="stable")
    ours, theirs = row_labels[rows], column_labels[columns]
    classes = ours[np.append(True, ours[1:] != ours[:-1]) & (ours >= 0)]
    left, right = theirs.searchsorted(classes), theirs.searchsorted(classes, "right")
    both = left < right
    top, bottom = ours.searchsorted(classes[both]), ours.searchsorted(classes[both], "right")
    return rows, columns, (top, bottom), (left[both], right[both])


def _simplex(cost: Matrix) -> tuple[Matrix, dict[str, Any]]:
    """Network simplex; the cost is scaled, for its tolerances are absolute."""
    import ot

    weights = (np.full(count, 1 / count) for count in cost.shape)
    scale = np.abs(cost).max() or 1.0
    plan, log = ot.emd(*weights, cost / scale, numItermax=_SIMPLEX_STEPS, log=True)
    return plan, {"u": log["u"] * scale, "v": log["v"] * scale}


def sinkhorn_plan(cost: Matrix, regularization: float) -> Matrix:
    """Plan of least ⟨P, M⟩ + ε Σ P log P, put onto the exact marginals, for a finite cost [n, m].

    Example:
        >>> sinkhorn_plan(np.array([[0.0, 1.0], [1.0, 0.0]]), 1e3).round(2).tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    import ot

    rows, columns = (np.full(count, 1 / count) for count in cost.shape)
    if 1 in cost.shape:
        return np.outer(rows, columns)
    # Cold, the potentials of a small ε would need about max(M)/ε iterations to grow to their size.
    exact = _simplex(cost)[1]
    start = (exact["u"] / regularization, exact["v"] / regularization)
    plan = ot.sinkhorn(
        rows,
        columns,
        cost,
        regularization,
        method="sinkhorn_log",
        numItermax=_SINKHORN_STEPS,
        stopThr=_SINKHORN_ERROR,
        warmstart=start,
        warn=False,
    )
    plan = plan * np.minimum(1, rows / np.maximum(plan.sum(1), np.finfo(np.float64).tiny))[:, None]
    plan = plan * np.minimum(1, columns / np.maximum(plan.sum(0), np.finfo(np.float64).tiny))
    left, right = rows - plan.sum(1), columns - plan.sum(0)
    missing = left.sum()
    return cast("Matrix", plan + np.outer(left, right) / missing if missing > 0 else plan)

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from congruence.geometry.plans import class_plan, class_transport, exact_plan, shared_classes
from congruence.geometry.transport import (
    class_squared_transport_cost,
    squared_transport_cost,
    transport_cost,
    transport_plan,
)


def costs(rows, columns, seed=0):
    return 5 * np.random.default_rng(seed).random((rows, columns))


def least(cost):
    """The problem as it is defined, for a solver of linear programs."""
    rows, columns = cost.shape
    sums = [np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))]
    weights = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=weights, method="highs").fun


# Assignments, assignments of copies (up to 48 of them), and what is left to the network simplex.
SHAPES = [(5, 5), (1, 7), (2, 3), (4, 3), (5, 6), (6, 4), (2, 24), (16, 12), (16, 48), (7, 8), (9, 16), (20, 30)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_has_its_marginals_and_the_least_cost(shape):
    cost = costs(*shape)
    plan = exact_plan(cost)
    assert plan.shape == shape
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(1), 1 / shape[0], rtol=1e-12)
    np.testing.assert_allclose(plan.sum(0), 1 / shape[1], rtol=1e-12)
    np.testing.assert_allclose((plan * cost).sum(), least(cost), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_costs_have_a_plan(shape):
    plan = exact_plan(np.full(shape, 3.0))
    np.testing.assert_allclose((3 * plan).sum(), 3, rtol=1e-12)
    np.testing.assert_allclose(plan.sum(1), 1 / shape[0], rtol=1e-12)


def test_no_solver_of_pairs_is_called_where_the_sizes_are_equal_or_small(monkeypatch):
    import ot

    called = []
    emd = ot.emd
    monkeypatch.setattr(ot, "emd", lambda *a, **k: called.append(a[2].shape) or emd(*a, **k))
    for shape in [(50, 50), (6, 8), (1, 60), (24, 48), (7, 8)]:
        exact_plan(costs(*shape))
    assert called == [(7, 8)]


@pytest.mark.parametrize("classes", [1, 3, 12, 100])
@pytest.mark.parametrize("sizes", [(40, 40), (40, 25), (1, 30)])
def test_classes_are_solved_each_for_itself(classes, sizes):
    generator = np.random.default_rng(classes)
    cost = costs(*sizes)
    rows, columns = (generator.integers(-1, classes, size) for size in sizes)
    shared = [c for c in range(classes) if (rows == c).any() and (columns == c).any()]
    expected = np.zeros(sizes)
    for c in shared:
        block = np.ix_(rows == c, columns == c)
        expected[block] = exact_plan(cost[block]) / len(shared)
    np.testing.assert_allclose(class_plan(cost, rows, columns), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("classes", [1, 3, 12, 100])
@pytest.mark.parametrize("sizes", [(40, 40), (40, 25), (1, 30)])
def test_costs_within_the_classes_are_enough(classes, sizes):
    generator = np.random.default_rng(classes)
    rows, columns = (generator.integers(-1, classes, size) for size in sizes)
    x, y = (generator.standard_normal((size, 4)) for size in sizes)
    squares = np.square(x[:, None] - y[None]).sum(2)
    plan, costs = class_transport(x, y, rows, columns)
    np.testing.assert_allclose(plan, class_plan(squares, rows, columns), rtol=1e-14, atol=0)
    same = (rows[:, None] == columns) & (rows[:, None] >= 0)
    np.testing.assert_allclose(costs, squares * same, rtol=1e-13, atol=0)


def test_labels_may_be_of_any_size_and_of_no_class():
    far = np.array([2**62, -5, 7, 2**62]), np.array([-5, 2**62])
    plan = class_plan(costs(4, 2), *far)
    np.testing.assert_allclose(plan, [[0, 0.5], [0, 0], [0, 0], [0, 0.5]])
    rows, columns, (top, bottom), (left, right) = shared_classes(*far)
    assert rows[top[0] : bottom[0]].tolist() == [0, 3]
    assert columns[left[0] : right[0]].tolist() == [1]
    assert not class_plan(costs(2, 2), np.array([-1, 3]), np.array([-1, 4])).any()


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (7, 8)])
def test_squares_have_the_derivatives_of_the_distances(shape):
    """By the envelope theorem the gradient of the least cost is that of ⟨P, M⟩ with P constant."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, 3, generator=generator, dtype=torch.float64, requires_grad=True) for size in shape)

    def moved(x, y):
        squares = torch.cdist(x.detach(), y.detach()).square()
        return squared_transport_cost(transport_plan(squares), squares, x, y)

    cost = (x[:, None] - y[None]).square().sum(2)
    slow = transport_cost(transport_plan(cost), cost)
    torch.testing.assert_close(moved(x, y), slow, rtol=1e-13, atol=0)
    expected = torch.autograd.grad(slow, (x, y))
    torch.testing.assert_close(torch.autograd.grad(moved(x, y), (x, y)), expected, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(moved, (x, y))
    assert torch.autograd.gradgradcheck(moved, (x, y))


def test_equal_rows_have_no_gradient_and_far_ones_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    same = base.clone().requires_grad_()
    squares = torch.cdist(base, base).square()
    value = squared_transport_cost(transport_plan(squares), squares, same, base)
    assert value.item() == 0
    assert not torch.autograd.grad(value, same)[0].any()
    far, near = (1e6 + base).requires_grad_(), 1e6 + base + 1e-3 * base.flip(1)
    squares = torch.cdist(far.detach(), near, compute_mode="donot_use_mm_for_euclid_dist").square()
    (gradient,) = torch.autograd.grad(squared_transport_cost(transport_plan(squares), squares, far, near), far)
    torch.testing.assert_close(gradient, 2 * (far.detach() - near) / 8, rtol=1e-6, atol=0)


def test_features_that_are_not_finite_give_nan_and_large_ones_no_warning():
    labels = torch.tensor([0, 1, 1])
    for value in (math.nan, math.inf, 1e300):
        x = torch.ones(3, 2, dtype=torch.float64)
        x[1, 0] = value
        assert class_squared_transport_cost(x, torch.zeros_like(x), labels, labels).isnan()


def test_the_operator_is_one_that_torch_can_trace():
    x, y = (torch.randn(size, 2, generator=torch.Generator().manual_seed(0)).double() for size in (5, 4))
    labels = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 0, 3])
    torch.library.opcheck(torch.ops.congruence.class_transport, (x, y, *labels))

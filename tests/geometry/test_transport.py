import math
import re

import pytest
import torch

from congruence.geometry import class_transport_plan, transport_cost, transport_plan


def costs(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.rand(rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5), (1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_a_plan_moves_all_weights(shape, solver):
    plan = transport_plan(costs(*shape), solver=solver)
    assert plan.dtype == torch.float64
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full(shape[:1], 1 / shape[0], dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full(shape[1:], 1 / shape[1], dtype=torch.float64))


@pytest.mark.parametrize("shape", [(6, 6), (5, 8)])
def test_no_plan_is_cheaper_than_the_exact_one(shape):
    """Linear duality: entries in use have the least reduced cost, so no exchange of two rows' weights helps."""
    cost = costs(*shape)
    plan = transport_plan(cost)
    value = transport_cost(plan, cost)
    for seed in range(20):
        other = transport_plan(costs(*shape, seed=seed + 1))
        assert value <= transport_cost(other, cost) + 1e-12
    assert value <= cost.mean()


def test_sinkhorn_has_the_form_of_its_optimum():
    cost = costs(4, 6)
    plan = transport_plan(cost, solver="sinkhorn", regularization=1.0)
    potentials = plan.log() + cost  # u_i + v_j
    mixed = potentials - potentials[:1] - potentials[:, :1] + potentials[0, 0]
    assert mixed.abs().max() < 1e-9


def test_sinkhorn_keeps_the_marginals_where_it_does_not_converge():
    cost = 1e6 * costs(5, 7)
    plan = transport_plan(cost, solver="sinkhorn", regularization=1e-3)
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 1 / 5, dtype=torch.float64))
    exact = transport_cost(transport_plan(cost), cost)
    assert exact * (1 - 1e-9) <= transport_cost(plan, cost) <= 1.01 * exact


def test_the_gradient_is_the_plan():
    cost = costs(4, 6).requires_grad_()
    plan = transport_plan(cost)
    assert not plan.requires_grad
    (gradient,) = torch.autograd.grad(transport_cost(plan, cost), cost)
    assert torch.equal(gradient, plan)
    assert torch.autograd.gradcheck(lambda c: transport_cost(transport_plan(c), c), (cost,))


def test_shapes_are_known_without_running():
    cost = torch.empty(3, 4, device="meta")
    assert transport_plan(cost).shape == (3, 4)
    labels = torch.empty(3, dtype=torch.long, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    assert class_transport_plan(cost, *labels).dtype == torch.float64
    torch.library.opcheck(torch.ops.congruence.transport_plan, (costs(3, 4), "exact", 0.05))
    ours, theirs = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 2])
    torch.library.opcheck(torch.ops.congruence.class_transport_plan, (costs(3, 4), ours, theirs))


def test_a_cost_that_is_not_finite_gives_nan():
    cost = costs(3, 3)
    cost[1, 2] = math.inf
    labels = torch.zeros(3, dtype=torch.long)
    assert transport_plan(cost).isnan().all()
    assert class_transport_plan(cost, labels, labels).isnan().all()


def test_classes_are_moved_apart():
    ours, theirs = torch.tensor([3, -1, 5, 3, 8]), torch.tensor([5, 3, -1, 9])
    plan = class_transport_plan(costs(5, 4), ours, theirs)
    expected = torch.zeros(5, 4, dtype=torch.float64)
    expected[[0, 3], 1] = 0.25
    expected[2, 0] = 0.5
    assert torch.equal(plan, expected)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: transport_plan(torch.ones(3)), "`cost` must be a non-empty 2-D tensor, got shape [3]."),
        (
            lambda: transport_plan(torch.ones(3, 3), solver="greedy"),
            "`solver` must be one of 'exact', 'sinkhorn', got 'greedy'.",
        ),
        (
            lambda: transport_plan(torch.ones(3, 3), regularization=0),
            "`regularization` must be a number > 0, got 0.",
        ),
        (
            lambda: class_transport_plan(torch.ones(3, 2), torch.ones(3).int(), torch.ones(3).int()),
            "`teacher_labels` must be one label for each of 2, got [3].",
        ),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()

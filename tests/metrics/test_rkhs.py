"""CCKD's appendix beyond lemma 2, on kernel ridge regression, where minimisers are exact."""

import math

import pytest
import torch
from _harness.losses import seeded

from congruence.metrics import generalization_bound, norm_reduction, rkhs_norm

N, MU = 6, 0.3


def problem(seed):
    generator = seeded(seed)
    draw = torch.randn(N, N, generator=generator, dtype=torch.float64)
    kernel = draw @ draw.T / N + 0.2 * torch.eye(N, dtype=torch.float64)
    targets, teacher = (torch.randn(N, width, generator=generator, dtype=torch.float64) for width in (2, 3))
    return kernel, targets, teacher


def minimiser(kernel, targets, teacher, weight):
    """Outputs of the minimiser of L_KD + λG: (Θ/n + μ) A = Y/n − λ ∂G/∂H, iterated."""
    hessian = kernel / N + MU * torch.eye(N, dtype=torch.float64)
    outputs = torch.zeros_like(targets)
    for _ in range(60):
        outputs = outputs.detach().requires_grad_()
        gap = (outputs @ outputs.T - teacher @ teacher.T).square().sum() / N**2
        (gradient,) = torch.autograd.grad(gap, outputs)
        outputs = kernel @ torch.linalg.solve(hessian, targets / N - weight * gradient)
    return outputs.detach()


def test_the_norm_is_that_of_the_coefficients():
    kernel, targets, _ = problem(0)
    assert rkhs_norm(kernel @ targets, kernel) == pytest.approx(float((targets * (kernel @ targets)).sum()) ** 0.5)
    low = kernel[:, :2] @ kernel[:2]  # of rank 2
    assert rkhs_norm(low @ targets, low) == pytest.approx(float((targets * (low @ targets)).sum()) ** 0.5)
    assert rkhs_norm(targets, low) == math.inf
    assert rkhs_norm(torch.zeros(3, 2), torch.zeros(3, 3)) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_slope_of_the_squared_norm(seed):
    kernel, targets, teacher = problem(seed)
    step = 1e-4
    low, high = (rkhs_norm(minimiser(kernel, targets, teacher, sign * step), kernel) ** 2 for sign in (-1, 1))
    found = norm_reduction(minimiser(kernel, targets, teacher, 0.0), teacher, kernel, weight_decay=MU)
    assert (high - low) / (2 * step) == pytest.approx(-2 * found, rel=1e-4)


def test_lemma_3_and_theorem_4_hold_where_assumption_3_does():
    signs = set()
    for seed in range(8):
        kernel, targets, teacher = problem(seed)
        teacher = teacher if seed % 2 else 0.1 * teacher
        plain, congruent = (minimiser(kernel, targets, teacher, weight) for weight in (0.0, 1e-3))
        shorter = norm_reduction(plain, teacher, kernel, weight_decay=MU) > 0
        signs.add(shorter)
        norms = [rkhs_norm(each, kernel) for each in (plain, congruent)]
        assert (norms[1] < norms[0]) == shorter
        bounds = [generalization_bound(risk=0.1, norm=each, kernel=kernel) for each in norms]
        assert (bounds[1] < bounds[0]) == shorter
    assert signs == {True, False}  # the assumption is one


def test_the_bound_by_hand():
    kernel = torch.diag(torch.tensor([1.0, 3.0, 5.0, 7.0]))
    found = generalization_bound(risk=0.25, norm=1.5, kernel=kernel, lipschitz=2.0, failure=0.1)
    assert found == pytest.approx(0.25 + 2 * 2 * 2 * 1.5 / 2 + 2 * 2 * math.sqrt(math.log(20) / 8))


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: rkhs_norm(torch.ones(2, 1), torch.ones(2, 3)), "`kernel` must be a square matrix, got shape [2, 3]"),
        (lambda: rkhs_norm(torch.ones(3, 1), torch.ones(2, 2)), "`rkhs_norm`: "),
        (
            lambda: norm_reduction(torch.ones(2, 1), torch.ones(2, 1), torch.eye(2), weight_decay=0.0),
            "`norm_reduction`: `weight_decay` must be a number > 0, got 0.0.",
        ),
        (
            lambda: generalization_bound(risk=0.1, norm=1.0, kernel=torch.eye(2), failure=1.0),
            "`generalization_bound`: `failure` must be",
        ),
    ],
)
def test_errors(call, part):
    with pytest.raises(ValueError) as caught:
        call()
    assert part in str(caught.value)

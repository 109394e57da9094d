import pytest
import torch
from _harness.losses import seeded
from _harness.memory import largest_tensor

from congruence.geometry import cosine, euclidean, soft_rank
from congruence.geometry.softrank import soft_rank_within
from congruence.geometry.softrank_fast import _coefficients, _factors, count_terms, error_bound

ROWS = 96
_NOISE = torch.randn(ROWS, 6, generator=seeded(1))
_SIDE = torch.where(torch.arange(ROWS) % 2 == 0, 1.0, -1.0)[:, None]
POINTS = {
    "scattered": _NOISE,
    "tight": 1 + 1e-3 * _NOISE,
    "equal rows": torch.cat([_NOISE[:48], _NOISE[:48]]),
    "all equal": _NOISE[:1].expand(ROWS, -1),
    "two far clusters": 1000 * _SIDE + _NOISE,
    "two tight clusters": 10 * _SIDE + 0.01 * _NOISE,
    "an outlier": torch.cat([1e4 * _NOISE[:1], _NOISE[1:]]),
}


def ranks_and_gradient(d, temperature, method):
    d = d.clone().requires_grad_()
    ranks = soft_rank(d, temperature, method=method)
    weights = torch.randn(d.shape, generator=seeded(3)).to(d.dtype)
    return ranks.detach(), torch.autograd.grad(ranks, d, weights)[0]


@pytest.mark.parametrize("kernel", ["sigmoid", "slope"])
@pytest.mark.parametrize("ratio", [1e-3, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0])
def test_the_bound_is_above_the_error(ratio, kernel):
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    truth = torch.sigmoid(ratio / 2 * (x[:, None] - x))
    if kernel == "slope":
        truth = truth * (1 - truth)
    for outer, inner in ((2, 1), (2, 2), (2, 3), (4, 4), (5, 6), (8, 9), (16, 16)):
        low, high = _factors(x[None], outer, inner)
        basis = (high[0][:, None] * low[0]).flatten(0, 1)
        error = (basis.T @ _coefficients(ratio, outer, inner, kernel) @ basis - truth).abs().max().item()
        assert error <= error_bound(ratio, outer * inner, kernel) + 1e-12
    for error in (1e-3, 1e-7, 1e-13):
        terms = count_terms(ratio, error, kernel)
        assert terms is None or error_bound(ratio, terms, kernel) <= error
        assert terms in (None, 2) or error_bound(ratio, terms - 1, kernel) > error


def test_the_bound_is_not_far_above_the_error():
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    low, high = _factors(x[None], 5, 5)
    basis = (high[0][:, None] * low[0]).flatten(0, 1)
    truth = torch.sigmoid(5 * (x[:, None] - x))
    error = (basis.T @ _coefficients(10.0, 5, 5, "sigmoid") @ basis - truth).abs().max().item()
    assert error_bound(10.0, 25) < 1000 * error


def test_few_terms_do_and_too_many_are_not_taken():
    assert [count_terms(1 / tau, 1e-7) for tau in (0.3, 0.1, 0.05)] == [16, 39, 76]
    assert count_terms(1e4, 1e-7) is None


@pytest.mark.parametrize("measure", [cosine, euclidean])
@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1, 0.05, 0.01, 1e-4])
def test_agrees_with_the_formula_in_float64(measure, points, temperature):
    d = measure(POINTS[points])
    ranks, gradient = ranks_and_gradient(d, temperature, "fast")
    expected, slope = ranks_and_gradient(d.double(), temperature, "exact")
    assert (ranks - expected).norm() <= 1e-6 * expected.norm()
    assert (ranks - expected).abs().max() <= 1e-6 * ROWS
    # Saturated everywhere, a gradient is made of what float32 cannot tell from 0.
    assert (gradient - slope).norm() <= 1e-5 * slope.norm() + 1e-7 * ROWS / temperature
    if slope.norm() > 1 / temperature:
        assert (gradient - slope).norm() <= 1e-5 * slope.norm()
    exactly, steep = ranks_and_gradient(d.double(), temperature, "fast")
    torch.testing.assert_close(exactly, expected, rtol=1e-10, atol=0)
    assert (steep - slope).norm() <= 1e-9 * slope.norm() + 1e-12 * ROWS / temperature


@pytest.mark.parametrize("temperature", [0.3, 0.01, 1e-4])
def test_is_the_same_each_time_and_in_any_order(temperature):
    d = torch.rand(20, 60, generator=seeded())
    first, second = (ranks_and_gradient(d, temperature, "fast") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    order = torch.randperm(60, generator=seeded(1))
    torch.testing.assert_close(soft_rank(d[:, order], temperature, method="fast"), first[0][:, order])


def test_a_known_range_changes_nothing():
    d = torch.rand(20, 60, generator=seeded())
    expected = soft_rank(d, 0.2, method="fast")
    torch.testing.assert_close(soft_rank_within(d, 0.2, "fast", 1.0), expected)


@pytest.mark.parametrize("temperature", [0.3, 0.01, 1e-4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad, temperature):
    d = torch.rand(3, 7, generator=seeded())
    d[1, 2] = bad
    ranks, expected = (soft_rank(d, temperature, method=method) for method in ("fast", "exact"))
    torch.testing.assert_close(ranks, expected, equal_nan=True)
    assert ranks[1].isnan().any()


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 2), (2, 700)])
@pytest.mark.parametrize("temperature", [0.3, 0.01, 1e-5])
def test_all_shapes(shape, temperature):
    d = torch.rand(shape, generator=seeded())
    ranks, gradient = ranks_and_gradient(d, temperature, "fast")
    expected, slope = ranks_and_gradient(d.double(), temperature, "exact")
    torch.testing.assert_close(ranks.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-7 * shape[1] / temperature)


@pytest.mark.parametrize("temperature", [0.3, 0.02, 1e-5])
def test_memory_is_that_of_the_matrix(temperature):
    d = torch.rand(200, 200, generator=seeded()).requires_grad_()
    most = largest_tensor(lambda: soft_rank(d, temperature, method="fast").sum().backward())
    assert most <= 2**14 * 16


def test_half_precision_is_widened():
    d = torch.rand(4, 9, generator=seeded()).bfloat16()
    assert torch.equal(soft_rank(d, 0.3, method="fast"), soft_rank(d.float(), 0.3, method="fast"))


def test_the_operators_hold_what_they_promise():
    d = torch.rand(4, 9, generator=seeded(), requires_grad=True)
    tested = torch.library.opcheck(torch.ops.congruence.soft_rank.default, (d, 0.3, 1.0))
    assert set(tested.values()) == {"SUCCESS"}

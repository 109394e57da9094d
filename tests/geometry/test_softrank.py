import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded

from congruence.geometry import cosine, euclidean, soft_rank


@pytest.mark.parametrize(
    ("case", "measure"), [("cos", cosine), ("cos1", lambda x: 2 * cosine(x)), ("euclid", euclidean)]
)
@pytest.mark.parametrize(("side", "temperature"), [("s", 0.3), ("t", 0.1)])
@pytest.mark.parametrize(("method", "rtol"), [("auto", 1e-12), ("exact", 1e-12), ("fast", 1e-11)])
def test_equals_the_goldens(case, measure, side, temperature, method, rtol):
    stored = golden.arrays(f"softrank_{case}_A")
    soft_ranks = soft_rank(measure(stored[f"in_{side}"].double()), temperature, method=method)
    torch.testing.assert_close(soft_ranks, stored[f"out_R{side}"], rtol=rtol, atol=0)


def test_equals_a_slow_loop():
    d = torch.rand(3, 5, generator=seeded(), dtype=torch.float64)
    rows = [[sum(1 / (1 + math.exp((k - j) / 0.2)) for k in row) for j in row] for row in d.tolist()]
    torch.testing.assert_close(soft_rank(d, 0.2), torch.tensor(rows, dtype=torch.float64))


def test_ranks_of_a_row_sum_to_half_the_square():
    d = torch.rand(4, 9, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(soft_rank(d, 0.1).sum(1), torch.full((4,), 81 / 2, dtype=torch.float64))


def test_tends_to_the_rank_less_one_half():
    d = torch.rand(4, 9, generator=seeded(), dtype=torch.float64)
    ranks = d.argsort(1).argsort(1) + 0.5
    torch.testing.assert_close(soft_rank(d, 1e-6), ranks.double(), rtol=0, atol=1e-12)


def test_rows_do_not_see_each_other():
    d = torch.rand(8, 8, generator=seeded(), dtype=torch.float64)
    assert torch.equal(soft_rank(d[2:5], 0.3), soft_rank(d, 0.3)[2:5])


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("temperature", [0.3, 0.02, 0.002])
def test_derivatives_and_no_detach(method, temperature):
    d = torch.rand(3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: soft_rank(d, temperature, method=method), d)
    assert torch.autograd.gradgradcheck(lambda d: soft_rank(d, temperature, method=method), d)


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("temperature", [1e-12, 1e12])
def test_finite_at_extreme_temperatures(temperature, method):
    d = (1e4 * torch.rand(3, 6, generator=seeded())).requires_grad_()
    ranks = soft_rank(d, temperature, method=method)
    ranks.square().sum().backward()
    assert torch.isfinite(ranks).all()
    assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(2, 2), 0.0), "`soft_rank`: `temperature` must be a number > 0, got 0.0."),
        ((torch.zeros(2, 2), -1), "`soft_rank`: `temperature` must be a number > 0, got -1."),
        ((torch.zeros(2), 0.1), "`soft_rank`: `dissimilarities` must be a non-empty 2-D tensor, got shape [2]."),
    ],
)
def test_errors(arguments, sentence):
    with pytest.raises(ValueError) as error:
        soft_rank(*arguments)
    assert str(error.value) == sentence

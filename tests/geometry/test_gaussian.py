import re

import pytest
import torch
from _harness.losses import gradients, leaves, seeded
from _harness.memory import largest_tensor

from congruence.geometry import bures, gaussian_wasserstein
from congruence.geometry.gaussian import padded_gaussian_wasserstein


def draw(rows, width, seed=0):
    return torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)


def test_bures_of_commuting_covariances_is_the_distance_of_deviations():
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    scales = torch.tensor([[1.0, 3.0], [2.0, 0.5]]).double()
    distance = bures(signs * scales[0] + 7, signs * scales[1])
    torch.testing.assert_close(distance, (scales[0] - scales[1]).square().sum(), rtol=1e-12, atol=0)


def test_bures_is_symmetric_and_blind_to_means():
    x, y = draw(7, 4), draw(5, 4, 1)
    torch.testing.assert_close(bures(x, y), bures(y + 100, x), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("rows", "others", "width"), [(5, 8, 40), (40, 43, 5), (4, 30, 9), (30, 4, 9), (6, 5, 6)])
def test_small_factors_give_the_nuclear_norm(rows, others, width):
    x, y = draw(rows, width), draw(others, width, 1)
    a, b = x - x.mean(0), y - y.mean(0)
    nuclear = torch.linalg.matrix_norm(a @ b.T, "nuc") / (rows * others) ** 0.5
    expected = a.square().sum() / rows + b.square().sum() / others - 2 * nuclear
    torch.testing.assert_close(bures(x, y), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("rows", "others", "width"), [(8, 12, 300), (1, 20, 300), (300, 200, 8), (10, 200, 40)])
def test_nothing_is_larger_than_the_inputs_need(rows, others, width):
    """min(n, D): below the width no D × D, above it no n × m."""
    (x,), (y,) = leaves((draw(rows, width),)), leaves((draw(others, width, 1),))
    largest = largest_tensor(lambda: gaussian_wasserstein(x, y).backward())
    assert largest <= max(rows, others) * width


@pytest.mark.parametrize("width", [2, 5, 20])
def test_several_pairs_at_once_are_each_for_itself(width):
    counts = torch.tensor([7, 1, 3, 4, 7]), torch.tensor([2, 9, 1, 4, 9])
    x, y = leaves((draw(5 * 7, width).view(5, 7, width), draw(5 * 9, width, 1).view(5, 9, width)))
    values = padded_gaussian_wasserstein(x, y, *counts)
    alone = torch.stack([gaussian_wasserstein(a[:n], b[:m]) for a, b, n, m in zip(x, y, *counts, strict=True)])
    torch.testing.assert_close(values, alone, rtol=1e-12, atol=0)
    scales = torch.arange(1.0, 6.0).double()
    together, expected = (gradients((scales * v).sum(), (x, y)) for v in (values, alone))
    for ours, theirs in zip(together, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert padded_gaussian_wasserstein(x, x, counts[0], counts[0]).abs().max() < 1e-30


def test_gradient_where_ranks_differ():
    """A direction that the other side lacks adds its own variance and nothing else."""
    x = torch.cat([draw(6, 2), torch.zeros(6, 1, dtype=torch.float64)], 1)
    (y,) = leaves((torch.cat([x[:, :2], draw(6, 1, 2)], 1),))
    value = bures(x, y)
    assert torch.isfinite(gradients(value, (y,))[0]).all()
    assert 0 < value < y[:, 2].var(correction=0) + 1e-12


def test_a_step_along_the_gradient_reaches_the_teacher():
    (x,), y = leaves((draw(6, 3),)), draw(9, 3, 1)
    for _ in range(300):
        (step,) = gradients(gaussian_wasserstein(x, y), (x,))
        with torch.no_grad():
            x -= step
    assert gaussian_wasserstein(x, y) < 1e-8


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ((torch.ones(3), torch.ones(3, 2)), {}, "`x` must be a non-empty 2-D tensor, got shape [3]."),
        ((torch.ones(3, 1), torch.ones(3, 2)), {}, "`x` and `y` must have the same width, got `x` [3, 1], `y` [3, 2]."),
        ((torch.ones(3, 1), torch.ones(3, 1)), {"covariance": "low"}, "`covariance` must be one of 'full', 'diagonal'"),
    ],
)
def test_errors(arguments, settings, sentence):
    with pytest.raises(ValueError, match=re.escape(f"`gaussian_wasserstein`: {sentence}")):
        gaussian_wasserstein(*arguments, **settings)

import re

import pytest
import torch
from _harness.losses import gradients, leaves, seeded

from congruence.geometry import bures, gaussian_wasserstein


def draw(rows, width, seed=0):
    return torch.randn(rows, width, generator=seeded(seed), dtype=torch.float64)


def test_bures_of_commuting_covariances_is_the_distance_of_deviations():
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    scales = torch.tensor([[1.0, 3.0], [2.0, 0.5]]).double()
    found = bures(signs * scales[0] + 7, signs * scales[1])
    torch.testing.assert_close(found, (scales[0] - scales[1]).square().sum(), rtol=1e-12, atol=0)


def test_bures_is_symmetric_and_blind_to_means():
    x, y = draw(7, 4), draw(5, 4, 1)
    torch.testing.assert_close(bures(x, y), bures(y + 100, x), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("rows", "width"), [(5, 40), (40, 5)])
def test_small_factors_give_the_nuclear_norm(rows, width):
    x, y = draw(rows, width), draw(rows + 3, width, 1)
    a, b = x - x.mean(0), y - y.mean(0)
    nuclear = torch.linalg.matrix_norm(a @ b.T, "nuc") / (rows * (rows + 3)) ** 0.5
    expected = a.square().sum() / rows + b.square().sum() / (rows + 3) - 2 * nuclear
    torch.testing.assert_close(bures(x, y), expected, rtol=1e-11, atol=0)


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

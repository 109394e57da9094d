import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded

from congruence.geometry import phi_s_transform
from congruence.geometry.phi_s import hadamard


def features(count, width, dtype=torch.float64):
    mixing = torch.randn(width, width, generator=seeded(1), dtype=torch.float64)
    spread = torch.logspace(-1, 1, width, dtype=torch.float64)
    rows = torch.randn(count, width, generator=seeded(2), dtype=torch.float64)
    return ((rows * spread) @ mixing + 3).to(dtype)


def slow_covariance(rows):
    rows = rows.tolist()
    count, width = len(rows), len(rows[0])
    mean = [math.fsum(row[i] for row in rows) / count for i in range(width)]
    products = [
        [math.fsum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (count - 1) for j in range(width)]
        for i in range(width)
    ]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(products, dtype=torch.float64)


def identity(width):
    return torch.eye(width, dtype=torch.float64)


def test_equals_the_golden():
    stored = golden.arrays("phi_s_A")
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        rows = stored["in_features"].to(dtype)
        mean, matrix = phi_s_transform(rows)
        assert mean.dtype == matrix.dtype == dtype
        torch.testing.assert_close(mean, stored["out_mean"].to(dtype), rtol=rtol, atol=rtol)
        torch.testing.assert_close(matrix @ matrix.T, stored["out_gram"].to(dtype), rtol=rtol, atol=rtol)
        made = (rows - mean) @ matrix.T
        torch.testing.assert_close(made.var(0), stored["out_variance"].to(dtype), rtol=rtol, atol=rtol)
        # The signs of the eigenvectors are free; the Gram of the outputs is not.
        expected = stored["out_standardized"].to(dtype)
        torch.testing.assert_close(made @ made.T, expected @ expected.T, rtol=rtol, atol=100 * rtol)
        torch.testing.assert_close(made.square().sum(), stored["loss"].to(dtype), rtol=rtol, atol=0)
    assert stored["out_scale"].isfinite()


@pytest.mark.parametrize("width", [1, 2, 4, 12, 20, 28])
def test_is_a_scaled_rotation_after_which_all_variances_are_1(width):
    rows = features(40, width)
    mean, matrix = phi_s_transform(rows)
    expected, covariance = slow_covariance(rows)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(matrix @ matrix.T, identity(width) * width / covariance.trace())
    _, after = slow_covariance((rows - mean) @ matrix.T)
    torch.testing.assert_close(after.diagonal(), torch.ones(width, dtype=torch.float64))


@pytest.mark.parametrize("width", [3, 6, 52])
def test_without_a_hadamard_matrix_the_variances_are_1_on_average(width):
    rows = features(60, width)
    mean, matrix = phi_s_transform(rows)
    assert hadamard(width) is None
    torch.testing.assert_close(matrix @ matrix.T, identity(width) * width / rows.var(0).sum())
    assert ((rows - mean) @ matrix.T).var(0).mean().item() == pytest.approx(1)
    state = torch.random.get_rng_state()
    assert torch.equal(matrix, phi_s_transform(rows)[1])
    assert torch.equal(state, torch.random.get_rng_state())


def test_hadamard_matrices_are_exact():
    # Sylvester, Paley's two constructions, and products of these, with 36 = 2 (17 + 1) and 144 = 12 · 12.
    for order in (1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 44, 48, 60, 76, 144, 192, 240, 384):
        matrix = hadamard(order)
        assert matrix is not None, order
        assert (matrix.abs() == 1).all()
        assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.int64)), order
    assert all(hadamard(order) is None for order in (0, 3, 6, 52, 92))


def test_directions_without_variance_do_no_harm():
    rows = features(5, 8)  # of rank 4
    mean, matrix = phi_s_transform(rows)
    torch.testing.assert_close(((rows - mean) @ matrix.T).var(0), torch.ones(8, dtype=torch.float64))
    for value in (0.0, 0.1, 1e30, 1e-41):
        equal = torch.full((7, 8), value)
        mean, matrix = phi_s_transform(equal)
        assert torch.equal(mean, equal[0])
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))
    for size in (1e-20, 1e15):
        wide = (size * rows).float()
        mean, matrix = phi_s_transform(wide)
        torch.testing.assert_close(((wide - mean) @ matrix.T).var(0), torch.ones(8), rtol=1e-3, atol=0)


def test_tokens_count_where_they_are_real():
    tokens = features(24, 4).reshape(6, 4, 4).requires_grad_()
    mask = torch.rand(6, 4, generator=seeded(3)) < 0.6
    mean, matrix = phi_s_transform(tokens.masked_fill(~mask[:, :, None], math.nan), mask=mask)
    expected = phi_s_transform(tokens[mask])
    assert torch.equal(mean, expected[0])
    assert torch.equal(matrix, expected[1])
    assert not matrix.requires_grad
    assert torch.equal(phi_s_transform(tokens)[0], phi_s_transform(tokens.flatten(0, 1))[0])


def test_half_precision_is_widened():
    rows = features(40, 4, torch.bfloat16)
    found, expected = phi_s_transform(rows), phi_s_transform(rows.float())
    assert found[0].dtype == found[1].dtype == torch.float32
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("arguments", "mask", "sentence"),
    [
        (torch.ones(3), None, "`features` must be a non-empty 2-D or 3-D tensor, got shape [3]."),
        (torch.ones(3, 2).long(), None, "`features` must be a floating-point tensor, got torch.int64."),
        (torch.ones(1, 2), None, "`features` must be two or more, got 1."),
        (torch.full((3, 2), math.nan), None, "`features` must be finite, got NaN or infinity in 3 of 3 rows"),
        (torch.ones(3, 2), torch.ones(3, 2) > 0, "`mask` must be None for features [n, D], got one for `features`"),
        (torch.ones(3, 2, 4), torch.ones(3, 2), "`mask` must be None or a boolean tensor of shape [3, 2], got"),
        (torch.ones(3, 2, 4), torch.zeros(3, 2) > 0, "`features` must be two or more, got 0."),
    ],
)
def test_errors_name_what_is_wrong(arguments, mask, sentence):
    with pytest.raises(ValueError) as caught:
        phi_s_transform(arguments, mask=mask)
    assert str(caught.value).startswith(f"`phi_s_transform`: {sentence}")

"""Spaces in the plane: principal components, t-SNE, and the rotation that aligns two of them."""

import math

import pytest
import torch

from congruence.report.flat import Layouts, aligned, neighbour_map, principal, written


def blobs(count=60, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return 8 * torch.eye(3, width)[labels] + torch.randn(count, width, generator=generator), labels


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_principal_components_are_those_of_the_covariance(shape):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()
    points, shares = principal(rows, columns=2)
    centred = rows - rows.mean(0)
    values = torch.linalg.svdvals(centred) ** 2
    assert torch.allclose(points.norm(dim=0) ** 2, values[:2])
    assert torch.allclose(torch.tensor(shares[:3], dtype=torch.float64), values[:3] / values.sum())
    assert sum(shares) == pytest.approx(1)
    assert abs(float(points[:, 0] @ points[:, 1])) < 1e-9


def test_of_wide_rows_the_first_samples_give_the_axes(monkeypatch):
    from congruence.report import flat

    monkeypatch.setattr(flat, "SAMPLES", 8)
    rows = torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).double()
    points, _ = flat.principal(rows)
    _, sizes, axes = torch.linalg.svd(rows[:8] - rows[:8].mean(0), full_matrices=False)
    assert torch.allclose(points.abs(), ((rows - rows[:8].mean(0)) @ axes[:2].T).abs())
    assert torch.allclose(points[:8].norm(dim=0), sizes[:2])


def test_components_that_are_not_there_are_zeros():
    points, shares = principal(torch.tensor([[1.0], [3.0]]))
    assert points.abs().tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert shares == [1.0]
    assert principal(torch.ones(3, 2))[1] == [0.0, 0.0]


def test_a_turned_and_scaled_space_is_aligned_and_another_is_not():
    points, _ = blobs(width=2)
    turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
    found, onto, left = aligned(5 * points @ turn.T - 3, points)
    assert torch.allclose(found, onto, atol=1e-5)
    assert left == pytest.approx(0, abs=1e-9)
    other = torch.randn(60, 2, generator=torch.Generator().manual_seed(9))
    assert aligned(other, points)[2] > 0.8
    assert aligned(torch.ones(4, 2), torch.ones(4, 2))[2] == 1.0  # nothing to align by


def test_neighbours_stay_neighbours_and_a_map_is_always_the_same():
    rows, labels = blobs()
    found = neighbour_map(rows)
    nearest = torch.cdist(found, found).fill_diagonal_(math.inf).argmin(1)
    assert (labels[nearest] == labels).all()
    assert torch.equal(found, neighbour_map(rows))
    assert neighbour_map(rows[:4]) is None
    assert neighbour_map(torch.ones(9, 3)) is None
    assert neighbour_map(1 + 1e-12 * torch.rand(9, 3).double()) is None  # equal in float32


def test_a_space_is_laid_out_once():
    layouts, (rows, _) = Layouts(), blobs()
    assert layouts.of(rows) is layouts.of(rows.clone())
    assert layouts.of(rows)["pca"].shape == (60, 2)
    assert layouts.of(rows) is not layouts.of(rows + 1)


def test_coordinates_are_whole_thousandths():
    assert written(torch.tensor([[0.5, -2.0], [0.0004, 2.0]]), 2.0) == [250, -1000, 0, 1000]
    assert written(torch.zeros(1, 2), 0.0) == [0, 0]

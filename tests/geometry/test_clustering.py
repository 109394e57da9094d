"""K-means: centres are means, points belong to the nearest, and bits come from the seed."""

import pytest
import torch

from congruence.geometry.clustering import CHECKS, kmeans

POINTS = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_fixed_point_of_lloyds_steps():
    centres, assignment = kmeans(POINTS, 7, seed=3)
    assert torch.equal(torch.cdist(POINTS, centres).argmin(1), assignment)
    means = torch.stack([POINTS[assignment == k].mean(0) for k in range(7)])
    torch.testing.assert_close(means, centres)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_blobs_are_found(dtype):
    blobs = torch.arange(4).repeat_interleave(25)
    points = (20.0 * torch.eye(4)[blobs] + POINTS[:100, :4].float()).to(dtype)
    centres, assignment = kmeans(points, 4, seed=0)
    assert centres.dtype == dtype
    assert assignment.dtype == torch.int64
    assert len({tuple(pair) for pair in torch.stack([blobs, assignment], 1).tolist()}) == 4


def test_the_seed_decides_and_the_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (kmeans(POINTS, 9, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(before, torch.get_rng_state())


def test_equal_points_and_as_many_clusters_as_points():
    assert kmeans(torch.ones(5, 2), 3, seed=0)[1].unique().numel() == 1
    assert sorted(kmeans(POINTS[:4], 4, seed=0)[1].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", CHECKS)
def test_every_invalid_value_is_refused(name):
    for value in CHECKS[name].invalid():
        with pytest.raises(ValueError, match=rf"`kmeans`: `{name}` must be "):
            kmeans(POINTS, **{"clusters": 2, name: value})


def test_misfits_are_one_sentence():
    with pytest.raises(ValueError, match=r"`clusters` must be at most the number of points \(4\), got 5"):
        kmeans(POINTS[:4], 5)
    with pytest.raises(ValueError, match="`points` must be finite"):
        kmeans(torch.full((3, 2), torch.nan), 2)

"""Points of the toys."""

import pytest
import torch

from congruence.data.datasets.toys import TOYS, toy


@pytest.mark.parametrize(
    ("name", "count", "dims", "groups"),
    [("two-moons", 700, 2, 2), ("clusters", 1000, 2, 5), ("ten-clusters", 1000, 2, 10), ("clusters3d", 1000, 3, 5)],
)
def test_sizes_and_scale(name: str, count: int, dims: int, groups: int) -> None:
    made = toy(name)
    assert (made.name, made.points.shape, made.points.dtype) == (name, (count, dims), torch.float32)
    assert made.labels.bincount().tolist() == [count // groups] * groups
    assert 0.4 < float(made.points.std(0).mean()) < 1.2
    assert float(made.points.mean(0).abs().max()) < 0.05


@pytest.mark.parametrize("name", TOYS)
def test_points_are_a_function_of_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = toy(name, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.points, toy(name, seed=3).points)
    assert not torch.equal(first.points, toy(name, seed=4).points)


@pytest.mark.parametrize("name", ["clusters", "clusters3d"])
def test_clusters_are_apart(name: str) -> None:
    made = toy(name)
    centres = torch.stack([made.points[made.labels == label].mean(0) for label in range(5)])
    nearest = torch.cdist(made.points, centres).argmin(1)
    assert float((nearest == made.labels).float().mean()) > 0.98


def test_an_unknown_toy_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"^`toy`: `name` must be one of 'two-moons', 'clusters', 'ten-clusters', 'clusters3d', got"
    ):
        toy("moons")
    with pytest.raises(ValueError, match=r"^`toy`: `seed` must be an integer >= 0, got -1"):
        toy("clusters", seed=-1)

import json
import statistics
from dataclasses import asdict

import pytest
import torch
from _harness.losses import seeded

from congruence.geometry import euclidean
from congruence.metrics import batch_coherence, estimate_perception_coherence, global_perception_coherence


def spaces(rows=40, noise=0.7):
    generator = seeded()
    teacher = torch.randn(rows, 6, generator=generator)
    return teacher[:, :3] + noise * torch.randn(rows, 3, generator=generator), teacher


def test_a_point_is_the_mean_and_spread_of_its_batches():
    """By the definition (4.1): rank within each batch, by a loop."""
    student, teacher = spaces(12)
    (point,) = batch_coherence(
        student, teacher, batch_sizes=[5], repeats=4, generator=seeded(), dissimilarity="euclidean"
    )
    draws, levels = seeded(), []
    for _ in range(4):
        rows = torch.randperm(12, generator=draws)[:5]
        ours, theirs = euclidean(student[rows]).tolist(), euclidean(teacher[rows]).tolist()
        gap = sum(
            abs(sum(d <= s[j] for d in s) - sum(d <= t[j] for d in t)) / 5
            for s, t in zip(ours, theirs, strict=True)
            for j in range(5)
        )
        levels.append(1 - gap / 25)
    assert (point.mean, point.spread) == pytest.approx((statistics.mean(levels), statistics.stdev(levels)), rel=1e-12)


def test_points_are_estimates_in_the_order_given():
    student, teacher = spaces()
    sizes, draws = (8, 3, 40), seeded(1)
    points = batch_coherence(
        student, teacher, batch_sizes=sizes, repeats=6, generator=seeded(1), teacher_dissimilarity="euclidean"
    )
    for size, point in zip(sizes, points, strict=True):
        estimate = estimate_perception_coherence(
            student, teacher, batch_size=size, repeats=6, generator=draws, teacher_dissimilarity="euclidean"
        )
        assert (point.batch_size, point.mean, point.spread) == (size, *estimate)
    assert points[2].spread == 0.0
    assert json.loads(json.dumps([asdict(point) for point in points])) == [asdict(point) for point in points]


def test_theorem_4_1_the_spread_falls_like_one_over_the_root_of_the_batch():
    """Fig. 6: four times the batch, half the spread; the bias falls faster, like 1/B; the whole error like 1/√B.

    300 batches give a standard deviation within 4 % (one sigma): the ratio of two is within 25 % at four sigmas.
    """
    student, teacher = spaces(3000)
    level = global_perception_coherence(student, teacher)
    sizes = (8, 32, 128)
    points = batch_coherence(student, teacher, batch_sizes=sizes, repeats=300, generator=seeded(2))
    errors = [((point.mean - level) ** 2 + point.spread**2) ** 0.5 for point in points]
    for before, after in ((0, 1), (1, 2)):
        assert 1.5 < points[before].spread / points[after].spread < 2.7
        bias = (points[before].mean - level) / (points[after].mean - level)
        assert bias > 2.5
        assert 1.5 < errors[before] / errors[after] < 4.5
    scaled = [error * size**0.5 for error, size in zip(errors, sizes, strict=True)]
    assert max(scaled) == scaled[0]  # one C serves all batch sizes: C/√B bounds the error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": torch.zeros(4)}, "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ({"batch_sizes": ()}, "`batch_sizes` must be one or more numbers, each an integer >= 1 and <= 4, got []."),
        (
            {"batch_sizes": (2, 5)},
            "`batch_sizes` must be one or more numbers, each an integer >= 1 and <= 4, got [2, 5].",
        ),
        ({"repeats": 0}, "`repeats` must be an integer >= 1, got 0."),
        ({"generator": 3}, "`generator` must be a torch.Generator, got int."),
        ({"dissimilarity": "l1"}, "`dissimilarity` must be one of 'cosine', 'euclidean' or a callable, got 'l1'."),
    ],
)
def test_errors(change, sentence):
    arguments = {"student": torch.zeros(4, 2), "teacher": torch.zeros(4, 2), "batch_sizes": (2,), "repeats": 1}
    with pytest.raises(ValueError) as error:
        batch_coherence(**{**arguments, "generator": seeded(), **change})
    assert str(error.value) == f"`batch_coherence`: {sentence}"

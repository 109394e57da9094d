import math
from itertools import combinations

import numpy as np
import pytest
import torch
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence import metrics
from congruence.metrics import estimate, gram_alignment, retrieval_map, subsets
from congruence.metrics.subsets import Estimate

SIZES = {"sample_size": 4, "repeats": 3}


def samples(rows=8):
    student, teacher = (torch.randn(rows, width, generator=seeded(width), dtype=torch.float64) for width in (2, 3))
    return student, teacher, torch.arange(rows) % 3


@pytest.fixture
def every_subset(monkeypatch):
    """Take each set of rows once, so that the mean is the expectation over draws."""

    def every(function, samples, argument, size, repeats, generator):
        return (torch.tensor(rows) for rows in combinations(range(len(samples)), size))

    monkeypatch.setattr(subsets, "subsets", every)


def test_it_is_the_mean_and_spread_of_the_same_rows_of_all():
    seen = []

    def metric(a, b, *, offset):
        seen.append(a.tolist())
        assert torch.equal(b[:, 0], 2 * a)
        return float(a.sum()) + offset

    rows = torch.arange(10)
    both = rows, torch.stack([2 * rows, rows], 1)
    estimated = estimate(metric, *both, sample_size=3, repeats=6, generator=seeded(), offset=0.5)
    assert all(drawn == sorted(set(drawn)) and len(drawn) == 3 for drawn in seen)
    assert len({tuple(drawn) for drawn in seen}) > 1
    values = torch.tensor([sum(drawn) + 0.5 for drawn in seen], dtype=torch.float64)
    assert isinstance(estimated, Estimate)
    assert estimated.mean == pytest.approx(values.mean().item(), rel=1e-14)
    assert estimated.spread == pytest.approx(values.std().item(), rel=1e-14)
    again = estimate(metric, *both, sample_size=3, repeats=6, generator=seeded(), offset=0.5)
    assert again == estimated


def test_all_samples_give_the_metric_itself():
    student, teacher, _ = samples()
    for metric in (metrics.linear_cka, metrics.kernel_transfer_error, metrics.global_perception_coherence):
        estimated = estimate(metric, student, teacher, sample_size=8, repeats=2, generator=seeded())
        assert estimated == Estimate(mean=metric(student, teacher), spread=0.0)


@pytest.mark.parametrize("interpolation", ["11pt", "none"])
def test_queries_of_a_whole_database_are_unbiased(interpolation, every_subset):
    student, _, labels = samples()
    options = {"database": student + 0.3, "database_labels": labels.flip(0), "interpolation": interpolation}
    estimated = estimate(retrieval_map, student, labels, **SIZES, generator=seeded(), **options)
    assert estimated.spread > 0
    assert estimated.mean == pytest.approx(retrieval_map(student, labels, **options), rel=1e-13)


def test_gram_alignment_is_off_by_the_diagonal_as_said(every_subset):
    student, teacher, _ = samples()
    gaps = (student @ student.T - teacher @ teacher.T).square()
    diagonal, beside = gaps.diag().mean(), (gaps.sum() - gaps.diag().sum()) / (8 * 7)
    estimated = estimate(gram_alignment, student, teacher, **SIZES, generator=seeded())
    expected = gram_alignment(student, teacher) + (1 / 4 - 1 / 8) * (diagonal - beside).item()
    assert estimated.mean == pytest.approx(expected, rel=1e-12)


def test_small_subsets_are_more_coherent_and_have_fewer_neighbours_to_confuse():
    student, teacher = (torch.randn(600, 4, generator=seeded(n)) for n in (0, 1))
    draws = {"repeats": 8, "generator": seeded(2)}
    level = estimate(metrics.global_perception_coherence, student, teacher, sample_size=5, **draws)
    assert level.mean > metrics.global_perception_coherence(student, teacher) + 0.05
    overlap = estimate(metrics.neighbour_overlap, student, teacher, sample_size=60, k=6, **draws)
    assert overlap.mean == pytest.approx(6 / 59, abs=0.03)  # chance
    assert metrics.neighbour_overlap(student, teacher, k=6) < 0.03


def test_a_million_memory_mapped_samples_are_never_copied(tmp_path):
    rows, width, size = 1_000_000, 8, 2000
    file = np.memmap(tmp_path / "teacher", np.float16, "w+", shape=(rows, width))
    file[:] = np.random.default_rng(0).standard_normal((rows, width), np.float32)
    teacher = torch.from_numpy(file)
    student = teacher[:, :6]
    labels = torch.arange(rows, dtype=torch.int32) % 10
    draws = {"sample_size": size, "repeats": 2, "generator": seeded()}
    whole = {"database": student[:1000], "database_labels": labels[:1000]}
    for call in (
        lambda: estimate(metrics.kernel_transfer_error, student, teacher, **draws),
        lambda: estimate(metrics.linear_cka, student, teacher, **draws),
        lambda: estimate(metrics.gram_alignment, student, teacher, **draws),
        lambda: estimate(metrics.agreement, student, teacher[:, 2:], **draws),
        lambda: estimate(metrics.precision_at_k, student, labels, k=5, **whole, **{**draws, "sample_size": 50}),
    ):
        assert peak_bytes(call) < 1.25 * 8 * rows < 2 * rows * width  # the draw; a copy would be more
    for metric in (metrics.kernel_transfer_error, metrics.linear_cka):
        exact = metric(student, teacher)  # streamed: these two need no estimate
        estimated = estimate(metric, student, teacher, **draws)
        assert estimated.mean == pytest.approx(exact, rel=0.02)
        assert peak_bytes(lambda f=metric: f(student, teacher)) < 2 * rows * width * 8 / 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"metric": "gpcl"}, "`metric` must be a function of tensors, got str."),
        ({"metric": lambda a, b: [0.5]}, "`metric` must be a function that returns one number, got list."),
        ({"tensors": ()}, "`tensors` must be one or more, got none."),
        ({"tensors": (torch.ones(8), [1])}, "`tensors[1]` must be a tensor, got list."),
        ({"tensors": (torch.tensor(1.0),)}, "`tensors[0]` must be a tensor with rows, got shape []."),
        ({"tensors": (torch.ones(8), torch.ones(7))}, "got `tensors[0]` [8], `tensors[1]` [7]."),
        ({"sample_size": 9}, "`sample_size` must be an integer >= 1 and <= 8, got 9."),
        ({"repeats": 0}, "`repeats` must be an integer >= 1, got 0."),
        ({"generator": 7}, "`generator` must be a torch.Generator, got int."),
    ],
)
def test_errors(change, sentence):
    arguments = {"metric": lambda a, b: math.pi, "tensors": samples()[:2], **SIZES, "generator": seeded(), **change}
    with pytest.raises(ValueError) as error:
        estimate(arguments.pop("metric"), *arguments.pop("tensors"), **arguments)
    assert str(error.value).startswith("`estimate`: ")
    assert str(error.value).endswith(sentence)

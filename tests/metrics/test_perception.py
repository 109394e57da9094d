import pytest
import torch
from _harness import golden
from _harness.losses import seeded, tight_clusters
from _harness.memory import largest_array, largest_tensor

from congruence.geometry import cosine, euclidean
from congruence.metrics import (
    estimate_perception_coherence,
    global_perception_coherence,
    order,
    perception_coherence,
)

MEASURES = {"cosine": cosine, "euclidean": euclidean}


def spaces(rows=40, dtype=torch.float64):
    generator = seeded()
    teacher = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    student = teacher[:, :3] + 0.5 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def slow(student, teacher, measure):
    levels = []
    ranks = [(d[:, None, :] <= d[:, :, None]).double().mean(2) for d in (measure(student), measure(teacher))]
    for ours, theirs in zip(*ranks, strict=True):
        levels.append(1 - (ours - theirs).abs().mean())
    return torch.stack(levels)


@pytest.mark.parametrize(("name", "key"), [("cosine", "cos"), ("euclidean", "euclid")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 50, 1000])
def test_equals_the_goldens(name, key, dtype, chunk_size):
    stored = golden.arrays("gpcl_N50")
    student, teacher = stored["in_student"].to(dtype), stored["in_teacher"].to(dtype)
    settings = {"dissimilarity": name, "chunk_size": chunk_size}
    level = global_perception_coherence(student, teacher, **settings)
    assert level == pytest.approx(stored[f"gpcl_{key}"].item(), rel=1e-14)
    samples = perception_coherence(student, teacher, **settings)
    torch.testing.assert_close(samples, stored[f"gpcl_{key}_per_anchor"], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_equals_a_slow_loop(name):
    student, teacher = spaces()
    coherence = perception_coherence(student, teacher, dissimilarity=name)
    torch.testing.assert_close(coherence, slow(student, teacher, MEASURES[name]), rtol=1e-13, atol=0)
    mean = global_perception_coherence(student, teacher, dissimilarity=name)
    assert mean == pytest.approx(coherence.mean().item(), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_space_is_coherent_with_itself_scaled_or_turned(dtype):
    _, teacher = spaces(dtype=dtype)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seeded(1), dtype=torch.float64)).Q
    for name in MEASURES:
        assert global_perception_coherence(teacher, teacher, dissimilarity=name) == 1.0
        assert global_perception_coherence(2 * teacher, teacher, dissimilarity=name) == 1.0
        if dtype == torch.float64:
            turned = 3 * teacher @ turn
            assert global_perception_coherence(turned, teacher, dissimilarity=name) == 1.0


def test_scaling_rows_leaves_cosine_ranks():
    student, teacher = spaces()
    scales = torch.rand(40, 1, generator=seeded(2), dtype=torch.float64) + 0.1
    level = global_perception_coherence(student, teacher)
    assert global_perception_coherence(scales * student, teacher) == level
    assert global_perception_coherence(scales * student, student) == 1.0


@pytest.mark.parametrize("name", MEASURES)
def test_order_of_the_dataset_does_not_matter(name):
    student, teacher = spaces()
    order = torch.randperm(40, generator=seeded(3))
    level = global_perception_coherence(student, teacher, dissimilarity=name)
    assert global_perception_coherence(student[order], teacher[order], dissimilarity=name) == level
    moved = perception_coherence(student[order], teacher[order], dissimilarity=name)
    assert torch.equal(moved, perception_coherence(student, teacher, dissimilarity=name)[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_distances_have_equal_ranks(dtype):
    # The corners of a square: two neighbours at one distance. Stretched by rounding alone it stays coherent.
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]], dtype=dtype)
    nearly = square * torch.tensor([1.0, 1 + 4 * torch.finfo(dtype).eps], dtype=dtype)
    assert global_perception_coherence(nearly, square, dissimilarity="euclidean") == 1.0
    # Ranks of an equal pair are those of its last: 1 3 3 4 against 1 2 3 4 (or 1 3 2 4) for a real stretch.
    apart = square * torch.tensor([1.0, 1.001], dtype=dtype)
    level = global_perception_coherence(apart, square, dissimilarity="euclidean")
    assert level == 1 - 4 * 1 / 64


@pytest.mark.parametrize("name", MEASURES)
def test_copies_of_a_sample_rank_alike(name):
    student, teacher = (torch.cat([x, x, x]) for x in spaces(20, torch.float32))
    coherence = perception_coherence(student, teacher, dissimilarity=name)
    once = perception_coherence(student[:20], teacher[:20], dissimilarity=name)
    torch.testing.assert_close(coherence, once.repeat(3), rtol=1e-14, atol=0)


def test_float32_ranks_tight_clusters_as_float64_does():
    student, teacher = tight_clusters(32, 8, 16)
    exact = global_perception_coherence(student, teacher, dissimilarity="euclidean")
    coherence = global_perception_coherence(student.float(), teacher.float(), dissimilarity="euclidean")
    assert coherence == pytest.approx(exact, abs=2e-3)


def test_callables_and_a_measure_for_each_side():
    student, teacher = spaces()
    expected = perception_coherence(student, teacher, dissimilarity="euclidean", teacher_dissimilarity="cosine")
    own = perception_coherence(student, teacher, dissimilarity=euclidean, teacher_dissimilarity=cosine, chunk_size=9)
    assert torch.equal(own, expected)
    assert not torch.equal(own, perception_coherence(student, teacher))


def test_estimate_over_the_whole_set_is_the_level():
    student, teacher = spaces()
    settings = {"batch_size": 40, "repeats": 3, "generator": seeded()}
    mean, spread = estimate_perception_coherence(student, teacher, **settings)
    assert (mean, spread) == (pytest.approx(global_perception_coherence(student, teacher), rel=1e-14), 0.0)


def test_estimate_is_biased_upwards_and_narrows():
    student, teacher = spaces(200)
    level = global_perception_coherence(student, teacher)
    estimates = [
        estimate_perception_coherence(student, teacher, batch_size=size, repeats=200, generator=seeded())
        for size in (4, 16, 64)
    ]
    means, spreads = zip(*estimates, strict=True)
    assert means[0] > means[1] > means[2] > level
    assert spreads[0] > spreads[1] > spreads[2] > 0


def test_estimate_draws_from_its_generator_alone():
    student, teacher = spaces()
    before = torch.get_rng_state()
    settings = {"batch_size": 5, "repeats": 4}
    first, again, other = (
        estimate_perception_coherence(student, teacher, **settings, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())
    assert estimate_perception_coherence(student, teacher, batch_size=5, repeats=1, generator=seeded())[1] == 0.0


@pytest.mark.parametrize("function", [global_perception_coherence, perception_coherence])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": torch.zeros(3, 2)}, "the same number of rows, got `student` [3, 2], `teacher` [4, 2]."),
        ({"student": torch.zeros(4)}, "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ({"dissimilarity": "l1"}, "`dissimilarity` must be one of 'cosine', 'euclidean' or a callable, got 'l1'."),
        ({"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
        ({"dissimilarity": lambda x: x}, "maps [4, D] to [4, 4], got shape [4, 2]."),
    ],
)
def test_errors(function, change, sentence):
    with pytest.raises(ValueError) as error:
        function(**{"student": torch.zeros(4, 2), "teacher": torch.zeros(4, 2), **change})
    assert str(error.value).startswith(f"`{function.__name__}`: ")
    assert str(error.value).endswith(sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 5}, "`batch_size` must be an integer >= 1 and <= 4, got 5."),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1 and <= 4, got 0."),
        ({"repeats": 0}, "`repeats` must be an integer >= 1, got 0."),
        ({"generator": 3}, "`generator` must be a torch.Generator, got int."),
    ],
)
def test_estimate_errors(change, sentence):
    settings = {"batch_size": 2, "repeats": 1, "generator": seeded(), **change}
    with pytest.raises(ValueError) as error:
        estimate_perception_coherence(torch.zeros(4, 2), torch.zeros(4, 2), **settings)
    assert str(error.value) == f"`estimate_perception_coherence`: {sentence}"


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_is_linear_in_the_chunk(name, dtype, monkeypatch):
    student, teacher = spaces(600, dtype)
    seen = []
    monkeypatch.setattr(order, "_closed_ranks", largest_array(order._closed_ranks, seen))

    def call():
        global_perception_coherence(student, teacher, dissimilarity=name, chunk_size=5)

    assert largest_tensor(call) <= 6 * 600
    assert len(seen) == 2 * 120
    assert max(seen) == 5 * 600

import json
from dataclasses import asdict

import pytest
import torch
from _harness.losses import seeded

from congruence.geometry import cosine, euclidean
from congruence.metrics import order_preservation, perception_coherence, rank_preservation
from congruence.metrics.ranks import anchor_ranks

FUNCTIONS = (rank_preservation, order_preservation)


def spaces(rows=24, noise=0.5, seed=0):
    generator = seeded(seed)
    teacher = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return teacher[:, :2] + noise * torch.randn(rows, 2, generator=generator, dtype=torch.float64), teacher


def slow(student, teacher, anchors, measure, teacher_gap, student_gap):
    """Both conditional probabilities and P(A) by a loop over triples: {kind: (probability, P(A))}."""
    rows = len(student)
    seen = {"rank": [0, 0], "order": [0, 0]}
    ours, theirs = (
        [[int((d[i] <= d[i, j]).sum()) for j in range(rows)] for i in anchors]
        for d in (measure(student), measure(teacher))
    )
    for s, t in zip(ours, theirs, strict=True):
        for j in range(rows):
            for k in range(rows):
                if abs(t[k] - t[j]) / rows <= teacher_gap:
                    seen["rank"][0] += 1
                    seen["rank"][1] += abs(s[k] - s[j]) / rows >= student_gap
                if t[k] <= t[j]:
                    seen["order"][0] += 1
                    seen["order"][1] += (s[k] - s[j]) / rows >= student_gap
    return {kind: (held / met, met / (len(anchors) * rows**2)) for kind, (met, held) in seen.items()}


@pytest.mark.parametrize("measure", [cosine, euclidean])
@pytest.mark.parametrize("anchors", [[3], [5, 0, 5], list(range(24))])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_all_pairs_equal_a_slow_loop(measure, anchors, chunk_size):
    student, teacher = spaces()
    expected = slow(student, teacher, anchors, measure, 0.1, 0.25)
    chosen = None if len(anchors) == 24 else torch.tensor(anchors)
    settings = {"student_gap": 0.25, "dissimilarity": measure.__name__, "chunk_size": chunk_size}
    by_kind = {
        "rank": (rank_preservation(student, teacher, chosen, teacher_gap=0.1, **settings), 0.15),
        "order": (order_preservation(student, teacher, chosen, **settings), 0.25),
    }
    level = perception_coherence(student, teacher, dissimilarity=measure.__name__)[anchors].mean().item()
    for kind, (result, margin) in by_kind.items():
        probability, condition = expected[kind]
        assert (result.probability, result.condition) == (pytest.approx(probability), pytest.approx(condition))
        assert result.level == pytest.approx(level, rel=1e-13)
        assert result.constant == pytest.approx(4 / condition)
        assert result.bound == pytest.approx(4 / condition * (1 - level) / margin)
        assert result.pairs == len(anchors) * 24**2
        assert result.probability > 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_callable_is_the_measure_it_computes(function):
    student, teacher = spaces()
    named = function(student, teacher, dissimilarity="euclidean", teacher_dissimilarity="cosine")
    assert function(student, teacher, dissimilarity=euclidean, teacher_dissimilarity=cosine) == named
    assert function(student, teacher, dissimilarity="euclidean") != named


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 50.0])
@pytest.mark.parametrize("pairings", [None, 1, 3])
def test_theorems_4_2_to_4_4_hold_for_the_estimate_itself(function, noise, pairings):
    for seed in range(4):
        student, teacher = spaces(noise=noise, seed=seed)
        student[:6] = student[6:12]  # ties, which assumption 4.2 excludes
        for anchors in (torch.tensor([seed]), None):
            preserved = function(student, teacher, anchors, pairings=pairings, generator=seeded(seed))
            assert preserved.probability is None or preserved.probability <= preserved.bound


def test_the_bound_says_something_where_few_samples_are_far_off():
    teacher = torch.arange(200.0)[:, None]
    student = teacher.clone()
    student[190:] = -torch.arange(10.0)[:, None] / 10 - 0.01  # the ten farthest from sample 0 become its neighbours
    preserved = order_preservation(student, teacher, torch.tensor([0]), student_gap=0.8, dissimilarity="euclidean")
    assert 0 < preserved.probability < preserved.bound < 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_coherent_student_never_errs(function):
    """Corollary 4.1: at coherence 1 both sides are 0, for any gap."""
    _, teacher = spaces()
    preserved = function(3 * teacher, teacher, student_gap=0.06)
    assert (preserved.level, preserved.probability, preserved.bound) == (1.0, 0.0, 0.0)
    assert json.loads(json.dumps(asdict(preserved))) == asdict(preserved)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_drawn_pairs_estimate_all_pairs(function):
    student, teacher = spaces(100)
    whole = function(student, teacher)
    drawn = function(student, teacher, pairings=20, generator=seeded(1))
    assert drawn.pairs == 20 * 100 * 100
    assert drawn.probability == pytest.approx(whole.probability, rel=0.1)
    assert drawn.condition == pytest.approx(whole.condition, rel=0.1)
    assert drawn.level == whole.level
    assert drawn != function(student, teacher, pairings=20, generator=seeded(2))
    assert drawn == function(student, teacher, pairings=20, generator=seeded(1), chunk_size=7)


def test_a_condition_that_no_drawn_pair_meets_has_no_probability():
    student, teacher = spaces(4)
    settings = {"teacher_gap": 0.1, "dissimilarity": "euclidean", "pairings": 1}
    results = [
        rank_preservation(student, teacher, torch.tensor([0]), **settings, generator=seeded(seed)) for seed in range(20)
    ]
    empty = [preserved for preserved in results if preserved.probability is None]
    assert empty
    assert all((preserved.condition, preserved.constant, preserved.bound) == (0.0, None, None) for preserved in empty)
    assert json.loads(json.dumps(asdict(empty[0]))) == asdict(empty[0])


def test_one_sample_ranks_itself_alone():
    preserved = rank_preservation(torch.ones(1, 2), torch.ones(1, 3))
    assert (preserved.level, preserved.condition, preserved.probability, preserved.pairs) == (1.0, 1.0, 0.0, 1)


def test_no_block_is_larger_than_the_chunk(monkeypatch):
    from congruence.metrics import preservation

    sizes = []

    def watched(*arguments):
        for block in anchor_ranks(*arguments):
            sizes.append(len(block))
            yield block

    monkeypatch.setattr(preservation, "anchor_ranks", watched)
    rank_preservation(*spaces(), chunk_size=5, pairings=1, generator=seeded())
    assert sorted(sizes) == [4] * 2 + [5] * 8


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": torch.zeros(3, 2)}, "the same number of rows, got `student` [3, 2], `teacher` [4, 2]."),
        ({"anchors": torch.tensor([4])}, "a non-empty 1-D integer tensor of rows in [0, 4), got 4."),
        ({"student_gap": 0}, "`student_gap` must be a number > 0, got 0."),
        ({"dissimilarity": "l1"}, "`dissimilarity` must be one of 'cosine', 'euclidean' or a callable, got 'l1'."),
        ({"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
        ({"pairings": 0}, "`pairings` must be an integer >= 1 or None, got 0."),
        ({"pairings": 2}, "`generator` must be a torch.Generator where `pairings` are drawn, got NoneType."),
    ],
)
def test_errors(function, change, sentence):
    with pytest.raises(ValueError) as error:
        function(**{"student": torch.zeros(4, 2), "teacher": torch.zeros(4, 2), **change})
    assert str(error.value).startswith(f"`{function.__name__}`: ")
    assert str(error.value).endswith(sentence)


def test_gaps_that_do_not_fit():
    with pytest.raises(ValueError) as error:
        rank_preservation(*spaces(), teacher_gap=0.2, student_gap=0.2)
    sentence = "`rank_preservation`: `student_gap` must be larger than `teacher_gap` (0.2), got 0.2."
    assert str(error.value) == sentence

import json
from dataclasses import asdict

import pytest
import torch
from _harness.losses import seeded

from congruence.geometry import cosine, euclidean
from congruence.metrics import perception_coherence, perception_stability
from congruence.metrics.ranks import anchor_ranks


def spaces(rows=30, noise=0.3, seed=0):
    generator = seeded(seed)
    teacher = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return teacher[:, :2] + noise * torch.randn(rows, 2, generator=generator, dtype=torch.float64), teacher


def shares(distances):
    """F as nested lists, in exact multiples of 1/N."""
    return [[sum(d <= row[j] for d in row) for j in range(len(row))] for row in distances.tolist()]


def slow(student, teacher, region, measure, radius, drop):
    ours, theirs = shares(measure(student)), shares(measure(teacher))
    count = len(ours)
    gaps = [[abs(a - b) for a, b in zip(s, t, strict=True)] for s, t in zip(ours, theirs, strict=True)]
    worst = max(sum(gaps[a]) for a in region)
    near = {}
    for x in range(count):
        reached = [(max(ours[a][x], theirs[a][x]), position) for position, a in enumerate(region)]
        value, position = min(reached)
        if x in region:
            near[x] = x
        elif value / count <= radius:
            near[x] = region[position]
    constant = max(max(gaps[x][j] - gaps[a][j] for j in range(count)) for x, a in near.items())
    dropped = sum((sum(gaps[x]) - worst) / count**2 >= drop for x in near)
    return 1 - worst / count**2, len(near) / count, dropped / len(near), max(constant, 0) / count


@pytest.mark.parametrize("measure", [cosine, euclidean])
@pytest.mark.parametrize("region", [[4], [7, 2, 19, 2], list(range(30))])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_equals_a_slow_loop(measure, region, chunk_size):
    student, teacher = spaces()
    for radius, drop in ((0.2, 0.02), (1.0, 0.01), (0.01, 0.1)):
        result = perception_stability(
            student,
            teacher,
            torch.tensor(region),
            radius=radius,
            drop=drop,
            dissimilarity=measure.__name__,
            chunk_size=chunk_size,
        )
        level, share, probability, constant = slow(student, teacher, region, measure, radius, drop)
        assert (result.level, result.share, result.probability) == pytest.approx((level, share, probability), rel=1e-13)
        assert result.constant == pytest.approx(constant, rel=1e-13)
        assert result.bound == pytest.approx(constant / (drop * share), rel=1e-13)


def test_the_level_is_the_smallest_coherence_of_the_region():
    student, teacher = spaces()
    region = torch.tensor([3, 8, 11])
    result = perception_stability(student, teacher, region)
    assert result.level == pytest.approx(perception_coherence(student, teacher)[region].min().item(), rel=1e-13)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3, 5.0])
@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_theorem_4_5_holds(noise, measure):
    for seed in range(6):
        student, teacher = spaces(noise=noise, seed=seed)
        coherence = perception_coherence(student, teacher, dissimilarity=measure)
        for region in (coherence.topk(3).indices, torch.tensor([seed])):
            for drop in (0.001, 0.02, 0.2):
                settings = {"radius": 0.3, "drop": drop, "dissimilarity": measure}
                result = perception_stability(student, teacher, region, **settings)
                assert result.probability <= result.bound
                assert result.probability <= result.constant / drop  # the bound without P(A_δ)


def test_some_drop_near_the_most_coherent_sample():
    student, teacher = spaces(noise=0.5)
    best = perception_coherence(student, teacher).argmax()[None]
    result = perception_stability(student, teacher, best, radius=0.5, drop=0.01)
    assert 0 < result.probability < 1


def test_a_smaller_neighbourhood_has_a_smaller_constant():
    """Neighbours on a curve see alike: C_δ falls with δ where points are dense."""
    turns = torch.linspace(0, 6.2, 600, dtype=torch.float64)[:, None]
    teacher = torch.cat([turns.cos(), turns.sin()], 1)
    student = teacher * torch.tensor([1.0, 0.8], dtype=torch.float64)
    constants = [
        perception_stability(student, teacher, torch.tensor([100]), radius=r, dissimilarity="euclidean").constant
        for r in (0.004, 0.04, 0.4)
    ]
    assert 0 < 4 * constants[0] < constants[1] < constants[2]


def test_a_coherent_student_is_stable():
    _, teacher = spaces()
    result = perception_stability(2 * teacher, teacher, torch.tensor([0, 3]), radius=1.0)
    assert asdict(result) == {"level": 1.0, "share": 1.0, "probability": 0.0, "constant": 0.0, "bound": 0.0}
    assert json.loads(json.dumps(asdict(result))) == asdict(result)


def test_no_block_is_larger_than_the_chunk(monkeypatch):
    from congruence.metrics import stability

    sizes = []

    def watched(*arguments):
        for block in anchor_ranks(*arguments):
            sizes.append(len(block))
            yield block

    monkeypatch.setattr(stability, "anchor_ranks", watched)
    perception_stability(*spaces(), torch.arange(9), radius=1.0, chunk_size=7)
    assert sorted(sizes) == sorted(2 * [7, 2] + 4 * [7, 7, 7, 7, 2])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teacher": torch.zeros(3, 2)}, "the same number of rows, got `student` [4, 2], `teacher` [3, 2]."),
        ({"region": torch.tensor([4])}, "`region` must be a non-empty 1-D integer tensor of rows in [0, 4), got 4."),
        ({"radius": 0.0}, "`radius` must be a number > 0 and <= 1, got 0.0."),
        ({"drop": 0.0}, "`drop` must be a number > 0, got 0.0."),
        ({"dissimilarity": "l1"}, "`dissimilarity` must be one of 'cosine', 'euclidean' or a callable, got 'l1'."),
        ({"chunk_size": 0}, "`chunk_size` must be an integer >= 1 or None, got 0."),
    ],
)
def test_errors(change, sentence):
    arguments = {"student": torch.zeros(4, 2), "teacher": torch.zeros(4, 2), "region": torch.tensor([0])}
    with pytest.raises(ValueError) as error:
        perception_stability(**{**arguments, **change})
    assert str(error.value).startswith("`perception_stability`: ")
    assert str(error.value).endswith(sentence)

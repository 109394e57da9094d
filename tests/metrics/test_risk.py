import json
import math
from dataclasses import asdict

import pytest
import torch
from _harness.losses import seeded

from congruence.losses import mimic_loss, wasserstein_loss
from congruence.metrics import feature_distance, risk_gap


def setup(rows=40, width=5, classes=4, seed=0, spread=0.5):
    generator = seeded(seed)
    teacher = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    student = teacher + spread * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (rows,), generator=generator), weight, bias


def slow_risk(features, labels, weight, bias):
    total = 0.0
    for row, label in zip(features, labels.tolist(), strict=True):
        logits = [float(w @ row + b) for w, b in zip(weight, bias, strict=True)]
        total += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    return total / len(features)


def test_both_sides_are_their_definitions():
    student, teacher, labels, weight, bias = setup()
    for shift in (bias, None):
        comparison = risk_gap(student, teacher, labels, weight, shift)
        zeros = torch.zeros(4) if shift is None else shift
        risks = [slow_risk(rows, labels, weight, zeros) for rows in (student, teacher)]
        assert [comparison.student_risk, comparison.teacher_risk] == pytest.approx(risks, rel=1e-12)
        assert comparison.gap == pytest.approx(abs(risks[0] - risks[1]), rel=1e-10)
        squares = [float((s - t) @ (s - t)) for s, t in zip(student, teacher, strict=True)]
        assert comparison.distance == pytest.approx(math.sqrt(sum(squares) / 40), rel=1e-12)
        apart = max(math.dist(a, b) for a in weight.tolist() for b in weight.tolist())
        assert comparison.lipschitz == pytest.approx(apart, rel=1e-12)
        assert comparison.bound == comparison.lipschitz * comparison.distance


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 10.0])
def test_theorem_1_holds(spread):
    for seed in range(10):
        comparison = risk_gap(*setup(seed=seed, spread=spread))
        assert 0 < comparison.gap <= comparison.bound


def test_the_constant_is_needed_and_no_smaller_one_will_do():
    """A binary classifier that is sure and wrong: the loss moves by ‖w_0 − w_1‖ for each unit of the features."""
    weight = torch.tensor([[30.0, 0.0], [-30.0, 0.0]])
    teacher = torch.tensor([[-2.0, 0.0], [-3.0, 0.0]])
    comparison = risk_gap(teacher - torch.tensor([1.0, 0.0]), teacher, torch.tensor([0, 0]), weight)
    assert comparison.distance == pytest.approx(1.0, rel=1e-12)  # a vector library rounds its root of 2 down
    assert comparison.gap > 50 * comparison.distance  # eq. 9 as printed has the constant 1
    assert comparison.gap == pytest.approx(comparison.bound, rel=1e-12)


def test_the_distance_is_the_root_of_mimic_and_never_below_w2():
    for seed in range(5):
        student, teacher, *_ = setup(seed=seed, spread=2.0)
        distance = feature_distance(student, teacher)
        assert distance == pytest.approx(mimic_loss(student, teacher).sqrt().item(), rel=1e-12)
        assert wasserstein_loss(student, teacher).sqrt().item() <= distance * (1 + 1e-12)
    shuffled = teacher.roll(1, 0)
    assert wasserstein_loss(shuffled, teacher).item() < 1e-12 < feature_distance(shuffled, teacher)


def test_a_copy_has_no_gap():
    _, teacher, labels, weight, bias = setup()
    comparison = risk_gap(teacher, teacher, labels, weight, bias)
    assert (comparison.gap, comparison.distance, comparison.bound) == (0.0, 0.0, 0.0)
    assert json.loads(json.dumps(asdict(comparison))) == asdict(comparison)


def test_far_features_do_not_overflow():
    far = torch.full((2, 2), 1e200, dtype=torch.float64)
    assert feature_distance(far, -far) == pytest.approx(2e200 * math.sqrt(2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({0: torch.ones(3, 3)}, "the same shape, got `student` [3, 3], `teacher` [3, 2]."),
        ({2: torch.tensor([0, 1])}, "the same number of rows, got `student` [3, 2], `labels` [2]."),
        ({2: torch.tensor([0, 1, 4])}, "`labels` must be class labels in [0, 4), got 4."),
        ({3: torch.ones(4, 3)}, "the same width, got `student` [3, 2], `weight` [4, 3]."),
        ({3: torch.ones(4)}, "`weight` must be a non-empty 2-D tensor, got shape [4]."),
        ({4: torch.ones(3)}, "the same number of rows, got `weight` [4, 2], `bias` [3]."),
    ],
)
def test_errors(change, sentence):
    arguments = [torch.ones(3, 2), torch.ones(3, 2), torch.tensor([0, 1, 2]), torch.ones(4, 2), torch.ones(4)]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(ValueError) as error:
        risk_gap(*arguments)
    assert str(error.value).startswith("`risk_gap`: ")
    assert str(error.value).endswith(sentence)


def test_distance_errors():
    with pytest.raises(ValueError, match=r"`feature_distance`: .* must have the same shape"):
        feature_distance(torch.ones(2, 2), torch.ones(3, 2))

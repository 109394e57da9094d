import math

import pytest
import torch
from _harness.losses import seeded

from congruence.metrics import accuracy, agreement, expected_calibration_error


def test_equals_topk_where_nothing_ties():
    logits = torch.randn(200, 10, generator=seeded())
    labels = torch.randint(0, 10, (200,), generator=seeded(1))
    for k, fraction in zip((1, 3, 5), accuracy(logits, labels, topk=(1, 3, 5)), strict=True):
        expected = (logits.topk(k).indices == labels[:, None]).any(1).double().mean().item()
        assert fraction == expected


def test_default_is_top_1_and_top_5_as_fractions():
    assert accuracy(torch.eye(6), torch.tensor([0, 1, 2, 3, 0, 0])) == (4 / 6, 1.0)


def test_of_equal_logits_the_lower_class_is_larger():
    logits = torch.zeros(3, 3)
    assert accuracy(logits, torch.tensor([0, 1, 2]), topk=(1, 2, 3)) == (1 / 3, 2 / 3, 1.0)


def test_k_above_the_classes_is_all_of_them():
    assert accuracy(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]), topk=(1, 5)) == (0.25, 1.0)


def test_not_a_number_is_refused():
    logits = torch.tensor([[math.nan, 1.0], [1.0, math.nan], [0.0, 1.0]])
    with pytest.raises(
        ValueError, match=r"`logits` must be finite, got NaN or infinity in 2 of 3 rows, first in row 0"
    ):
        accuracy(logits, torch.tensor([0, 0, 1]), topk=(1, 2))


@pytest.mark.parametrize(
    ("logits", "labels", "topk", "sentence"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), (1,), "`labels` must be class labels in [0, 3), got 3."),
        (torch.zeros(2, 3), torch.tensor([0, -1]), (1,), "`labels` must be class labels in [0, 3), got -1."),
        (
            torch.zeros(2, 3),
            torch.tensor([0]),
            (1,),
            "got `logits` [2, 3], `labels` [1].",
        ),
        (torch.zeros(2, 3), torch.tensor([0, 1]), (0,), "`topk` must be an integer >= 1, got 0."),
        (torch.zeros(2), torch.tensor([0, 1]), (1,), "`logits` must be a non-empty 2-D tensor, got shape [2]."),
    ],
)
def test_errors(logits, labels, topk, sentence):
    with pytest.raises(ValueError) as error:
        accuracy(logits, labels, topk=topk)
    assert str(error.value).startswith("`accuracy`: ")
    assert str(error.value).endswith(sentence)


def slow_calibration(logits, labels, bins):
    members = [[] for _ in range(bins)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        powers = [math.exp(value - max(row)) for value in row]
        shares = [power / sum(powers) for power in powers]
        confidence = max(shares)
        number = next(m for m in range(bins) if confidence <= (m + 1) / bins or m == bins - 1)
        members[number].append((confidence, shares.index(confidence) == label))
    total = 0.0
    for answers in filter(None, members):
        confidence, right = (sum(values) / len(answers) for values in zip(*answers, strict=True))
        total += len(answers) / len(labels) * abs(right - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15, 100])
def test_calibration_equals_a_slow_loop(bins):
    logits = 3 * torch.randn(300, 5, generator=seeded())
    labels = torch.randint(0, 5, (300,), generator=seeded(1))
    error = expected_calibration_error(logits, labels, bins=bins)
    assert error == pytest.approx(slow_calibration(logits, labels, bins), rel=1e-12)
    assert expected_calibration_error(logits, labels) == expected_calibration_error(logits, labels, bins=15)


def test_calibration_by_hand():
    # Confidences 0.5 (right), 0.8 (right), 0.8 (wrong): the bins of width 1/2 are closed above.
    logits = torch.tensor([[1.0, 1.0], [1.0, 4.0], [4.0, 1.0]], dtype=torch.float64).log()
    error = expected_calibration_error(logits, torch.tensor([0, 1, 1]), bins=2)
    assert error == pytest.approx(1 / 3 * 0.5 + 2 / 3 * 0.3, rel=1e-14)
    sure = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert expected_calibration_error(sure, torch.tensor([0, 1])) == 0.0
    assert expected_calibration_error(sure, torch.tensor([1, 0])) == 1.0
    assert math.isnan(expected_calibration_error(torch.tensor([[math.nan, 1.0], [5.0, 0.0]]), torch.tensor([0, 0])))


def test_agreement_counts_equal_answers():
    student, teacher = (torch.randn(50, 4, generator=seeded(seed)) for seed in (0, 1))
    same = sum(
        max(range(4), key=a.__getitem__) == max(range(4), key=b.__getitem__)
        for a, b in zip(student.tolist(), teacher.tolist(), strict=True)
    )
    assert 0 < same < 50
    assert agreement(student, teacher) == agreement(teacher, student) == same / 50
    assert agreement(student, 3 * student - 1) == 1.0
    assert agreement(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])) == 1.0


def test_agreement_with_what_is_no_number_is_refused():
    logits = torch.tensor([[math.nan, 1.0], [0.0, 1.0]])
    for sides, side in (((logits, logits.nan_to_num(9)), "student"), ((logits.nan_to_num(9), logits), "teacher")):
        with pytest.raises(ValueError, match=f"`{side}_logits` must be finite, got NaN or infinity in 1 of 2 rows"):
            agreement(*sides)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: expected_calibration_error(torch.zeros(2, 3), torch.tensor([0, 3])),
            "`expected_calibration_error`: `labels` must be class labels in [0, 3), got 3.",
        ),
        (
            lambda: expected_calibration_error(torch.zeros(1, 3), torch.tensor([0]), bins=0),
            "`expected_calibration_error`: `bins` must be an integer >= 1, got 0.",
        ),
        (
            lambda: agreement(torch.zeros(2, 3), torch.zeros(2, 4)),
            "`agreement`: `student_logits` and `teacher_logits` must have the same shape, "
            "got `student_logits` [2, 3], `teacher_logits` [2, 4].",
        ),
    ],
)
def test_errors_of_calibration_and_agreement(call, sentence):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == sentence

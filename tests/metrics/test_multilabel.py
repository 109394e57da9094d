import math

import pytest
import torch
from _harness.losses import seeded

from congruence.metrics import macro_f1, mean_average_precision


def slow_average_precision(scores, truth):
    pairs = [(s, t) for s, t in zip(scores, truth, strict=True) if t >= 0]
    positives = sum(t for _, t in pairs)
    total, before = 0.0, 0.0
    for threshold in sorted({s for s, _ in pairs}, reverse=True):
        given = [t for s, t in pairs if s >= threshold]
        recall = sum(given) / positives
        total += (recall - before) * sum(given) / len(given)
        before = recall
    return total


def slow_f1(scores, truth):
    right = sum(s > 0 and t == 1 for s, t in zip(scores, truth, strict=True))
    wrong = sum(s > 0 and t == 0 for s, t in zip(scores, truth, strict=True))
    missed = sum(s <= 0 and t == 1 for s, t in zip(scores, truth, strict=True))
    return 2 * right / (2 * right + wrong + missed)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_slow_loops_with_ties_and_unknown_labels(step):
    logits = torch.randn(40, 5, generator=seeded(), dtype=torch.float64)
    logits = (logits / step).round() * step if step else logits
    labels = torch.randint(-1, 2, (40, 5), generator=seeded(1))
    columns = list(zip(logits.T.tolist(), labels.T.tolist(), strict=True))
    expected = sum(slow_average_precision(*column) for column in columns) / 5
    assert mean_average_precision(logits, labels) == pytest.approx(expected, abs=1e-12)
    assert macro_f1(logits, labels) == pytest.approx(sum(slow_f1(*column) for column in columns) / 5, abs=1e-12)


def test_perfect_and_absent_labels():
    labels = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    logits = 2.0 * labels - 1
    assert mean_average_precision(logits, labels) == 1.0  # the second label, which none has, is left out
    assert macro_f1(logits, labels) == 1.0
    assert math.isnan(mean_average_precision(logits, torch.zeros(3, 3)))
    assert math.isnan(macro_f1(-torch.ones(3, 3), torch.zeros(3, 3)))


@pytest.mark.parametrize("metric", [mean_average_precision, macro_f1])
def test_errors(metric):
    for labels, sentence in (
        (torch.tensor([0, 1]), "got `logits` [2, 3], `labels` [2]."),
        (torch.full((2, 3), 2), "`labels` must be 0 and 1, or negative where unknown, got other numbers."),
    ):
        with pytest.raises(ValueError) as error:
            metric(torch.zeros(2, 3), labels)
        assert str(error.value).startswith(f"`{metric.__name__}`: ")
        assert str(error.value).endswith(sentence)

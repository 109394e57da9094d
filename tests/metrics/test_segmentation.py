import math

import pytest
import torch
from _harness.losses import seeded

from congruence.metrics import mean_iou


def slow_iou(answers, labels, classes):
    found = []
    for c in range(classes):
        pairs = [(a == c, y == c) for a, y in zip(answers, labels, strict=True) if y >= 0]
        either = sum(a or y for a, y in pairs)
        if either:
            found.append(sum(a and y for a, y in pairs) / either)
    return sum(found) / len(found)


@pytest.mark.parametrize("shape", [(50, 4), (3, 7, 4), (3, 4, 5, 6), (2, 4, 2, 3, 2)])
def test_slow_loops(shape):
    logits = torch.randn(shape, generator=seeded())
    axis = len(shape) - 1 if len(shape) < 4 else 1
    places = [n for at, n in enumerate(shape) if at != axis]
    labels = torch.randint(-1, 3, places, generator=seeded(1))  # the last class is answered and never labelled
    expected = slow_iou(logits.argmax(axis).flatten().tolist(), labels.flatten().tolist(), 4)
    assert mean_iou(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_no_label_at_all_and_errors():
    assert math.isnan(mean_iou(torch.randn(3, 4), torch.full((3,), -100)))
    for logits, labels, sentence in (
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "got [2]."),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "got 3."),
        (torch.full((2, 3), math.nan), torch.tensor([0, 1]), "first in row 0."),
    ):
        with pytest.raises(ValueError) as error:
            mean_iou(logits, labels)
        assert str(error.value).startswith("`mean_iou`: ")
        assert str(error.value).endswith(sentence)

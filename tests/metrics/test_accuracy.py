import math

import pytest
import torch
from _harness.losses import seeded

from congruence.metrics import accuracy


def test_equals_topk_where_nothing_ties():
    logits = torch.randn(200, 10, generator=seeded())
    labels = torch.randint(0, 10, (200,), generator=seeded(1))
    for k, found in zip((1, 3, 5), accuracy(logits, labels, topk=(1, 3, 5)), strict=True):
        expected = (logits.topk(k).indices == labels[:, None]).any(1).double().mean().item()
        assert found == expected


def test_default_is_top_1_and_top_5_as_fractions():
    assert accuracy(torch.eye(6), torch.tensor([0, 1, 2, 3, 0, 0])) == (4 / 6, 1.0)


def test_of_equal_logits_the_lower_class_is_larger():
    logits = torch.zeros(3, 3)
    assert accuracy(logits, torch.tensor([0, 1, 2]), topk=(1, 2, 3)) == (1 / 3, 2 / 3, 1.0)


def test_k_above_the_classes_is_all_of_them():
    assert accuracy(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]), topk=(1, 5)) == (0.25, 1.0)


def test_not_a_number_is_wrong():
    logits = torch.tensor([[math.nan, 1.0], [1.0, math.nan], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([0, 0, 1]), topk=(1, 2)) == (1 / 3, 2 / 3)


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

"""A student's test numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.evaluation import embed, measure
from congruence.evaluation.embed import known_accuracy
from congruence.metrics import retrieval_map
from congruence.models import count_parameters


@pytest.fixture(scope="module")
def splits():
    return cg.data.load("digits")


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def test_numbers(splits):
    student, teacher = model(0), model(1)
    found = measure(student, splits, teacher=teacher)
    test, train = (
        embed(student, cg.data.loader(part, batch_size=300, shuffle=False)) for part in (splits.test, splits.train)
    )
    assert found.accuracy == known_accuracy(test)
    expected = retrieval_map(test.features, test.labels, train.features, train.labels)
    assert found.retrieval_map == pytest.approx(expected, rel=1e-6)
    assert -1 <= found.gpcl <= 1
    assert found.parameters == count_parameters(student)
    assert list(found.to_dict()) == ["accuracy", "retrieval_map", "gpcl", "parameters"]
    assert measure(student, splits, teacher=student).gpcl == pytest.approx(1)


def test_without_a_teacher(splits):
    assert measure(model(0), splits).gpcl is None

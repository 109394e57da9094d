from __future__ import annotations

import pytest
from torch import nn

from congruence.models.parameters import count_parameters, shares_parameters


@pytest.mark.parametrize(("model", "count"), [(nn.ReLU(), 0), (nn.Linear(3, 2), 8), (nn.Conv2d(3, 4, 3), 112)])
def test_count(model: nn.Module, count: int) -> None:
    assert count_parameters(model) == count
    assert shares_parameters(model, model) == (count > 0)


def test_shared_parameters_count_once() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 7, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == 21

"""Fingerprints tell weights apart, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from congruence.core.fingerprint import fingerprint


def test_fingerprints_tell_weights_apart():
    model = nn.Linear(2, 2)
    first = fingerprint(model.state_dict())
    assert first == fingerprint({name: value.clone() for name, value in model.state_dict().items()})
    with torch.no_grad():
        model.bias[0] += 1e-3
    assert first != fingerprint(model.state_dict())
    assert fingerprint({"extra": {"a": 1}, **model.state_dict()}) == fingerprint(model.state_dict())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # old, and still found in users' files
def test_quantized_and_sparse_weights_have_bytes():
    values = torch.tensor([0.5, -1.0])
    states = [{"w": torch.quantize_per_tensor(values, scale, 0, torch.qint8)} for scale in (0.1, 0.1, 0.2)]
    states += [{"w": torch.quantize_per_channel(values[:, None], values.abs(), torch.zeros(2), 0, torch.qint8)}]
    states += [{"w": torch.diag(values).to_sparse()}, {"w": torch.diag(values * 2).to_sparse()}]
    found = [fingerprint(state) for state in states]
    assert found[0] == found[1]
    assert len(set(found)) == len(found) - 1

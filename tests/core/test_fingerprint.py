"""Fingerprints tell weights apart, and nothing else."""

from __future__ import annotations

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

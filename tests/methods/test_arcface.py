"""ArcFace: the formula, unlabelled rows, and what it asks for."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

import congruence as cg


def built(**options):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    facts = cg.data.DataFacts(12, 4, torch.arange(12) % 4)
    return cg.Distiller(None, student, [cg.Term("arcface", **options)], example=torch.randn(2, 5).double(), facts=facts)


def batch(size=7):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(size, 5, generator=generator, dtype=torch.float64), torch.arange(size) % 4


def slowly(distiller, inputs, labels, margin, scale):
    """The definition, row by row."""
    features = distiller.student[:2](inputs).detach()
    directions = distiller.methods["arcface"].criterion.W.detach().T
    losses = []
    for row, label in zip(features, labels, strict=True):
        if label < 0:
            continue
        cosines = [float(row @ w / row.norm() / w.norm()) for w in directions]
        angles = [math.acos(max(-1.0, min(1.0, c))) for c in cosines]
        scores = [scale * math.cos(a + (margin if c == label else 0)) for c, a in enumerate(angles)]
        losses.append(math.log(sum(math.exp(s - scores[label]) for s in scores)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("margin", "scale"), [(0.0, 8.0), (0.3, 8.0), (0.5, 64.0)])
def test_it_is_the_definition(margin, scale):
    distiller, (inputs, labels) = built(margin=margin, scale=scale), batch()
    labels[2] = -1
    value = distiller(inputs, labels).terms["arcface"].item()
    assert value == pytest.approx(slowly(distiller, inputs, labels, margin, scale), rel=1e-6)


def test_no_labelled_row_is_zero_with_zero_gradient():
    distiller, (inputs, labels) = built(), batch()
    loss = distiller(inputs, labels * 0 - 1).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in distiller.parameters())


def test_its_directions_are_trained_and_not_the_student_s():
    distiller, (inputs, labels) = built(), batch()
    groups = {group["name"]: group["params"] for group in distiller.parameter_groups()}
    assert [list(p.shape) for p in groups["terms"]] == [[6, 4]]
    distiller(inputs, labels).loss.backward()
    assert groups["terms"][0].grad.abs().sum() > 0
    assert sorted(distiller.student_state_dict()) == sorted(distiller.student.state_dict())


def test_what_it_lacks_is_told(monkeypatch):
    with pytest.raises(ValueError, match=r"`ArcFace`: `margin` must be a number >= 0 and < 1\.5708, got 2"):
        cg.Term("arcface", margin=2)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ValueError, match=r"The term 'arcface'.*pip install 'congruence\[metric-learning\]'"):
        built()

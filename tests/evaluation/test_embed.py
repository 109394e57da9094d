"""Embeddings of a whole loader, in its order."""

from __future__ import annotations

import pytest
import torch
from _harness.fits import data, net
from torch import nn

import congruence as cg
from congruence.evaluation import embed
from congruence.evaluation.embed import beside
from congruence.evaluation.numbers import numbers_in


def accuracy(embedded):
    """The table's row of accuracy."""
    return numbers_in("run")["accuracy"].measure(beside(embedded))["accuracy"]


def test_rows_come_in_the_loader_s_order():
    model = net(0)
    points, labels = data(23).tensors
    found = embed(model, cg.data.loader(data(23), batch_size=10, shuffle=False))
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(found.features, model.eval()[:3](points))
        torch.testing.assert_close(found.logits, model(points))
    assert torch.equal(found.labels, labels)


def test_maps_are_averaged_and_models_without_logits_have_none():
    torch.manual_seed(0)
    model, images = nn.Conv2d(2, 3, 1), torch.randn(4, 2, 5, 5)
    found = embed(model, [images], layer="output")
    torch.testing.assert_close(found.features, model(images).mean((2, 3)).detach())
    assert found.logits is None
    assert found.labels is None
    assert accuracy(found) is None


def test_the_head_makes_the_logits_of_the_embeddings():
    model, points = net(0), data().tensors[0]
    found = embed(model, [points])
    weight, bias = found.head
    torch.testing.assert_close(found.features @ weight.T + bias, found.logits)
    model[3].weight.data += 1
    assert torch.equal(weight + 1, model[3].weight)
    assert embed(model, [points], layer="2").head is None  # the same numbers, of which no path says that they enter it
    assert embed(nn.Linear(6, 3, bias=False), [points]).head[1] is None


def test_accuracy_is_of_the_labelled_samples():
    model = net(0)
    points, labels = data().tensors
    some = labels.clone()
    some[::2] = -1
    found = accuracy(embed(model, [(points, some)]))
    assert found == accuracy(embed(model, [(points[1::2], labels[1::2])]))
    assert accuracy(embed(model, [(points, torch.full_like(labels, -1))])) is None
    assert accuracy(embed(model, [(points, labels + 5)])) is None


def test_an_empty_loader_and_an_unknown_layer():
    model = net(0)
    with pytest.raises(ValueError, match="`embed`: `loader` must hold at least one batch"):
        embed(model, [])
    with pytest.raises(ValueError, match=r"The embedder.*'nine'"):
        embed(model, [data().tensors], layer="nine", name="embedder")
    assert model.training

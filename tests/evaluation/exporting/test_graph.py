"""What is exported: which outputs a model has, and that they are its own."""

import pytest
import torch
from torch import nn

from congruence.evaluation.exporting.graph import Graph, plain_float32, two_rows
from congruence.models.taps import Taps


class Bent(nn.Module):
    """Works in place on what it embedded, after the head has read it."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        hidden = self.embed(x)
        out = self.head(hidden)
        hidden.mul_(0)
        return out


def test_the_outputs_are_those_that_taps_read():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3)
    graph = Graph(model, x, features=True)
    taps = Taps(model, name="m")
    taps.probe(x, training=False)
    taps.require(["input:2"])
    logits, read = taps.read(x)
    given = graph.outputs(x)
    assert torch.equal(given["logits"], logits)
    assert torch.equal(given["features"], read["input:2"])
    assert list(Graph(model, x).paths) == ["logits"]


def test_what_is_written_over_later_was_copied():
    model, x = Bent(), torch.randn(4, 3)
    given = Graph(model, x, features=True).outputs(x)
    assert torch.equal(given["features"], model.embed(x))


def test_maps_are_averaged_and_modes_are_kept():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).train()
    x = torch.randn(4, 1, 4, 4)
    graph = Graph(model, x, features=True, layer="1")
    assert graph.outputs(x)["features"].shape == (4, 4)
    assert model.training
    assert model[1].training


def test_a_projection_comes_after_the_embedding():
    model, x, projection = (
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)),
        torch.randn(4, 3),
        nn.Linear(5, 7),
    )
    given = Graph(model, x, features=True, projection=projection).outputs(x)
    torch.testing.assert_close(given["features"], projection(model[:2](x)))
    with pytest.raises(ValueError, match=r"takes embeddings of width 6, and the layer 'input:2' gives 5"):
        Graph(model, x, features=True, projection=nn.Linear(6, 7))


def test_inputs_by_name_and_by_position():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, first, second):
            return {"logits": self.fc(first + second)}

    a, b = torch.randn(4, 3), torch.randn(4, 3)
    graph = Graph(Two(), {"first": a, "second": b})
    assert graph.inputs == ("first", "second")
    assert graph.outputs({"second": b, "first": a})["logits"].shape == (4, 2)
    assert Graph(Two(), (a, b)).inputs == ("input_0", "input_1")


def test_what_cannot_be_exported_is_a_sentence():
    with pytest.raises(ValueError, match=r"A model that torch.compile runs cannot be exported"):
        plain_float32(torch.compile(nn.Linear(2, 2), backend="eager"))
    with pytest.raises(ValueError, match="on the device 'meta' has no weights"):
        plain_float32(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"`export`: `example` must be a batch of inputs"):
        two_rows(torch.tensor(3.0))
    half = nn.Linear(2, 2).bfloat16()
    assert plain_float32(half).weight.dtype == torch.float32
    assert half.weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="The model's output is not one tensor"):
        Graph(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3))
    assert Graph(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3), layer="output[0]").paths == {
        "features": "output[0]"
    }

"""A compiled forward gives what the plain one gives: output, layers, gradients, buffers, random numbers."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from congruence.models import Taps
from congruence.models.compiled import Compiled


class Counted:
    """A backend that compiles nothing, and counts the graphs."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return aot_eager(graph, inputs)


class Twice(nn.Module):
    """Runs one layer twice, has a result that is no tensor, and takes arguments by name."""

    def __init__(self):
        super().__init__()
        self.layer, self.pair, self.head = nn.Linear(4, 4), Pair(), nn.Linear(4, 2)

    def forward(self, first, second):
        x = self.layer(first) + self.layer(second)
        return {"logits": self.head(self.pair(x)[0]), "plus": second + 1}


class Pair(nn.Module):
    def forward(self, x):
        return x.tanh(), {"more": x * 2}


def images():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), torch.randn(6, 3, 8, 8)


def vectors():
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(6, 3)


MODELS = {
    "images": (images, ["1", "2", "input:6", "6", "output"]),
    "one layer": (vectors, ["input:3"]),
    "output alone": (vectors, ["output"]),
    "names": (
        lambda: (Twice(), {"first": torch.randn(6, 4), "second": torch.randn(6, 4)}),
        ["layer#1", "layer#2", "input:pair", "pair[1][more]", "output[logits]"],
    ),
}


def made(model, inputs, paths, backend=None, training=True):
    taps = Taps(model, name="student")
    taps.probe(inputs, training=training)
    taps.require(paths)
    model.train(training)
    taps.compiled = backend and Compiled(backend)
    return taps


def ran(taps, inputs, seed=3):
    """Return output, layers and gradients of one forward and backward."""
    torch.manual_seed(seed)
    output, values = taps.read(inputs)
    loss = sum(value.square().sum() for value in values.values())
    parameters = list(taps.model.parameters())
    torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return output, values, torch.autograd.grad(loss, parameters, allow_unused=True)


def same(first, second):

    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_a_compiled_forward_is_the_plain_one(name):
    torch.manual_seed(0)
    make, paths = MODELS[name]
    model, inputs = make()
    counted = Counted()
    plain, compiled = made(copy.deepcopy(model), inputs, paths), made(model, inputs, paths, counted)
    for seed in range(3):
        same(ran(compiled, inputs, seed), ran(plain, inputs, seed))
    same(dict(compiled.model.state_dict()), dict(plain.model.state_dict()))
    assert counted.graphs == 1
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(run.capture.values == {} for run in compiled.compiled._runs.values())


def test_a_tensor_of_output_and_layer_stays_one():
    model, inputs = vectors()
    output, values = made(model, inputs, ["3", "output"], Counted()).read(inputs)
    assert values["3"] is output
    assert values["output"] is output


def test_sets_of_layers_shapes_and_gradients_have_graphs_of_their_own():
    model, inputs = vectors()
    counted = Counted()
    taps = made(model, inputs, ["0", "2", "output"], counted)
    assert list(taps.read(inputs, only={"0"})[1]) == ["0"]
    assert list(taps.read(inputs, only={"2"})[1]) == ["2"]
    assert counted.graphs == 2
    assert taps.read(inputs[:4], only={"0"})[1]["0"].shape == (4, 5)
    assert counted.graphs == 3
    with torch.no_grad():
        assert not taps.read(inputs, only={"0"})[1]["0"].requires_grad
    assert counted.graphs == 4
    for rows in (6, 4, 6):
        assert taps.read(inputs[:rows], only={"0"})[1]["0"].requires_grad
    assert counted.graphs == 4
    with torch.autocast("cpu", torch.bfloat16):
        assert taps.read(inputs, only={"0"})[1]["0"].dtype == torch.bfloat16


def test_the_mode_of_another_use_runs_plain():
    model, inputs = vectors()
    counted = Counted()
    taps = made(model, inputs, ["output"], counted)
    model.eval()
    same(taps.read(inputs)[0], model(inputs))
    assert counted.graphs == 0


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "congruence"]


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)


def test_a_model_that_is_no_graph_runs_as_it_is(caplog):
    model, inputs = Branching(), torch.ones(4, 3)
    counted = Counted()
    taps = made(model, inputs, ["layer"], counted)
    with caplog.at_level(logging.WARNING, logger="congruence"):
        for _ in range(2):
            output, values = taps.read(inputs)
            same(output, model(inputs))
            assert values["layer"] is output
    (sentence,) = warned(caplog)
    assert sentence.startswith("The student runs uncompiled, because torch.compile cannot handle it: ")
    assert counted.graphs == 0


def test_a_backend_that_fails_is_said(caplog):
    def failing(graph, inputs):
        raise OSError("no compiler is there")

    model, inputs = vectors()
    with caplog.at_level(logging.WARNING, logger="congruence"):
        output, _ = made(model, inputs, ["output"], failing).read(inputs)
    assert output.requires_grad
    assert "no compiler is there" in warned(caplog)[0]


def test_inputs_that_do_not_fit_are_refused_as_ever(caplog):
    model, inputs = vectors()
    counted = Counted()
    taps = made(model, inputs, ["output"], counted)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        taps.read(torch.ones(4, 7))
    same(taps.read(inputs)[0], model(inputs))
    assert counted.graphs == 1
    assert warned(caplog) == []


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        return self.second(x)


def test_a_layer_without_gradient_is_refused():
    model, inputs = Detached(), torch.ones(4, 3)
    for backend in (None, Counted()):
        with pytest.raises(RuntimeError, match="The student's layer 'first' carries no gradient"):
            made(model, inputs, ["first"], backend).read(inputs)

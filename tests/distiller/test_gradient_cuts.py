"""Layers that pass no gradient on are told in the first training batch, by name, where something is lost by it."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from congruence import Distiller, FitOptions, Term, fit
from congruence.distiller.gradient_cuts import gradient_cuts
from congruence.models.untaught import is_untaught

X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3


class Still(nn.Linear):
    """A frozen layer whose arithmetic has no derivative, as that of int8 with dynamic activations."""

    def forward(self, x):
        return super().forward(x.detach())


class Summed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Checkpointed(Summed):
    """Runs its layer again in the backward, and without a graph in the forward."""

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=True)


def student(middle, last=True):
    torch.manual_seed(0)
    after = [nn.Linear(6, 3)] if last else []
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), middle, *after)


def still(out=6):
    return Still(6, out).requires_grad_(False)


def told(caplog):
    return [record.getMessage() for record in caplog.records if "passes no gradient" in record.getMessage()]


def step(model, terms=("kd", "ce"), **given):
    made = Distiller(nn.Linear(4, 3), model, list(terms), example=X[:2]).train()
    made(X, Y, **given).loss.backward()
    return made


def test_a_part_that_cuts_is_told_once_with_what_it_costs(caplog):
    made = step(student(still()))
    (sentence,) = told(caplog)
    assert sentence.startswith("The student's layer '2' (Still) passes no gradient on to its input, so that no term")
    assert "no term trains '0' (30 of 93 parameters)" in sentence
    made(X, Y)
    assert len(told(caplog)) == 1


def test_fit_tells_it_before_the_first_step(caplog):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)
    made = Distiller(nn.Linear(4, 3), student(still()), ["kd"], example=X[:2])
    with caplog.at_level(logging.WARNING, logger="congruence"):
        fit(made, loader, None, FitOptions(epochs=1, device="cpu", max_steps=1))
    assert len(told(caplog)) == 1
    assert is_untaught(made.student[0])


@pytest.mark.parametrize("terms", [["kd"], [Term("pkt", student_layer="2", teacher_layer="output")]])
def test_a_student_without_any_gradient_is_refused(terms):
    made = Distiller(nn.Linear(4, 3), student(still(3), last=False), terms, example=X[:2]).train()
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"the terms give the student no gradient\. The student's layer '2' \(Still\)"
        ):
            made(X, Y)


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (lambda: student(nn.Linear(6, 6).requires_grad_(False)), ["kd"]),  # frozen, and with a derivative
        (lambda: student(Summed(still())), ["kd"]),  # a way around it
        (lambda: student(still()), [Term("pkt", student_layer="1")]),  # nothing behind it is read
        (lambda: student(still()), ["kd", Term("pkt", student_layer="1")]),
        (lambda: nn.Sequential(nn.Linear(4, 6).requires_grad_(False), still(), nn.Linear(6, 3)), ["kd"]),
        (lambda: student(nn.BatchNorm1d(6)), ["kd"]),
        (lambda: student(nn.Sequential(*(Checkpointed(nn.Linear(6, 6)) for _ in range(2)))), ["kd"]),
    ],
)
def test_nothing_is_told_where_nothing_is_lost(caplog, model, terms):
    step(model(), terms)
    assert not told(caplog)


def test_terms_that_begin_later_are_waited_for(caplog):
    terms = ["kd", Term("pkt", student_layer="1", start_epoch=1)]
    made = step(student(still()), terms)
    assert not told(caplog)
    made.begin_epoch(1)
    made(X, Y)
    assert not told(caplog)


def test_in_micro_batches_it_runs_as_ever(caplog):
    step(student(nn.Linear(6, 6)), micro_batch=4)
    assert not told(caplog)


def test_the_innermost_layers_are_found_and_the_model_is_as_it_was():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.still, self.norm = still(), nn.BatchNorm1d(6)

        def forward(self, x):
            return self.norm(self.still(x))

    model = student(Inner())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert [cut.layer for cut in gradient_cuts(model, X)] == ["2.still"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantisation_of_torch_itself():
    layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 3)), {nn.Linear})
    made = Distiller(nn.Linear(4, 3), student(layer, last=False), ["kd"], example=X[:2]).train()
    with pytest.raises(
        ValueError, match=r"'2\.0' \(Linear, quantised\) passes no gradient .* quantise the weights alone"
    ):
        made(X, Y)


@pytest.mark.filterwarnings("ignore")
def test_int8_of_torchao(caplog):
    ao = pytest.importorskip("torchao.quantization")

    def frozen(how, out=6):
        layer = nn.Sequential(nn.Linear(6, out))
        ao.quantize_(layer, how())
        return layer.requires_grad_(False)

    step(student(frozen(ao.Int8WeightOnlyConfig)))
    assert not told(caplog)
    step(student(frozen(ao.Int8DynamicActivationInt8WeightConfig)))
    assert "'2.0' (Linear, quantised) passes no gradient on" in told(caplog)[0]
    made = Distiller(
        nn.Linear(4, 3),
        student(frozen(ao.Int8DynamicActivationInt8WeightConfig, 3), last=False),
        ["kd"],
        example=X[:2],
    )
    with pytest.raises(ValueError, match="the terms give the student no gradient"):
        made.train()(X, Y)

"""A run with compiled models is the run without: values, gradients, files, resuming, micro-batches, cached teachers."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from _harness.cases import CASES
from _harness.fits import compiled_on_a_rank, constant, data, distiller, micro_plain, net, same_state
from _harness.runs import on_ranks
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

import congruence as cg
from congruence.models import Taps
from congruence.models.compiled import Compiled
from congruence.testing.case import batches, gradients, small_distiller
from congruence.training.modes import compiled

ZERO_FOR_NONE = {"intra_class"}  # reads logits of which its loss is no function: 0 in place of no gradient


@pytest.fixture
def graphs(monkeypatch):
    """A backend that compiles nothing and keeps the modes of what was traced."""
    traced = []

    def backend(graph, inputs):
        traced.append(torch.is_grad_enabled())
        return aot_eager(graph, inputs)

    monkeypatch.setattr("congruence.models.compiled.BACKEND", backend)
    return traced


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_has_the_same_values_and_gradients(case, graphs):
    def step(wanted):
        made = small_distiller(case).double()
        made.begin_epoch(0)
        with compiled(made, wanted):
            for batch in batches(case)[:2]:
                torch.manual_seed(0)
                made.zero_grad()
                out = made(batch.inputs, batch.labels, batch.index, views=batch.views)
                out.loss.backward()
        return out.terms, gradients(made)

    (terms, expected), (found_terms, found) = step(False), step(True)
    assert graphs
    torch.testing.assert_close(found_terms, terms, rtol=1e-9, atol=1e-11)
    if case.row in ZERO_FOR_NONE:
        assert all(not found.pop(name).any() for name in set(found) - set(expected))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def loader(size=20):
    return cg.data.loader(data(size), batch_size=8, seed=3)


def dropping():
    """A student and a teacher of which the student draws random numbers."""
    made = distiller("ce", "kd", "rkd", students=None)
    made.student.insert(3, nn.Dropout(0.3))
    return cg.Distiller(made.teacher, made.student, ["ce", "kd", "rkd"], example=data().tensors[0][:4])


def balancing():
    """The same with balanced weights."""
    made = dropping()
    terms = ["ce", *(cg.Term(key, weight="balanced") for key in ("kd", "rkd"))]
    return cg.Distiller(made.teacher, made.student, terms, example=data().tensors[0][:4])


def fitted(wanted, make=dropping, **options):
    made = make()
    result = cg.fit(made, loader(), loader(), constant(compile=wanted, **options))
    return made, result


@pytest.mark.parametrize(
    "options",
    [{}, {"make": balancing}, {"micro_batch": 3}, {"channels_last": True}],
    ids=lambda given: ", ".join(given),
)
def test_a_run_is_the_same(options, graphs):
    (plain, expected), (made, found) = fitted(False, **options), fitted(True, **options)
    assert graphs
    assert found.last["loss"] == pytest.approx(expected.last["loss"], rel=1e-5)
    for name, value in plain.student.state_dict().items():
        torch.testing.assert_close(made.student.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert all(taps.compiled is None for taps in made._taps.values())


def test_the_file_is_plain_and_a_stopped_run_goes_on_to_the_same_bits(tmp_path, graphs):
    def stop(event):
        if event.kind == "step" and event.step == 4:
            raise KeyboardInterrupt

    whole, _ = fitted(True, out=tmp_path / "whole", checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fitted(True, out=tmp_path / "cut", checkpoint_seconds=0, callbacks=(stop,))
    again, _ = fitted(True, out=tmp_path / "cut", checkpoint_seconds=0, resume=True)
    same_state(again.student, whole.student)
    loaded = cg.load_student(tmp_path / "whole", lambda: dropping().student, last=True)
    same_state(loaded, whole.student)


def test_a_run_that_was_not_compiled_is_not_gone_on_with(tmp_path, graphs):
    fitted(False, out=tmp_path, max_steps=1, epochs=None)
    with pytest.raises(ValueError, match="compile"):
        fitted(True, out=tmp_path, max_steps=1, epochs=None, resume=True)


def test_students_run_compiled_in_training_and_the_teacher_always(graphs):
    made = distiller("ce", "kd")
    cg.fit(made, loader(16), loader(16), constant(compile=True))
    assert sorted(graphs) == [False, True]  # the teacher without gradient, the student with; none for validation


def test_a_cached_teacher(tmp_path, graphs):
    def make():
        made = distiller("ce", "kd")
        cache = cg.TeacherCache(made.teacher, shown, tmp_path / "cache", dtype="float32")
        return cg.Distiller(cache, made.student, ["ce", "kd"], example=data().tensors[0][:4])

    shown = cg.data.loader(data(20), batch_size=8, seed=3, view_cycle=1)
    states = []
    for wanted in (False, True):
        made = make()
        cg.fit(made, shown, None, constant(compile=wanted))
        states.append(made.student.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-6)
    assert graphs


def test_two_ranks_are_one(tmp_path):
    on_ranks(compiled_on_a_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"compiled-{rank}.pt") for rank in (0, 1))
    alone = micro_plain("mimic", "rkd")
    before = alone.student[2].weight.clone()
    cg.fit(alone, cg.data.loader(data(), batch_size=12, seed=3), options=constant())
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(dict(first), dict(alone.state_dict()), rtol=1e-5, atol=1e-6)
    assert torch.equal(before, first["students.student.2.weight"])  # no term trains it: no weight decay either


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net(1)

    def forward(self, x):
        return self.inner(x if float(x.sum()) > 0 else x + 0.0)


def test_a_student_that_is_no_graph_runs_as_it_is(graphs, caplog):
    def make():
        return cg.Distiller(net(0, 7), Branching(), ["ce", "kd"], example=data().tensors[0][:4])

    with caplog.at_level(logging.WARNING, logger="congruence"):
        made, _ = fitted(True, make)
    plain, _ = fitted(False, make)
    torch.testing.assert_close(made.student.state_dict(), plain.student.state_dict(), rtol=1e-5, atol=1e-6)
    said = [record.getMessage() for record in caplog.records if "runs uncompiled" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("The student runs uncompiled, because torch.compile cannot handle it: ")


def test_what_its_owner_compiled_stays_as_it_is(graphs):
    teacher = torch.compile(net(0, 7), backend="eager")
    made = cg.Distiller(teacher, net(1), [cg.Term("kd", teacher_layer="output")], example=data().tensors[0][:4])
    with compiled(made, True):
        assert made.teacher.taps.compiled is None
        assert isinstance(made._taps["student"].compiled, Compiled)


def test_half_precision(graphs):
    (_, expected), (_, found) = fitted(False, precision="bf16"), fitted(True, precision="bf16")
    assert graphs
    assert found.last["loss"] == pytest.approx(expected.last["loss"], rel=1e-2)


# With the backend that a run has


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler, which torch.compile needs on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_the_usual_backend():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    inputs = torch.randn(6, 3, 8, 8).double()
    taps = Taps(model, name="student")
    taps.probe(inputs, training=True)
    taps.require(["1", "input:6", "6"])
    results = []
    for way in (None, Compiled()):
        taps.compiled = way
        torch.manual_seed(1)
        values = taps.read(inputs)[1]
        loss = sum(value.square().sum() for value in values.values())
        results.append((values, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-10)
    assert not taps.compiled.refused

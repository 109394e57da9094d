"""A dry run leaves the model as it was: whatever its forward keeps, wherever it keeps it."""

from __future__ import annotations

import copy
import io
import logging
import random
import threading
import warnings
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from congruence import Distiller, Term
from congruence.models import Taps
from congruence.models.parameters import shares_parameters
from congruence.models.teacher import Teacher

POINTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """Keeps something of every kind."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.empty(0))  # as observers have it: of no size before the first batch
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("invalid", torch.tensor([float("nan"), 1.0]))
        self.calls, self.last, self.names = 0, None, {"first": [0]}
        self.history, self.kinds, self.running = deque(maxlen=3), {1}, torch.zeros(4)
        self.table, self.draws = np.zeros(2), [torch.Generator(), random.Random(0), np.random.default_rng(0)]
        self.lock, self.log = threading.Lock(), logging.getLogger("theirs")

    def forward(self, inputs):
        self.seen.resize_(4).copy_(inputs.detach().amax(0))
        self.replaced = self.replaced + 1
        self.register_buffer("made", torch.ones(2), persistent=False)
        self.calls += 1
        self.last, self.shape = inputs, inputs.shape
        self.names["first"].append(self.calls)
        self.names["second"] = []
        self.history.append(inputs)
        self.kinds.add(len(inputs))
        self.running.mul_(0.9).add_(inputs.detach().mean(0))
        self.table += 1
        generator, python, numpy = self.draws
        torch.rand(2, generator=generator)
        python.random()
        numpy.random()
        with torch.no_grad():
            self.head.weight.data.clamp_(-0.1, 0.1)
        return self.head(inputs)

    def described(self):
        drawn = [self.draws[0].get_state().tolist(), self.draws[1].getstate(), self.draws[2].bit_generator.state]
        tensors = {name: value.tolist() for name, value in {**self.state_dict(), "running": self.running}.items()}
        kept = [self.calls, self.last, self.names, list(self.history), self.kinds, self.table.tolist()]
        return repr(
            (list(self._buffers), sorted(self._non_persistent_buffers_set), tensors, kept, drawn, sorted(vars(self)))
        )


def test_everything_is_put_back():
    model, example = Keeps(), POINTS[:2].clone()
    before, ids = model.described(), {name: id(value) for name, value in vars(model).items() if name != "_buffers"}
    buffers = {name: id(value) for name, value in model._buffers.items()}
    taps = Taps(model, name="student")
    taps.probe(example, training=True)
    taps.require(["head"])
    assert model.described() == before
    assert {name: id(value) for name, value in model._buffers.items()} == buffers
    assert {name: id(value) for name, value in vars(model).items() if name in ids} == ids
    assert torch.equal(example, POINTS[:2])
    assert {"calls", "last", "shape", "names", "running"} <= taps.scratch
    assert "lock" not in taps.scratch
    taps.read(POINTS)
    assert model.calls == 1


class Counts(nn.Module):
    """Keeps its counter where only its extra state tells."""

    def __init__(self):
        super().__init__()
        self.head, self._inner = nn.Linear(4, 3), type("Inner", (), {"calls": 0})()

    def forward(self, inputs):
        self._inner.calls += 1
        return self.head(inputs)

    def get_extra_state(self):
        return {"calls": self._inner.calls, "by": {"name": [1]}}

    def set_extra_state(self, state):
        self._inner.calls = state["calls"]


def test_extra_states_are_put_back():
    model = Counts()
    taps = Taps(model, name="student")
    taps.probe(POINTS, training=True)
    assert model.get_extra_state()["calls"] == 0
    assert "_extra_state" in taps.scratch


class Lazy(nn.Module):
    """Makes its layer in the first forward."""

    def __init__(self):
        super().__init__()
        self.ready = False

    def forward(self, inputs):
        if not self.ready:
            self.head, self.ready = nn.Linear(inputs.shape[1], 3), True
        return self.head(inputs)


def test_parts_that_the_first_forward_makes_stay():
    model = Lazy()
    made = Distiller(None, model, ["ce"], example=POINTS)
    head = model.head
    made(POINTS, torch.arange(6) % 3).loss.backward()
    assert model.head is head
    assert head.weight.grad is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Please use quant_min")
def test_students_for_quantization_aware_training():
    quantized = torch.ao.quantization
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).train()
    layers.qconfig = quantized.QConfig(
        activation=quantized.FakeQuantize.with_args(observer=quantized.MovingAverageMinMaxObserver),
        weight=quantized.FakeQuantize.with_args(
            observer=quantized.MovingAveragePerChannelMinMaxObserver,
            qscheme=torch.per_channel_symmetric,
            dtype=torch.qint8,
        ),
    )
    student = quantized.prepare_qat(layers)
    plain = copy.deepcopy(student)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    made = Distiller(nn.Linear(4, 3), student, ["kd"], example=POINTS[:2])
    for name, value in student.state_dict().items():
        assert value.shape == before[name].shape, name
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    made(POINTS)
    plain(POINTS)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(student.state_dict()[name], value)


class Opens(nn.Module):
    """Opens what it runs in the first forward."""

    def __init__(self):
        super().__init__()
        self.head, self.session = nn.Linear(4, 3), None

    def forward(self, inputs):
        if self.session is None:
            self.session = object()
        return self.head(inputs)


def test_a_session_that_the_first_forward_opens_stays_and_counts():
    teacher = Teacher(Opens())
    teacher.taps.probe(POINTS, training=False)
    assert teacher.module.session is not None
    assert "session" not in teacher.taps.scratch


# Teachers of other kinds


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.drop, self.head = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0

    def forward(self, inputs):
        self.calls += 1
        self.count += 1
        return self.head(self.drop(self.norm(inputs)))


def loaded(module):
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


SCRIPTED = {
    "scripted": lambda model: torch.jit.script(model),
    "traced": lambda model: torch.jit.trace(model.eval(), POINTS),
    "loaded": lambda model: loaded(torch.jit.script(model)),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model.eval())),
    "copied": lambda model: copy.deepcopy(torch.jit.script(model)),
    "in a module": lambda model: nn.Sequential(nn.Identity(), torch.jit.script(model)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", SCRIPTED)
def test_scripted_teachers(kind):
    teacher = SCRIPTED[kind](Scaled())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    made = Distiller(teacher, nn.Linear(4, 3), [Term("kd", teacher_layer="output")], example=POINTS[:2])
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    part = teacher[1] if kind == "in a module" else teacher
    assert getattr(part, "count", 0) == 0
    expected = Scaled().eval()(POINTS)
    torch.testing.assert_close(made(POINTS).teacher, expected)
    made.train().to("cpu").float()
    torch.testing.assert_close(made(POINTS).teacher, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_copied_scripted_student_is_refused():
    with pytest.raises(
        ValueError,
        match=r"`student` must be a module with parameters of its own, got computed "
        "parameters",
    ):
        Distiller(Scaled(), copy.deepcopy(torch.jit.script(nn.Linear(4, 3))), ["kd"], example=POINTS[:2])


def exported(model, points=POINTS):
    return torch.export.export(
        model, (points,), dynamic_shapes={"inputs": {0: torch.export.Dim("batch", min=2)}}
    ).module()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.drop, self.head = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(self.drop(self.norm(inputs)))


def traced(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, POINTS, check_trace=False)


def test_exported_teachers():
    expected = Plain().eval()(POINTS)
    for teacher in (exported(Plain().eval()), nn.Sequential(exported(Plain().eval()))):
        made = Distiller(teacher, nn.Linear(4, 3), [Term("kd", teacher_layer="output")], example=POINTS[:2])
        for mode in (True, False):
            torch.testing.assert_close(made.train(mode)(POINTS).teacher, expected)

    class Functional(nn.Module):
        def forward(self, inputs):
            return nn.functional.dropout(inputs, 0.5, training=self.training)

    Teacher(torch.fx.symbolic_trace(Functional().eval()))
    with pytest.raises(ValueError, match="exported or traced in training mode"):
        Teacher(torch.fx.symbolic_trace(Functional()))
    for trains in (exported(Plain().train()), traced(Plain().train()), nn.Sequential(traced(nn.BatchNorm1d(4)))):
        with pytest.raises(ValueError, match=r"exported or traced in training mode .*: do so after `\.eval\(\)`"):
            Teacher(trains)
    with pytest.raises(ValueError, match="`student` must be a module that can be trained, got an exported program"):
        Distiller(None, exported(Plain().eval()), ["ce"])


def test_an_exported_teacher_of_one_batch_size():
    teacher = torch.export.export(Plain().eval(), (POINTS[:2],)).module()
    made = Distiller(teacher, nn.Linear(4, 3), [Term("kd", teacher_layer="output")], example=POINTS[:2])
    assert made(POINTS[:2]).loss > 0
    with pytest.raises(
        ValueError, match=r"exported program and refuses a batch of 6 samples .*: export it with dynamic"
    ):
        made(POINTS)


class Int8(torch.Tensor):
    """A weight that is made of others and has no memory of its own, as quantized ones are."""

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values, scale):
        self.values_, self.scale_ = values, scale

    def __tensor_flatten__(self):
        return ["values_", "scale_"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Int8(inner["values_"], inner["scale_"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(func(args[0].values_), func(args[0].scale_))
        args = [a.values_ * a.scale_ if isinstance(a, cls) else a for a in args]
        return func(*args, **(kwargs or {}))


def int8(scale=0.1):
    layer = nn.Linear(4, 3)
    values = torch.arange(12, dtype=torch.int8).reshape(3, 4)
    layer.weight = nn.Parameter(Int8(values, torch.tensor(scale)), requires_grad=False)
    return layer


def test_weights_without_memory_of_their_own():
    teacher, student = int8(), nn.Linear(4, 3)
    made = Distiller(teacher, student, ["kd"], example=POINTS[:2])
    expected = POINTS @ (torch.arange(12.0).reshape(3, 4) * 0.1).T + teacher.bias
    torch.testing.assert_close(made(POINTS).teacher, expected)
    assert not shares_parameters(teacher, int8())
    other = int8()
    other.weight.values_ = teacher.weight.values_
    assert shares_parameters(teacher, other)


def test_a_state_that_is_loaded_before_the_parts_are_there():
    def made(**options):
        return Distiller(
            nn.Linear(4, 3), nn.Linear(4, 5), [Term("mimic", student_layer="output", teacher_layer="output")], **options
        )

    whole = made(example=POINTS[:2])
    state, waiting = whole.state_dict(), made()
    assert any(key.startswith("methods.") for key in state)
    for strict in (True, False):
        with pytest.raises(
            ValueError, match=r"the terms' own parts .* before the layers are found: make the Distiller with"
        ):
            waiting.load_state_dict(state, strict=strict)
    with pytest.raises(ValueError, match="the terms' own parts"):
        nn.ModuleDict({"inner": waiting}).load_state_dict({f"inner.{key}": value for key, value in state.items()})
    waiting.build(POINTS[:2])
    waiting.load_state_dict(state)
    only = Distiller(nn.Linear(4, 3), nn.Linear(4, 3), ["kd"])
    only.load_state_dict(Distiller(nn.Linear(4, 3), nn.Linear(4, 3), ["kd"], example=POINTS[:2]).state_dict())

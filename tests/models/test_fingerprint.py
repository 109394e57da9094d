"""Two models that answer otherwise have two fingerprints, wherever they differ; one model has one everywhere."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence import Distiller, FitOptions, TeacherCache, Term
from congruence.core.fingerprint import fingerprint
from congruence.models.fingerprint import model_fingerprint
from congruence.models.teacher import Teacher

POINTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


class Holds(nn.Module):
    """A layer, and something beside it."""

    def __init__(self, name, value):
        super().__init__()
        self.layer = linear()
        if isinstance(value, torch.Tensor) and name == "buffer":
            self.register_buffer(name, value, persistent=False)
        else:
            setattr(self, name, value)

    def forward(self, inputs):
        return self.layer(inputs)


class Louder(Holds):
    loud = 2.0


Louder.__name__ = "Holds"


class Extra(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.layer, self._kept = linear(), [scale]

    def get_extra_state(self):
        return {"scale": self._kept[0], "more": (torch.ones(2) * self._kept[0],)}

    def set_extra_state(self, state):
        self._kept = [state["scale"]]


class Session:
    """Runs a model that it was given as bytes; what it makes of them is its own."""

    def __init__(self, content):
        self._model_bytes, self._handle = content, (number for number in range(3))

    def run(self, inputs):
        return inputs


class FromFile:
    def __init__(self, path):
        self._model_path, self._handle = str(path), (number for number in range(3))


class Proto:
    __slots__ = ("content", "handle")

    def __init__(self, content):
        self.content, self.handle = content, (number for number in range(3))

    def SerializeToString(self):
        return self.content


class Python:
    def __init__(self, weight):
        self.run = lambda inputs: inputs @ weight
        self.self = self


class Saves:
    def __init__(self, content):
        self.content, self.handle = content, (number for number in range(3))

    def __getstate__(self):
        return {"content": self.content}


class Slots:
    __slots__ = ("_weight",)

    def __init__(self, weight):
        self._weight = weight


def dynamic(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear(seed), nn.ReLU()), {nn.Linear})


def hooked(hook):
    model = linear()
    model.register_forward_hook(hook)
    return model


def louder(scale):
    return lambda module, given, output: output * scale


def scripted(scale, how=lambda module: module):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = linear(), scale

        def forward(self, inputs):
            return self.layer(inputs) * self.scale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return how(torch.jit.script(Scaled().eval()))


def frozen(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.script(linear(seed).eval()))


def exported(scale):
    class Scaled(nn.Module):
        def forward(self, inputs):
            return inputs * torch.tensor([scale])

    return torch.export.export(Scaled(), (POINTS,)).module()


def same_state(model):
    model[0].load_state_dict(linear().state_dict())
    return model


PAIRS = {
    "dynamic int8": lambda k: dynamic(k),
    "a buffer that is not saved": lambda k: Holds("buffer", torch.ones(3) * k),
    "a tensor": lambda k: Holds("scale", torch.ones(3) * k),
    "an array": lambda k: Holds("scale", np.ones(3) * k),
    "an extra state": lambda k: Extra(k),
    "a session": lambda k: Holds("session", Session(b"model %d" % k)),
    "a message": lambda k: Holds("graph", Proto(b"model %d" % k)),
    "what it saves": lambda k: Holds("tokens", Saves(k)),
    "a closure": lambda k: Holds("session", Python(torch.ones(4, 4) * k)),
    "slots": lambda k: Holds("session", Slots(torch.ones(4) * k)),
    "a hidden module": lambda k: Holds("hidden", [linear(k)]),
    "a number": lambda k: Holds("scale", 1.0 + k),
    "a private number": lambda k: Holds("_scale", 1.0 + k),
    "a number of the class": lambda k: [Holds, Louder][k]("layers", 1),
    "names": lambda k: Holds("mode", ("mean", {"pool": ["max", "sum"][k]})),
    "a function": lambda k: Holds("activation", [F.relu, F.gelu][k]),
    "a lambda": lambda k: Holds("activation", [lambda x: x * 2, lambda x: x * 3][k]),
    "a lambda's sign": lambda k: Holds("activation", [lambda x: x * 2, lambda x: x + 2][k]),
    "a function in a function": lambda k: Holds(
        "activation", [lambda x: (lambda y: y)(x), lambda x: (lambda y: -y)(x)][k]
    ),
    "a hook": lambda k: hooked([lambda module, given, output: output * 2, lambda module, given, output: output * 3][k]),
    "a hook's number": lambda k: hooked(louder(1.0 + k)),
    "a partial": lambda k: Holds("activation", functools.partial(F.leaky_relu, negative_slope=0.1 * (k + 1))),
    "a class": lambda k: same_state(nn.Sequential(linear(), [nn.ReLU(), nn.Tanh()][k])),
    "a layer's number": lambda k: same_state(nn.Sequential(linear(), nn.LeakyReLU(0.1 * (k + 1)))),
    "a scripted number": lambda k: scripted(1.0 + k),
    "a frozen number": lambda k: scripted(1.0 + k, torch.jit.freeze),
    "frozen weights": frozen,
    "an exported constant": lambda k: exported(1.0 + k),
    "weights": linear,
}


@pytest.mark.parametrize("kind", PAIRS)
def test_models_are_told_apart(kind):
    first, again, second = PAIRS[kind](0), PAIRS[kind](0), PAIRS[kind](1)
    assert model_fingerprint(first) == model_fingerprint(again)
    assert model_fingerprint(first)[:2] != model_fingerprint(second)[:2]
    assert not model_fingerprint(first).unreadable


def test_a_session_of_a_file_is_the_file_s_content(tmp_path):
    found = []
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes(content)
        found.append(model_fingerprint(Holds("session", FromFile(tmp_path / folder / "model.onnx"))))
    (tmp_path / "b" / "model.onnx.data").write_bytes(b"weights")
    found.append(model_fingerprint(Holds("session", FromFile(tmp_path / "b" / "model.onnx"))))
    assert found[0] == found[1]
    assert len(set(found)) == 3


class Named(nn.Module):
    """Has no weights of its own, and a file's name."""

    def __init__(self, path):
        super().__init__()
        self.path = str(path)


def test_a_model_that_only_names_a_file_is_the_file_s_content(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        (tmp_path / name).write_bytes(content)
    first, second, third = (model_fingerprint(Named(tmp_path / name)) for name in "abc")
    assert first == third
    assert first.content != second.content


def test_plain_models_have_the_fingerprint_of_their_weights():
    for model in (linear(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.LSTM(3, 4)):
        assert model_fingerprint(model).content == fingerprint(model.state_dict())
    layer = nn.TransformerEncoderLayer(4, 2)
    assert model_fingerprint(layer).content == fingerprint(layer.state_dict())


def test_where_a_model_runs_and_what_it_counts_is_no_part_of_it():
    class Counts(Holds):
        def forward(self, inputs):
            self.calls = getattr(self, "calls", 0) + 1
            self.kept = inputs
            return super().forward(inputs)

    def taught(calls):
        model = Counts("lock", threading.Lock())
        for _ in range(calls):
            model(POINTS)
        teacher = Teacher(model)
        teacher.taps.probe(POINTS, training=False)
        before = teacher.fingerprint()
        teacher.read(POINTS, only=())
        assert teacher.fingerprint() == before
        return before

    assert taught(1) == taught(3)
    model = Holds("device", "cuda:0")
    model.path = "/home/a/model.pt"
    other = Holds("device", "cpu")
    other.path = "/home/b/model.pt"
    assert model_fingerprint(model) == model_fingerprint(other)
    model.train()
    assert model_fingerprint(model.requires_grad_(False)) == model_fingerprint(other)
    assert (
        model_fingerprint(torch.compile(linear(), backend="eager").eval()).structure
        == model_fingerprint(linear()).structure
    )


def all_but_exported():
    return [model_fingerprint(make(0))[:2] for kind, make in PAIRS.items() if "exported" not in kind]


def test_it_is_the_same_in_another_process():
    code = "import test_fingerprint as t; print(t.all_but_exported())"
    folders = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(all_but_exported())


# What cannot be read


class Opaque(nn.Module):
    def __init__(self, name=None):
        super().__init__()
        self.layer, self.session = linear(), Session(b"")
        if name is not None:
            self.fingerprint = name

    def forward(self, inputs):
        return self.layer(inputs)


def test_what_cannot_be_read_is_named_and_never_equal():
    first, second = model_fingerprint(Opaque()), model_fingerprint(Opaque())
    assert first.unreadable == ("session._handle (generator)",)
    assert first.content != second.content
    with pytest.raises(ValueError, match=r"holds session\._handle \(generator\), whose content cannot be read.*NAME"):
        first.readable("`TeacherCache`")
    for wrap in (lambda model: model, lambda model: nn.Sequential(nn.Identity(), model)):
        named = [model_fingerprint(wrap(Opaque(name))) for name in ("a", "a", "b")]
        assert named[0] == named[1]
        assert named[0].content != named[2].content
        assert not named[0].unreadable


def batches():
    images = torch.randint(256, (40, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    dataset = cg.data.ArrayDataset(images, torch.arange(40) % 3, classes=3, mean=[0.5], std=[0.5])
    return dataset, cg.data.loader(dataset, batch_size=8, seed=2)


def flat(model):
    return nn.Sequential(nn.Flatten(), model)


def cached(teacher, folder):
    dataset, train = batches()
    terms = [Term("kd", teacher_layer="output")]
    made = Distiller(TeacherCache(teacher, train, folder), flat(linear(5)), terms, example=dataset.batch([0, 1]))
    return made(*next(iter(train))).loss


@pytest.mark.parametrize(
    "kind", ["dynamic int8", "a buffer that is not saved", "a closure", "a class", "frozen weights"]
)
def test_a_cache_never_serves_another_teacher(kind, tmp_path):
    first = cached(flat(PAIRS[kind](0)), tmp_path)
    assert torch.equal(cached(flat(PAIRS[kind](0)), tmp_path), first)
    with pytest.raises(ValueError, match=r"was made of something else \(its teacher"):
        cached(flat(PAIRS[kind](1)), tmp_path)


def test_a_cache_of_an_unnamed_session_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`TeacherCache`: the teacher holds .*teacher\.fingerprint = 'NAME'"):
        cached(flat(Opaque()), tmp_path)
    assert cached(flat(Opaque("v1")), tmp_path) > 0
    with pytest.raises(ValueError, match="was made of something else"):
        cached(flat(Opaque("v2")), tmp_path)


def test_caches_from_before_go_on(tmp_path):

    cached(flat(linear()), tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["identity"]["teacher"] == fingerprint(flat(linear()).state_dict())
    del manifest["identity"]["teacher_structure"]
    path.write_text(json.dumps(manifest))
    assert cached(flat(linear()), tmp_path) > 0


def run(teacher, out, *, resume=False):
    dataset, train = batches()
    terms = [Term("kd", teacher_layer="output")]
    made = Distiller(flat(teacher), flat(linear(5)), terms, example=dataset.batch([0, 1]))

    def stop(event):
        if event.kind == "step" and event.step == 6 and not resume:
            raise KeyboardInterrupt

    return cg.fit(made, train, options=FitOptions(epochs=2, out=out, resume=resume, callbacks=(stop,)))


@pytest.mark.parametrize("kind", ["dynamic int8", "a buffer that is not saved", "a class"])
def test_a_run_does_not_resume_with_another_teacher(kind, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(PAIRS[kind](0), tmp_path)
    with pytest.raises(ValueError, match=r"holds another run .its teacher"):
        run(PAIRS[kind](1), tmp_path, resume=True)
    assert run(PAIRS[kind](0), tmp_path, resume=True).history


def test_a_run_with_an_unnamed_session_says_so_and_does_not_resume(tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        run(Opaque(), tmp_path / "a")
    assert any("This run cannot be resumed: the teacher holds" in line for line in caplog.messages)
    with pytest.raises(ValueError, match=r"its teacher is unknown .* see its attribute 'fingerprint'"):
        run(Opaque(), tmp_path / "a", resume=True)
    with pytest.raises(KeyboardInterrupt):
        run(Opaque("v1"), tmp_path / "b")
    assert run(Opaque("v1"), tmp_path / "b", resume=True).history


def test_runs_from_before_go_on(tmp_path):

    with pytest.raises(KeyboardInterrupt):
        run(linear(), tmp_path)
    path = tmp_path / "run.json"
    identity = json.loads(path.read_text())
    assert identity["teacher"] == fingerprint(flat(linear()).state_dict())
    del identity["teacher_structure"]
    path.write_text(json.dumps(identity))
    assert run(linear(), tmp_path, resume=True).history


def test_hooks_that_only_look_on_are_no_part_of_it():
    seen = {}

    def look(module, given, output):
        seen["output"] = output

    def gather(module, given, output):
        seen["last"] = output
        return output

    plain = model_fingerprint(linear())
    assert model_fingerprint(hooked(look)) == plain
    model = hooked(gather)
    before = model_fingerprint(model)
    model(POINTS)
    assert seen
    assert model_fingerprint(model) == before != plain

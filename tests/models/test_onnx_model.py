"""ONNX files as teachers: what is asked of onnxruntime, by a stand-in for it; and once the real one."""

import copy
import json
import os
import pickle
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from congruence import Distiller, Term, compare, data
from congruence.models import OnnxModel
from congruence.models.fingerprint import model_fingerprint
from congruence.teacher_cache import TeacherCache

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
SHAPES = {"x": ("tensor(float)", ["b", 4])}


class Meta(types.SimpleNamespace):
    pass


class Session:
    """Reads what it takes and gives from its file; it multiplies by WEIGHT."""

    def __init__(self, path, options, providers):
        self._model_path, self.options = path, options
        with open(path) as file:
            said = json.load(file)
        self.inputs = [Meta(name=name, type=kind, shape=shape) for name, (kind, shape) in said["inputs"].items()]
        self.outputs = said["outputs"]
        self.sizes = []

    def get_inputs(self):
        return self.inputs

    def get_outputs(self):
        return [Meta(name=name, shape=["b", 3]) for name in self.outputs]

    def run(self, names, fed):
        if "fails" in self.outputs:
            raise RuntimeError("a  node\nfailed.")
        x = fed[self.inputs[0].name]
        self.sizes.append(len(x))
        values = {"embedding": x, "logits": x @ WEIGHT, "total": np.asarray(x.sum()), "list": [x]}
        return [values[name] for name in self.outputs]


@pytest.fixture
def runtime(monkeypatch):
    module = types.ModuleType("onnxruntime")
    module.InferenceSession, module.SessionOptions = Session, types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


def file(folder, outputs=("embedding", "logits"), inputs=SHAPES, name="teacher.onnx"):
    path = folder / name
    path.write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
    return path


X = torch.linspace(-1, 1, 20).reshape(5, 4)


def test_outputs_come_by_name_and_a_single_one_alone(runtime, tmp_path):
    both = OnnxModel(file(tmp_path))(X)
    assert list(both) == ["embedding", "logits"]
    torch.testing.assert_close(both["logits"], X @ torch.from_numpy(WEIGHT))
    assert not both["logits"].requires_grad
    alone = OnnxModel(file(tmp_path, ["logits"]))
    assert torch.equal(alone(X), both["logits"])
    assert torch.equal(alone(x=X), both["logits"])
    assert torch.equal(alone(X.double()), both["logits"])
    assert torch.equal(alone(X.clone().requires_grad_()), both["logits"])
    assert list(alone.parameters()) == []
    assert (alone.inputs, alone.outputs) == (("x",), ("logits",))


def test_a_file_of_one_batch_size_runs_in_full_chunks(runtime, tmp_path):
    whole = OnnxModel(file(tmp_path))(X)
    model = OnnxModel(file(tmp_path, inputs={"x": ("tensor(float)", [2, 4])}, name="two.onnx"))
    for name, tensor in model(X).items():
        assert torch.equal(tensor, whole[name])
    assert model._session.opened.sizes == [2, 2, 2]
    assert torch.equal(model(X[:1])["logits"], whole["logits"][:1])


def test_its_parameters_are_left_out_of_a_comparison(runtime, tmp_path):
    model = OnnxModel(file(tmp_path))
    labels = torch.arange(len(X)) % 2
    found = compare(model, model, [(X, labels)])
    assert found.teacher_parameters is found.student_parameters is None
    assert "outside torch" in found.left_out["student_parameters"]


def test_threads(runtime, tmp_path):
    assert OnnxModel(file(tmp_path), threads=3)._session.opened.options.intra_op_num_threads == 3
    assert OnnxModel(file(tmp_path))._session.opened.options.intra_op_num_threads == torch.get_num_threads()


def test_copies_and_other_processes_open_it_anew(runtime, tmp_path):
    model = OnnxModel(file(tmp_path), threads=2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._session.opened is not model._session.opened
        assert other._session.opened.options.intra_op_num_threads == 2
        assert torch.equal(other(X)["logits"], model(X)["logits"])
        assert model_fingerprint(other) == model_fingerprint(model)


def test_a_fingerprint_is_of_the_file_and_of_the_weights_beside_it(runtime, tmp_path):
    path = file(tmp_path)
    first = model_fingerprint(OnnxModel(path))
    (tmp_path / "other").mkdir()
    assert model_fingerprint(OnnxModel(file(tmp_path / "other", name="renamed.onnx"))) == first
    (tmp_path / "teacher.onnx.data").write_bytes(b"12")
    beside = model_fingerprint(OnnxModel(path))
    assert beside.content != first.content
    (tmp_path / "teacher.onnx.data").write_bytes(b"13")
    assert model_fingerprint(OnnxModel(path)).content != beside.content
    file(tmp_path, ["logits"])
    assert model_fingerprint(OnnxModel(path)).content != beside.content
    assert not beside.unreadable


@pytest.mark.parametrize(
    ("outputs", "inputs", "given", "sentence"),
    [
        (["logits"], SHAPES, {"y": X}, r"takes x, got y\.$"),
        (["logits"], SHAPES, (X, X), r"takes x, got 2 by position\.$"),
        (["logits"], SHAPES, ([1.0],), r"takes a tensor as 'x', got list\.$"),
        (["logits"], SHAPES, (X.long(),), r"takes tensor\(float\) as 'x', got int64\.$"),
        (["logits"], SHAPES, (X[:, :3],), r"takes \[b, 4\] as 'x', got \[5, 3\]\.$"),
        (["logits"], SHAPES, (X[0],), r"takes \[b, 4\] as 'x', got \[4\]\.$"),
        (["list"], SHAPES, (X,), r"gives no tensor as 'list': export it without that\.$"),
        (["fails"], SHAPES, (X,), r"failed with a node failed"),
        (
            ["total"],
            {"x": ("tensor(float)", [2, 4])},
            (X,),
            r"do not say how to run a batch of 5: export it with a dyn",
        ),
        (
            ["logits"],
            {"x": ("tensor(float)", [2, 4]), "s": ("tensor(float)", [1])},
            (X, X[0, :1]),
            r"has fixed sizes \('x' \[2, 4\], 's' \[1\], 'logits' \['?b'?, 3\]\) that do not say",
        ),
    ],
)
def test_what_a_file_does_not_take_is_one_sentence(runtime, tmp_path, outputs, inputs, given, sentence):
    model = OnnxModel(file(tmp_path, outputs, inputs))
    with pytest.raises(ValueError, match=sentence):
        model(**given) if isinstance(given, dict) else model(*given)


def test_files_that_cannot_be_read(runtime, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"There is no ONNX file '.*absent.onnx'"):
        OnnxModel(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_text("{")
    with pytest.raises(ValueError, match=r"The ONNX file '.*damaged.onnx' cannot be read"):
        OnnxModel(tmp_path / "damaged.onnx")
    with pytest.raises(ValueError, match="`threads` must be None or a whole number >= 1, got 0"):
        OnnxModel(file(tmp_path), threads=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ValueError, match=r"is run by onnxruntime, which is not there: pip install 'congruence\[export\]'"
    ):
        OnnxModel(file(tmp_path))


def test_as_a_teacher_it_gives_the_outputs_that_say_what_they_are(runtime, tmp_path):
    student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    made = Distiller(OnnxModel(file(tmp_path)), student, ["kd", "pkt"], example=X)
    told = made.describe_layers()
    assert "teacher logits 'output[logits]' [5, 3]" in told["kd"]
    assert "teacher features 'output[embedding]' [5, 4]" in told["pkt"]
    made(X).loss.backward()
    assert student[0].weight.grad is not None
    alone = OnnxModel(file(tmp_path, ["logits"]))
    assert "teacher logits 'output' [5, 3]" in Distiller(alone, student, ["kd"], example=X).describe_layers()["kd"]
    with pytest.raises(
        ValueError, match=r"no 'features' to read, because the whole model is an ONNX file: .*output\[NAM"
    ):
        Distiller(alone, student, ["pkt"], example=X)
    Distiller(alone, student, [Term("pkt", teacher_layer="output")], example=X)


@pytest.mark.filterwarnings("ignore")
def test_the_real_one(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(4, 40), nn.ReLU()), nn.Linear(40, 3)

        def forward(self, x):
            hidden = self.body(x)
            return hidden, self.head(hidden)

    images = torch.randint(0, 255, (40, 1, 2, 2), dtype=torch.uint8)
    dataset = data.ArrayDataset(images, torch.arange(40) % 2, classes=2, mean=[0.5], std=[0.5])
    plain, x = Both().eval(), dataset.batch(list(range(5)))
    path = tmp_path / "teacher.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["embedding", "logits"]}
        torch.onnx.export(plain, (x[:2],), str(path), dynamic_shapes={"x": {0: "b"}}, verbose=False, **names)
    model = OnnxModel(path, threads=1)
    for given, expected in zip(model(x).values(), plain(x), strict=True):
        torch.testing.assert_close(given, expected)
    loader = data.loader(dataset, batch_size=8)
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    losses = [
        float(Distiller(teacher, student, ["kd", "pkt"], example=x).train()(*next(iter(loader))).loss)
        for teacher in (model, TeacherCache(model, loader, tmp_path / "cache", dtype="float32"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # Its large weights lie beside it, in a file that the fingerprint reads and that must be moved along.
    first, beside = model_fingerprint(model), tmp_path / "teacher.onnx.data"
    changed = bytearray(beside.read_bytes())
    changed[0] ^= 1
    beside.write_bytes(bytes(changed))
    assert model_fingerprint(model).content != first.content
    beside.unlink()
    with pytest.raises(ValueError, match="its large weights lie in a file beside it, which must be moved along"):
        OnnxModel(path)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_file_whose_answers_depend_on_the_batch_is_told_by_the_cache(tmp_path, caplog):
    onnx = pytest.importorskip("onnx")
    quantization = pytest.importorskip("onnxruntime.quantization")
    helper, random = onnx.helper, np.random.default_rng(0)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in ((4, 32), (32, 3))]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "w1"], ["logits"]),
    ]
    sizes = {"x": ["b", 1, 2, 2], "embedding": ["b", 32], "logits": ["b", 3]}
    values = {name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()}
    stored = [onnx.numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "net", [values["x"]], [values["embedding"], values["logits"]], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "plain.onnx")
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    images = torch.randint(0, 255, (40, 1, 2, 2), dtype=torch.uint8)
    dataset = data.ArrayDataset(images, torch.arange(40) % 2, classes=2, mean=[0.5], std=[0.5])
    loader = data.loader(dataset, batch_size=8)
    for name in ("plain", "int8"):
        caplog.clear()
        cache = TeacherCache(OnnxModel(tmp_path / f"{name}.onnx"), loader, tmp_path / name, dtype="float32")
        student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        Distiller(cache, student, ["kd"], example=dataset.batch([0, 1])).train()(*next(iter(loader)))
        assert ("depends on the other samples in its batch" in caplog.text) == (name == "int8")


def test_importing_it_imports_no_onnxruntime():
    code = "import sys, congruence.models; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0

"""Teachers from files of programs, in a configuration and in a run without one."""

import json
import warnings

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from congruence.bench.identity import settings
from congruence.cli.main import app
from congruence.config import from_values
from congruence.pipeline import RunContext, build_stage
from congruence.pipeline.build import _outputs
from congruence.pipeline.models import rebuild


class Net(nn.Module):
    def __init__(self, inputs=64, classes=10):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.fc = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.ReLU()), nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(self.body(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        (folder / "photos" / name).mkdir(parents=True)
        for each in range(8):
            pixels = torch.randint(0, 255, (8, 8), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / "photos" / name / f"{each}.png")
    for classes in (2, 10):
        model, example = Net(classes=classes).eval(), torch.randn(4, 1, 8, 8)
        shapes = {"x": {0: torch.export.Dim("batch", min=2)}}
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        torch.export.save(program, folder / f"teacher{classes}.pt2")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(model, example), folder / f"teacher{classes}.pt")
    return folder


@pytest.fixture
def files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def config(teacher, terms=("kd",), **more):
    stage = {
        "student": {"model": "cnn3"},
        "terms": [{"key": key} for key in terms],
        "teacher": {"model": teacher, **more},
    }
    stage["train"] = {"epochs": 1, "device": "cpu"}
    return from_values({"data": {"name": "digits"}, "stages": {"s": stage}}, "here")


def test_a_configuration_names_a_file_from_the_root_on(files):
    made = config("export:teacher10.pt2", ["kd", "pkt"])
    assert made.stages["s"].teacher.model == f"export:{files / 'teacher10.pt2'}"
    teacher = build_stage(made, "s", RunContext(trust=True)).models.teacher
    example = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(teacher(example), Net().eval()(example))
    script = build_stage(config("jit:teacher10.pt"), "s", RunContext(trust=True)).models.teacher
    torch.testing.assert_close(script(example), Net().eval()(example))
    assert settings(made, made.stages) is None


def test_students_of_unlabelled_data_get_the_classes_of_logits_among_several_outputs():
    class Both(Net):
        def forward(self, x):
            return {"embedding": self.body(x), "logits": super().forward(x)}

    assert _outputs(Both(classes=7), torch.randn(2, 1, 8, 8)) == 7
    assert _outputs(Net(classes=5), torch.randn(2, 1, 8, 8)) == 5


def test_what_can_run_code_needs_trust(files):
    for name in ("export:teacher10.pt2", "jit:teacher10.pt"):
        with pytest.raises(ValueError, match=r"The file of '.*' can run code: allow it with trust=True, or --trust\."):
            build_stage(config(name), "s", RunContext())
    with pytest.raises(ValueError, match=r"There is no ONNX file '.*none\.onnx'|is run by onnxruntime, which is not"):
        build_stage(config("onnx:none.onnx"), "s", RunContext())


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        (
            "onnx:t.onnx",
            {"weights": "w.pt"},
            r"teacher\.weights.*expected none beside 'onnx:.*t\.onnx', whose file says it",
        ),
        ("jit:t.pt", {"options": {"classes": 3}}, r"teacher\.options.*expected none beside 'jit:.*t\.pt'"),
        ("onx:t.onnx", {}, r"expected a name of the zoo or one that begins with jit:, export:, onnx:"),
    ],
)
def test_what_does_not_go_with_a_file(files, name, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        config(name, **more)


def test_a_student_is_built_again_from_its_file(files):
    described = {"model": f"jit:{files / 'teacher10.pt'}", "factory": None, "options": {}}
    assert len(list(rebuild(described, trust=True).parameters())) == 4


def test_a_run_without_a_configuration(files):
    words = ["distill", "--teacher", "export:teacher2.pt2", "--student", "cnn3", "--data", "photos", "--method", "pkt"]
    refused = CliRunner().invoke(app, [*words, "--epochs", "1", "--out", "out"])
    assert refused.exit_code != 0
    assert "can run code: allow it with trust=True, or --trust." in refused.stderr
    found = CliRunner().invoke(app, [*words, "--epochs", "1", "--out", "out", "--trust"])
    assert found.exit_code == 0, found.stderr
    assert "No --teacher-weights" not in found.stderr
    tested = json.loads((files / "out" / "test.json").read_text())
    again = json.loads(CliRunner().invoke(app, ["evaluate", "out", "--trust", "--json"]).stdout)
    assert again["teacher"] == pytest.approx(tested["teacher"])

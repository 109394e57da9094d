"""A model by a word: each kind of word, how it takes the data, and the sentence of a word that names nothing."""

import logging
import sys

import pytest
import torch
from _harness.configs import tiny
from torch import nn

from congruence import data, models, pipeline
from congruence.config import from_values
from congruence.pipeline.any_model import any_model

NETS = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))
"""


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("any") / "run"
    config = tiny("digits/pkt", 'data.name="digits"')
    pipeline.run(config, out)
    return out


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "any_nets.py").write_text(NETS)
    yield "any_nets:net"
    sys.modules.pop("any_nets", None)


def same(first, second):
    one, two = first.state_dict(), second.state_dict()
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def test_a_name_of_the_zoo_has_the_datas_classes_and_the_files_weights(tmp_path, digits):
    trained = models.build("cnn3", classes=10, in_channels=1)
    models.save_weights(trained.state_dict(), tmp_path / "w.safetensors")
    state = torch.get_rng_state()
    taker = any_model("cnn3", digits, who="the student", weights=tmp_path / "w.safetensors")
    assert same(taker.model, trained)
    assert not taker.model.training
    assert (taker.table, taker.name) == (None, "cnn3")
    assert same(any_model("cnn3", digits, who="x").model, any_model("cnn3", digits, who="x").model)
    assert torch.equal(torch.get_rng_state(), state)
    wide = models.build("cnn3", classes=25, in_channels=1)
    models.save_weights(wide.state_dict(), tmp_path / "wide.safetensors")
    assert same(any_model("cnn3", digits, who="x", weights=tmp_path / "wide.safetensors").model, wide)


def test_a_factory_is_called_where_it_is_trusted(nets, digits):
    assert any_model(nets, digits, who="the student", trust=True).model[3].out_features == 10
    with pytest.raises(ValueError, match="allow it with trust=True, or --trust"):
        any_model(nets, digits, who="the student")


def test_a_runs_folder_is_its_student_that_takes_images_as_it_was_trained(run, digits):
    taker = any_model(str(run), digits, who="the student")
    assert same(taker.model, pipeline.load_student(run))
    few = tuple(taker.model.trained_on["mean"])
    assert few != tuple(digits.train.mean)  # of 200 training images
    assert taker.table.mean == few
    teacher = any_model(str(run / "teacher"), digits, who="the teacher")
    assert same(teacher.model, pipeline.load_student(run / "teacher"))
    by_file = any_model("resnet8", digits, who="the teacher", weights=run / "student.safetensors")
    assert same(by_file.model, taker.model)
    assert by_file.table == taker.table


def test_a_run_of_several_students_is_asked_which(tmp_path, run, digits):
    for name in ("big", "small"):
        (tmp_path / f"student-{name}.safetensors").write_bytes((run / "student.safetensors").read_bytes())
    (tmp_path / "students.json").write_text(
        '{"big": {"model": "resnet8", "options": {"classes": 10, "in_channels": 1}}}'
    )
    with pytest.raises(ValueError, match=r"The student: the run in '.*' has the students big, small: say .*@NAME"):
        any_model(str(tmp_path), digits, who="the student")
    assert same(any_model(f"{tmp_path}@big", digits, who="x").model, pipeline.load_student(run))
    with pytest.raises(ValueError, match=r"has no student 'bog', only big, small. Did you mean 'big'"):
        any_model(f"{tmp_path}@bog", digits, who="the student")


def test_a_student_that_a_factory_made_is_made_again(tmp_path, nets, digits):
    student = {"factory": nets}
    config = tiny("digits/pkt").model_dump()
    stage = config["stages"]["student"] | {"student": student, "teacher": None, "terms": [{"key": "ce"}]}
    config = from_values({"name": "x", "data": config["data"], "stages": {"student": stage}}, "a test")
    pipeline.run(config, tmp_path / "run", trust=True)
    made = any_model(str(tmp_path / "run"), digits, who="the student", trust=True).model
    assert made[3].out_features == 10
    with pytest.raises(ValueError, match="factory 'any_nets:net' imports and runs your code"):
        any_model(str(tmp_path / "run"), digits, who="the student")


def test_a_program_in_a_file_is_a_model(tmp_path, digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.ones(2, 1, 8, 8),), dynamic_shapes=dynamic), path)
    for word in (f"export:{path}", str(path)):
        found = any_model(word, digits, who="the student", trust=True).model
        torch.testing.assert_close(found(torch.ones(3, 1, 8, 8)), net(torch.ones(3, 1, 8, 8)))
        with pytest.raises(ValueError, match=r"net.pt2' can run code: allow it with trust=True, or --trust"):
            any_model(word, digits, who="the student")


def test_a_folder_of_another_library_is_told_how_it_is_given(tmp_path, digits):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no run with a student: a folder of another library is given as hf:"):
        any_model(str(tmp_path), digits, who="the teacher")


@pytest.mark.parametrize(
    ("word", "weights", "sentence"),
    [
        ("resnet21", None, r"^The student must be a model of the zoo .*got 'resnet21'\. Did you mean .*'resnet20'"),
        ("no/such/run", None, r"^The student: there is no file and no folder 'no/such/run'\.$"),
        ("{folder}", None, r"^The student: the folder '.*' holds no run with a student \(no student.safetensors\)\.$"),
        ("{folder}/w.safetensors", None, r"^The student '.*' is a file: .*jit:.*--student-weights NAME=FILE"),
        (
            "{run}",
            "w.safetensors",
            r"^The student is the run in '.*', which has its weights: leave out 'w.safetensors'",
        ),
        ("cnn3", "{folder}/none.safetensors", r"^There is no weights file '.*none.safetensors'\.$"),
        ("cnn3", "{folder}/w.safetensors", r"cannot be read"),
        ("onnx:a.onnx", "w.safetensors", r"^The student 'onnx:a.onnx', weights: expected none beside 'onnx:"),
        ("no module:at all", None, r"^The student 'no module:at all': expected 'package.module:callable'"),
        ("jit:none.pt", None, "allow it with trust=True"),
        ("hf:/no/such", None, "There is no folder '/no/such'"),
    ],
)
def test_a_word_that_names_nothing_is_one_sentence(tmp_path, run, digits, word, weights, sentence):
    (tmp_path / "w.safetensors").write_text("no weights")
    places = {"folder": tmp_path, "run": run}
    weights = weights and weights.format(**places)
    with pytest.raises(ValueError, match=sentence) as error:
        any_model(word.format(**places), digits, who="the student", weights=weights)
    assert len(str(error.value).splitlines()) == 1


def test_a_configuration_that_cannot_be_read_is_told(run, tmp_path, digits, caplog):
    for file in run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.toml").write_text("[nothing]")
    with caplog.at_level(logging.WARNING, logger="congruence"):
        any_model(str(tmp_path), digits, who="the student")
    assert "how its student takes the data is not known" in caplog.text

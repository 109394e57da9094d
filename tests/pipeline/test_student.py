"""A run's student, in two lines of somebody else's program."""

import json

import pytest
import torch

from congruence import load_student
from congruence.models import build, save_weights
from congruence.pipeline.student import write_students
from congruence.training.saving.run_directory import RunDirectory


@pytest.fixture
def run_dir(tmp_path):
    torch.manual_seed(0)
    options = {"classes": 10, "in_channels": 1}
    model = build("resnet8", **options)
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    write_students(RunDirectory(tmp_path), {"student": {"model": "resnet8", "factory": None, "options": options}})
    return tmp_path


def test_a_zoo_model_is_rebuilt(run_dir):
    student = load_student(run_dir)
    assert not student.training
    assert torch.equal(
        student.fc.weight, load_student(str(run_dir), lambda: build("resnet8", classes=10, in_channels=1)).fc.weight
    )


def test_an_instance_serves_as_well(run_dir):
    model = build("resnet8", classes=10, in_channels=1)
    assert load_student(run_dir, model) is model


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"factory": lambda: build("resnet14", classes=10, in_channels=1)}, "do not fit ResNet: they lack"),
        ({"factory": lambda: build("resnet8", classes=7, in_channels=1)}, "differ in shape: 'fc.weight'"),
        ({"factory": lambda: 3}, "`factory` must be a callable that returns a torch module, got int"),
        ({"name": "other"}, "`name` must be one of student, got 'other'"),
        ({"last": True}, "There is no student in"),
    ],
)
def test_what_does_not_fit(run_dir, arguments, sentence):
    with pytest.raises(ValueError) as caught:
        load_student(run_dir, **arguments)
    assert sentence in str(caught.value)


def test_the_last_weights_are_another_file(run_dir):
    state = load_student(run_dir).state_dict()
    state["fc.bias"] = torch.ones(10)
    save_weights(state, run_dir / "student-last.safetensors")
    assert load_student(run_dir, last=True).fc.bias.sum() == 10
    assert load_student(run_dir).fc.bias.sum() != 10


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"There is no student in .*no student.safetensors"):
        load_student(tmp_path)


def test_a_factorys_student_needs_it_again(run_dir):
    described = {"student": {"model": None, "factory": "a:b", "options": {}}}
    (run_dir / "students.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"not a model of the zoo \('a:b' made it\): give what makes it"):
        load_student(run_dir)
    (run_dir / "students.json").unlink()
    with pytest.raises(ValueError, match="not a model of the zoo: give what makes it"):
        load_student(run_dir)


def test_a_truncated_file(run_dir):
    path = run_dir / "student.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read: it is cut short"):
        load_student(run_dir)

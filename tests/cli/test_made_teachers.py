"""Teachers and students that a factory makes: as the run had them, or told, and what fails in it is one sentence."""

import json
import sys

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from congruence.cli.main import app

SOURCE = """
from torch import nn

def net(num_classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, num_classes))

def sized(num_classes):
    return net(num_classes)

def broken():
    raise RuntimeError("no such file")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_nets.py").write_text(SOURCE)
    generator = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for each in range(8):
            pixels = torch.randint(0, 255, (8, 8), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{each}.png")
    yield tmp_path
    sys.modules.pop("made_nets", None)


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def distill(teacher="net", student="net", *more):
    names = ("--teacher", f"made_nets:{teacher}", "--student", f"made_nets:{student}")
    return invoke("distill", *names, "--data", "photos", "--epochs", "1", "--trust", "--out", "out", *more)


def test_a_teacher_without_weights_is_told_and_measured_again_as_it_was(mine, caplog):
    found = distill()
    assert found.exit_code == 0, found.stderr
    assert found.stderr.startswith("No --teacher-weights: the teacher is used as 'made_nets:net' returns it")
    tested = json.loads((mine / "out" / "test.json").read_text())
    torch.rand(3)  # what else the process draws does not count
    again = json.loads(invoke("evaluate", "out", "--trust", "--json").stdout)
    assert again["teacher"] == pytest.approx(tested["teacher"])
    assert again["student"] == pytest.approx(tested["best"])
    assert "another one" not in caplog.text
    run = json.loads((mine / "out" / "run.json").read_text())
    (mine / "out" / "run.json").write_text(json.dumps(run | {"teacher": "0123456789abcdef"}))
    assert invoke("evaluate", "out", "--trust").exit_code == 0
    assert "The teacher is another one than that of the run in 'out': its numbers, and the coherence" in caplog.text


def test_a_head_that_no_term_taught_has_no_entropy_in_evaluate(mine):
    found = distill("net", "net", "--method", "pkt", "--set", "stages.student.terms=[{key='pkt'}]")
    assert found.exit_code == 0, found.stderr
    again = json.loads(invoke("evaluate", "out", "--trust", "--json").stdout)
    assert (again["student"]["accuracy"], again["student"]["soft_label_entropy"]) == (None, None)
    assert again["teacher"]["soft_label_entropy"] is not None


@pytest.mark.parametrize(
    ("student", "more", "sentence"),
    [
        (
            "sized",
            (),
            "cannot be called with the options {}: missing a required argument: 'num_classes'; its arguments",
        ),
        ("broken", (), "The factory 'made_nets:broken' failed with RuntimeError: no such file."),
    ],
)
def test_a_factory_that_cannot_make_its_model_is_one_sentence(mine, student, more, sentence):
    found = distill("net", student, *more)
    assert found.exit_code == 2
    assert sentence in found.stderr
    assert not (mine / "out" / "metrics.jsonl").exists()
    taken = distill("net", "sized", "--set", "stages.student.student.options.num_classes=2")
    assert taken.exit_code == 0, taken.stderr


def test_too_few_images_for_a_test_split_leave_the_student(mine):
    for name in ("one", "two"):
        for path in sorted((mine / "photos" / name).iterdir())[1:]:
            path.unlink()
    found = distill()
    assert found.exit_code == 0, found.stderr
    assert "The data holds no test images: no test numbers were measured." in found.stderr
    assert "student: out/student.safetensors" in found.stdout

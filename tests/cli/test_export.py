"""`congruence export`: what it prints, and its one line for what cannot be."""

import json

import pytest
import torch
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.models import build, load_weights
from congruence.pipeline.student import write_students
from congruence.training.saving.run_directory import RunDirectory


@pytest.fixture
def run_dir(tmp_path):
    torch.manual_seed(0)
    options = {"classes": 10, "in_channels": 1}
    directory = RunDirectory(tmp_path / "digits-seed0", writes=True)
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        beside = RunDirectory(tmp_path / f"digits-seed{seed}", writes=True)
        own = {"best": {"accuracy": accuracy}, "last": {"accuracy": 0.4}}
        beside.test_file().write_text(json.dumps({**own, "teacher": {"accuracy": 0.9}}))
    directory.save_student("student", build("cnn3", **options).state_dict())
    write_students(directory, {"student": {"model": "cnn3", "factory": None, "options": options}})
    return directory.path


def test_weights_and_their_card(run_dir):
    command = ["export", str(run_dir), "--to", "safetensors"]
    done = CliRunner().invoke(app, [*command, "--license", "mit"])
    assert done.exit_code == 0, done.output
    folder = run_dir / "export-safetensors"
    assert f"safetensors: {folder / 'student.safetensors'} (0.06 MB)" in done.stdout
    assert "look them up before sharing" in done.stdout
    ours, theirs = (load_weights(each / "student.safetensors") for each in (run_dir, folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    card = (folder / "README.md").read_text()
    head = card.split("---\n")[1].splitlines()
    assert head == [
        "license: mit",
        "library_name: pytorch",
        "tags:",
        "- knowledge-distillation",
        "- congruence",
        "metrics:",
        "- accuracy",
    ]
    assert "| accuracy | 0.6000 ± 0.1414 (2 runs) | 0.9000 |" in card
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "holds files already" in again.stderr
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "onx"], "`export`: `to` must be one of onnx"),
        (["--to", "timm"], "The model is no model of timm (Cnn3)"),
        (["--to", "safetensors", "--student", "anna"], "`name` must be one of student, got 'anna'"),
        (["--to", "torch-export"], "What the model takes is not known"),
        (["--to", "torch-export", "--with-projection", "kd"], "has no term 'kd', only none."),
    ],
)
def test_one_line(run_dir, arguments, sentence):
    done = CliRunner().invoke(app, ["export", str(run_dir), *arguments])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1

"""A configuration with several teachers: an earlier stage's student and models, each with its head and its cache."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.config import load_config
from congruence.pipeline import run

CONFIG = """
name = "two"
[data]
name = "digits"
train_size = 60
[stages.big]
student = { model = "cnn3" }
terms = [{ key = "ce" }]
train = { epochs = 1, batch_size = 20, seed = 1 }
[stages.student]
student = { model = "cnn3", options = { width = 4 } }
teacher_cache = { views = 1, dtype = "float32" }
terms = [
    { key = "ce" },
    { key = "kd", teacher = "big" },
    { key = "pkt", teacher = "drawn", teacher_layer = "embed", weight = "balanced", share = 0.5 },
    { key = "rkd", weight = "balanced" },
]
train = { epochs = 2, batch_size = 20 }
[stages.student.teacher]
big = "big"
drawn = { model = "cnn3", options = { width = 6 } }
[stages.student.teacher_head.drawn]
width = 5
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "two.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    result = CliRunner().invoke(app, ["distill", str(config), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_each_term_learns_from_its_own(finished):
    out, said = finished
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    terms = {"ce", "kd", "pkt", "rkd:big.distance", "rkd:big.angle", "rkd:drawn.distance", "rkd:drawn.angle"}
    assert terms <= set(lines[0])
    assert {path.name for path in (out / "teacher-cache").iterdir()} >= {"big", "drawn"}
    assert (out / "teacher-head-drawn.safetensors").exists()
    assert "teacher 'big'" in said
    assert "best, big  best, drawn" in said


def test_test_numbers_are_beside_each(finished):
    out, _ = finished
    tested = json.loads((out / "test.json").read_text())
    assert set(tested) == {
        "best, big",
        "best, drawn",
        "last, big",
        "last, drawn",
        "teacher 'big'",
        "teacher 'drawn'",
    }
    assert tested["best, big"]["accuracy"] == tested["best, drawn"]["accuracy"]
    assert tested["best, big"]["gpcl"] != tested["best, drawn"]["gpcl"]


def test_evaluate_finds_them_again(finished):
    out, _ = finished
    result = CliRunner().invoke(app, ["evaluate", str(out), "--json"])
    assert result.exit_code == 0, result.output
    columns = json.loads(result.stdout)
    tested = json.loads((out / "test.json").read_text())
    for teacher in ("big", "drawn"):
        assert columns[f"student, {teacher}"]["gpcl"] == tested[f"best, {teacher}"]["gpcl"]
    assert "another one" not in result.output


def test_the_folder_reproduces_and_resumes(finished, tmp_path):
    out, _ = finished
    again = CliRunner().invoke(app, ["distill", str(out / "config.toml"), "--out", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    weights = [
        run(parse(folder), folder, resume=True)["student"].student.state_dict() for folder in (out, tmp_path / "again")
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def parse(folder):
    return load_config(folder / "config.toml")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('big = "big"\n', 'big = "bigg"\n', "stages.student.teacher.big"),
        ("[stages.student.teacher_head.drawn]", "[stages.student.teacher_head.drown]", "teacher_head.drown"),
        ("options = { width = 6 }", 'start_stage = "big"', "teacher.drawn.start_stage"),
        (
            '{ key = "kd", teacher = "big" }',
            '{ key = "kd", teacher = "huge" }',
            "names a teacher 'huge' that does not exist",
        ),
        ('drawn = { model = "cnn3",', 'drawn = { model = "cnn4",', "stages.student.teacher.drawn.model"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, before, after, sentence):
    assert before in CONFIG
    path = tmp_path / "c.toml"
    path.write_text(CONFIG.replace(before, after))
    result = CliRunner().invoke(app, ["distill", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())

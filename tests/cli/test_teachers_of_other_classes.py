"""The quick command with a teacher of other classes than the data has, and models of one's own in a plan."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from congruence.cli.main import app
from congruence.models import save_weights
from congruence.training.saving.run_directory import IN_FILE

MODELS = """
from torch import nn

def net(classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 6), nn.ReLU(), nn.Linear(6, classes))

def ten(classes=10):
    return net(classes, 1)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    for number in range(30):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 8 * number).save(path)
    (tmp_path / "own_nets.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    save_weights(model.state_dict(), tmp_path / "ten.safetensors")
    yield tmp_path
    sys.modules.pop("own_nets", None)


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def quick(weights, teacher, *more):
    given = ("--teacher", f"own_nets:{teacher}", "--teacher-weights", weights, "--student", "own_nets:net")
    return invoke("distill", *given, "--data", "photos", "--epochs", "1", "--trust", "--out", "out", *more)


def test_by_default_the_teacher_gets_a_classifier_of_the_datas_classes(mine):
    found = quick("ten.safetensors", "ten")
    assert found.exit_code == 0, found.stderr
    told = "The teacher has 10 classes, the data 2: a classifier of the data's classes is fitted on its features."
    assert " ".join(found.stderr.split()).startswith(told)
    stage = tomllib.loads((mine / "out" / "config.toml").read_text())["stages"]["student"]
    assert ([term["key"] for term in stage["terms"]], stage["teacher_head"]) == (["kd", "ce"], {"kind": "classifier"})
    tested = json.loads((mine / "out" / "test.json").read_text())
    assert tested["teacher"]["accuracy"] is not None
    again = invoke("evaluate", "out", "--trust", "--json")
    assert "another one than that of the run" not in again.stderr
    compared = json.loads(invoke("compare", "--student", "out", "--trust", "--json", "--no-report").stdout)
    assert compared["teacher"]["accuracy"] == pytest.approx(tested["teacher"]["accuracy"])
    found = json.loads(again.stdout)
    assert found["teacher"] == pytest.approx(tested["teacher"])
    assert found["student"] == pytest.approx(tested["best"])


def test_a_method_of_features_leaves_the_teachers_classes_out(mine, caplog):
    found = quick("ten.safetensors", "ten", "--method", "pkt")
    assert (found.exit_code, found.stderr) == (0, "")
    left_out = [line for line in caplog.messages if "are left out" in line]
    why = "the teacher's output has 10 columns, the data 2 classes"
    assert left_out == [f"The teacher's accuracy, agreement and entropy are left out: {why}."]
    tested = json.loads((mine / "out" / "test.json").read_text())
    assert tested["teacher"]["accuracy"] is None
    assert tested["best"]["accuracy"] is not None
    again = json.loads(invoke("evaluate", "out", "--trust", "--json").stdout)
    assert again["teacher"]["accuracy"] is None
    assert again["student"] == pytest.approx(tested["best"])


def test_a_method_of_logits_that_was_asked_for_is_refused_with_a_way(mine):
    found = quick("ten.safetensors", "ten", "--method", "pkt", "--method", "dist")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "The teacher has 10 classes, the data 2: 'dist' compares class logits" in found.stderr
    assert "--method queue_relation" in found.stderr
    assert not (mine / "out").exists()


def test_as_many_classes_of_other_names_are_other_ones(mine):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2))
    facts = json.dumps({"format": 1, "classes": 2, "class_names": ["x", "y"]})
    save_weights(net.state_dict(), mine / "xy.safetensors", {IN_FILE: facts})
    two = ("--set", "stages.student.teacher.options.classes=2")
    found = quick("xy.safetensors", "ten", *two)
    assert found.exit_code == 0, found.stderr
    assert "The teacher has the classes 'x', 'y', the data 'a', 'b'" in found.stderr
    assert "a classifier of the data's classes is fitted" in " ".join(found.stderr.split())
    save_weights(net.state_dict(), mine / "plain.safetensors")
    same = quick("plain.safetensors", "ten", *two, "--out", "same")
    assert (same.exit_code, same.stderr) == (0, "")
    assert '"kd"' in (mine / "same" / "config.toml").read_text()


def test_models_of_ones_own_in_a_plan(mine):
    (mine / "own.toml").write_text(
        """
[data]
name = "photos"
[stages.student]
student = { factory = "own_nets:net" }
teacher = { factory = "own_nets:ten", weights = "ten.safetensors" }
terms = [{ key = "ce" }, { key = "pkt" }]
train = { epochs = 1, device = "cpu", batch_size = 8 }
"""
    )
    (mine / "plan.toml").write_text('name = "own"\nseeds = [0]\n[methods]\npkt = "own.toml"\n')
    refused = invoke("bench", "plan.toml", "--out", "rows", "--workers", "0")
    assert refused.exit_code == 2
    assert "imports and runs your code: allow it with trust=True, or --trust." in refused.stderr
    found = invoke("bench", "plan.toml", "--out", "rows", "--workers", "0", "--trust")
    assert found.exit_code == 0, found.stderr
    assert "The best student by accuracy (pkt, seed 0): rows/cells/pkt-seed0/student.safetensors" in found.stdout

"""`--metric pkg:fn`: a metric of the user's own in a run's table and in a plan's."""

from __future__ import annotations

import json
import sys

import pytest
from _harness.configs import quick
from typer.testing import CliRunner

from congruence.cli.main import app

CODE = """
import torch


def errors(of):
    return (of.student_logits.argmax(1) != of.labels).double().mean()


def spread(of):
    return {"least": float(of.student_features.min()), "most": of.student_features.max(), "taught": None}


def fails(of):
    raise KeyError("no such thing")


def words(of):
    return "three"


def rows(of):
    return of.student_features


def accuracy(of):
    return 1.0


constant = 3
"""
FEW = ["data.train_size=200", "data.validation=20", "data.test=40", *quick(["teacher", "student"])]
SMALL = [word for value in [*FEW, 'stages.teacher.student={model="resnet8"}'] for word in ("--set", value)]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def own(*names):
    return ["--trust", *(word for name in names for word in ("--metric", f"my_metrics:{name}"))]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_metrics.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_metrics", None)


def test_it_is_in_a_runs_table_and_a_resumed_run_has_it_measured(here):
    assert invoke("distill", "digits/pkt", "--out", "run", *SMALL).exit_code == 0
    plain = json.loads((here / "run" / "test.json").read_text())
    result = invoke("distill", "digits/pkt", "--out", "run", "--resume", *own("errors"), *SMALL)
    assert result.exit_code == 0, result.stderr
    tested = json.loads((here / "run" / "test.json").read_text())
    for column in ("best", "last"):
        assert tested[column] == pytest.approx({**plain[column], "errors": 1 - plain[column]["accuracy"]})
    assert tested["teacher"] == plain["teacher"]
    (line,) = [line.split() for line in result.stdout.splitlines() if line.startswith("errors")]
    assert line == ["errors", *(f"{tested[column]['errors']:.4f}" for column in ("best", "last")), "-"]
    both = invoke("distill", "digits/pkt", "--out", "run", "--resume", *own("spread"), *SMALL)
    assert [line.split()[0] for line in both.stdout.splitlines() if "spread" in line] == ["spread.least", "spread.most"]
    best = json.loads((here / "run" / "test.json").read_text())["best"]
    assert best == {**tested["best"], "spread.least": best["spread.least"], "spread.most": best["spread.most"]} | {
        "spread.taught": None
    }
    measured = json.loads(invoke("evaluate", "run", "--json", *own("errors")).stdout)
    assert measured["student"] == pytest.approx(tested["best"])
    assert "errors" not in measured["teacher"]


def test_teach_has_it_too(here):
    result = invoke("teach", "digits/pkt", "--out", "taught", *own("errors"), *SMALL)
    assert result.exit_code == 0, result.stderr
    best = json.loads((here / "taught" / "test.json").read_text())["best"]
    assert best["errors"] == pytest.approx(1 - best["accuracy"])


PLAN = """
name = "one"
seeds = [0]
set = ["stages.teacher.student.model='resnet8'", "stages.teacher.train.epochs=1", "stages.student.train.epochs=1",
       "data.train_size=200"]
methods = { ce = "digits/ce" }
"""


def test_it_is_in_a_plans_table_and_cells_without_it_are_measured(here):
    (here / "plan.toml").write_text(PLAN)
    call = ("bench", "plan.toml", "--out", "out", "--workers", "1")
    plain = invoke(*call)
    assert plain.exit_code == 0, plain.stderr
    (before,) = map(json.loads, (here / "out" / "results.jsonl").read_text().splitlines())
    weights = here / "out" / "cells" / "ce-seed0" / "student.safetensors"
    trained = weights.stat().st_mtime_ns
    result = invoke(*call, *own("errors"))
    assert result.exit_code == 0, result.stderr
    (after,) = map(json.loads, (here / "out" / "results.jsonl").read_text().splitlines())
    assert after.pop("made") == before.pop("made")  # what decides the other numbers
    assert after == pytest.approx({**before, "errors": 1 - before["accuracy_best"]})
    assert weights.stat().st_mtime_ns == trained
    heading, _, teacher, ce = (line.split("|") for line in result.stdout.splitlines() if line.startswith("|"))
    column = [title.strip() for title in heading].index("errors")
    assert (teacher[column].strip(), ce[column].strip()) == ("–", f"{after['errors']:.3f}")
    refused = invoke(*call, "--metric", "my_metrics:errors")
    assert refused.exit_code == 2
    assert "The metric 'my_metrics:errors' imports and runs your code" in refused.stderr


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        (["--metric", "my_metrics:errors"], "'my_metrics:errors' imports and runs your code: allow it with trust"),
        (own("erors"), "The metric 'my_metrics:erors' is not there. Did you mean 'errors'"),
        (own("constant"), "The metric 'my_metrics:constant' must be callable, got int."),
        (own("accuracy"), "'my_metrics:accuracy' needs another name: a number is called 'accuracy' already."),
        (["--trust", "--metric", "errors"], "A metric is named package.module:function, got 'errors'."),
        (
            ["--trust", "--metric", "mine:errors"],
            "The metric 'mine:errors' cannot be imported: No module",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["distill", "teach"])
def test_what_cannot_be_measured_is_said_before_anything_runs(here, verb, metric, sentence):
    result = invoke(verb, "digits/pkt", "--out", "run", *metric, *SMALL)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert not (here / "run").exists()


def test_a_metric_that_fails_is_one_sentence(here):
    assert invoke("distill", "digits/pkt", "--out", "run", *SMALL).exit_code == 0
    for name, sentence in (
        ("fails", "The metric 'my_metrics:fails' failed: KeyError: 'no such thing'."),
        ("words", "The metric 'my_metrics:words' must return a number, several by name, or None, got str."),
        ("rows", "must return a number, several by name, or None, got a tensor of shape ["),
    ):
        result = invoke("evaluate", "run", *own(name))
        assert (result.exit_code, result.stdout) == (2, "")
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr

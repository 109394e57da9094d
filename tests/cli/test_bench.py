"""`congruence bench` and `demo`: the table, and where everything is."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from congruence.cli.bench import _best
from congruence.cli.main import app

PLAN = """
name = "two"
seeds = [0]
set = ["stages.teacher.student.model='resnet8'", "stages.teacher.train.epochs=1", "stages.student.train.epochs=1"]
[methods]
ce = "digits/ce"
kd = "digits/kd"
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    return lambda *words: CliRunner().invoke(app, words)


def test_bench_prints_its_table_and_where_the_student_is(call, tmp_path):
    found = call("bench", "plan.toml", "--out", "out", "--workers", "0", "--set", "data.train_size=200")
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["ce", "kd"]
    for row in rows:
        assert f"{100 * row['accuracy_best']:.1f}" in found.output
    assert "| teacher" in found.output
    assert "1/2  ce, seed 0" in found.output
    named = found.output.strip().splitlines()[-1].split(": ")[1]
    assert (tmp_path / named).is_file()


def test_the_best_without_accuracy_is_the_best_at_retrieval(call):
    label_free = ("stages.student.terms=[{key='pkt'}]", "stages.student.student={model='cnn3', options={width=4}}")
    settings = [word for setting in (*label_free, "data.train_size=200") for word in ("--set", setting)]
    found = call("bench", "plan.toml", "--out", "out", "--workers", "0", *settings)
    assert found.exit_code == 0, found.output
    assert "1/2  ce, seed 0: retrieval mAP 0." in found.output
    assert "The best student by retrieval mAP (ce, seed 0)" in found.output  # both are pkt here: the first of equals


@pytest.mark.parametrize(
    ("accuracies", "maps", "best"),
    [
        ((0.5, 0.7, 0.6), (0.9, 0.1, 0.2), ("accuracy", 1)),
        ((None, None, None), (0.1, None, 0.3), ("retrieval mAP", 2)),
        ((None, 0.9, None), (0.4, 0.1, 0.3), ("retrieval mAP", 0)),
        ((None, None), (None, None), None),
    ],
)
def test_which_is_best(accuracies, maps, best):
    rows = [{"accuracy_best": a, "retrieval_map": m} for a, m in zip(accuracies, maps, strict=True)]
    assert _best(rows) == best


def test_without_labels_the_best_is_the_most_coherent():
    rows = [{"accuracy_best": None, "retrieval_map": None, "gpcl": level} for level in (0.7, 0.9, None)]
    assert _best(rows) == ("GPCL", 1)


def test_unknown_plans_and_keys_are_one_line(call):
    found = call("bench", "demmo", "--out", "out")
    assert found.exit_code == 2
    assert "Did you mean 'demo'" in found.stderr
    found = call("bench", "plan.toml", "--out", "out", "--set", "stages.student.train.epoch=1")
    assert found.exit_code == 2
    assert "epochs" in found.stderr
    assert "Traceback" not in found.stderr
    found = call("bench", "plan.toml", "--out", "out", "--method", "kdd")
    assert found.exit_code == 2
    assert "The plan 'two' has no method 'kdd'. Did you mean 'kd'" in " ".join(found.stderr.split())


def test_torchrun_is_refused(call, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = call("bench", "demo", "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert done.stderr == (
        "A plan starts worker processes of its own (--workers, or --ray): start it without torchrun.\n"
    )
    assert not (tmp_path / "out").exists()


def test_what_is_kept_is_taken_over_and_said(call, tmp_path):
    few = ("--workers", "0", "--method", "ce", "--set", "data.train_size=200")
    assert call("bench", "plan.toml", "--out", "out", *few).exit_code == 0
    (tmp_path / "results").mkdir()
    shutil.copytree(tmp_path / "out", tmp_path / "results" / "two", ignore=shutil.ignore_patterns("*.safetensors"))
    found = call("bench", "plan.toml", "--out", "later", *few)
    assert found.exit_code == 0, found.output
    assert "1 teacher, 1 cell." in " ".join(found.output.split())
    assert "from kept results, without weights" in found.output
    assert not list((tmp_path / "later").rglob("*.safetensors"))


def test_demo_on_data_without_a_plan_or_not_fetched(call, monkeypatch, tmp_path):
    assert "Did you mean 'digits'" in call("demo", "--data", "digit").stderr
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "nothing"))
    found = call("demo", "--data", "cifar10")
    assert found.exit_code == 2
    assert "congruence data fetch cifar10" in found.stderr


def test_failed_cells_are_told_and_the_exit_status_is_1(call, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN + '[overrides]\nce = ["stages.student.train.optimizer.lr=1e30"]\n')
    words = ("bench", "plan.toml", "--out", "out", "--workers", "0", "--set", "data.train_size=100")
    before = call(*words, "--status")
    assert before.exit_code == 0, before.output
    assert not (tmp_path / "out").exists()
    found = call(*words)
    assert found.exit_code == 1, found.output
    printed = found.output.strip().splitlines()
    assert printed[-1] == (
        "1 of 2 cells failed, and the others are done: the same command with --retry runs them again."
    )
    assert any(line.startswith("failed: ce, seed 0: ") and "not finite" in line for line in printed)
    (line,) = (line for line in printed if line.startswith("| ce "))
    assert line.split("|")[-2].strip() == "failed: 1 of 1"
    assert "The best student by accuracy (kd, seed 0)" in found.output
    (tmp_path / "out" / "cells" / "kd-seed0" / "cell.json").unlink()
    status = [line.split("|")[1:-1] for line in call(*words, "--status").output.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line] for line in status[2:]] == [
        ["ce", "", "0", "0", "1", "0"],
        ["kd", "", "0", "0", "0", "1"],
        ["all", "", "0", "0", "1", "1"],
    ]

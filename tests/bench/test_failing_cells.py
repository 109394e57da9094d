"""What fails in a plan is a row with its reason; everything else goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from congruence.bench.halving import Halving
from congruence.bench.plan import Plan, Tune
from congruence.bench.runner import run_plan

QUICK = (
    "stages.teacher.student={model='cnn3', options={width=4}}",
    "stages.teacher.train.max_steps=2",
    "stages.student.student={model='cnn3', options={width=4}}",
    "stages.student.train.max_steps=2",
    "data.train_size=100",
)
OVERFLOWS = ("stages.student.train.optimizer.lr=1e30", "stages.student.train.max_steps=9")


def plan(**more):
    return Plan("small", {"ce": "digits/ce", "kd": "digits/kd"}, (0, 1), **{"overrides": QUICK, **more})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_failing_cell_is_a_row_with_its_reason_and_the_others_go_on(tmp_path):
    said, told = [], []
    wrong = plan(own={"ce": OVERFLOWS})
    found = run_plan(wrong, tmp_path, workers=0, report=lambda row, done, total: told.append((done, total)))
    assert [list(row) for row in found.failed] == [["method", "variant", "seed", "failed"]] * 2
    assert [(row["method"], row["seed"]) for row in found.failed] == [("ce", 0), ("ce", 1)]
    assert all("not finite" in row["failed"] and "\n" not in row["failed"] for row in found.failed)
    assert lines(found.path) == list(found.rows)
    assert [row["method"] for row in found.rows if "accuracy_best" in row] == ["kd", "kd"]
    assert told == [(done, 4) for done in range(1, 5)]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = run_plan(wrong, tmp_path, workers=0, say=said.append)
    assert again.rows == found.rows
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert said == [f"Failed in '{tmp_path}' before, and not run again: 2; `retry` runs them again."]
    for path in tmp_path.rglob("failed.json"):
        path.write_text(path.read_text().replace("not finite", "of old"))
    assert all("of old" in row["failed"] for row in run_plan(wrong, tmp_path, workers=0).failed)
    retried = run_plan(wrong, tmp_path, workers=0, retry=True)
    assert retried.rows == found.rows


def test_a_failing_teacher_fails_the_cells_that_need_it(tmp_path):
    other = {"good": (), "bad": ("stages.teacher.train.optimizer.lr=1e30", "stages.teacher.train.max_steps=9")}
    wrong, said = plan(variants=other), []
    found = run_plan(wrong, tmp_path, workers=0, say=said.append)
    assert {(row["method"], row["variant"]) for row in found.failed} == {("ce", "bad"), ("kd", "bad")}
    assert all(row["failed"].startswith("Its teacher failed: ") for row in found.failed)
    assert len(said) == 1
    assert said[0].startswith("A teacher failed: ")
    assert len(found.teachers) == 1
    before = sorted(path for path in tmp_path.rglob("metrics.jsonl"))
    assert run_plan(wrong, tmp_path, workers=0, say=said.append).rows == found.rows
    assert before == sorted(path for path in tmp_path.rglob("metrics.jsonl"))


METRIC = """
import os, pathlib, signal


def fatal(of):
    count = pathlib.Path(__file__).with_name("count")
    with open(count, "a") as file:
        file.write("x")
    if len(count.read_text()) <= int(os.environ["KILLS"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_worker_is_begun_again_twice(tmp_path, monkeypatch):
    (tmp_path / "killing.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KILLS", "9")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    one = Plan("killed", {"ce": "digits/ce"}, (0,), QUICK)
    found = run_plan(one, tmp_path / "out", workers=1, metrics=("killing:fatal",), trust=True)
    (row,) = found.rows
    why = f"Its process was killed (signal {int(signal.SIGKILL)}; there may be too little memory), 3 times."
    assert row == {"method": "ce", "variant": "", "seed": 0, "failed": why}
    assert len((tmp_path / "count").read_text()) == 3


def test_a_failing_trial_is_never_chosen():
    search = Halving(4, 2, 2, seed=9, ranges={"lr": (1e-3, 1e-2)})
    tuned = plan(tune=search, overrides=(*QUICK, "stages.student.train={epochs=2}"))
    rung = tuned.trials()
    of_ce = [trial for trial in rung if trial.method == "ce"]
    accuracies = {trial.trial: None if trial.method == "kd" or trial.candidate != 2 else 0.1 for trial in rung}
    later = tuned.next_trials(rung, accuracies)
    assert [(trial.method, trial.candidate) for trial in later] == [("ce", 2)]
    assert len(of_ce) == 4
    rows = {name: {"accuracy": accuracy} for name, accuracy in accuracies.items()}
    assert {cell.row: dict(cell.found) for cell in tuned.chosen(tuned.cells(), rung, rows)} == {
        "ce": dict(of_ce[2].found),
        "kd": {},
    }


def test_a_row_without_a_trial_that_lived_fails(tmp_path):
    unjudged = ("stages.student.terms=[{key='pkt'}]",)
    searched = plan(own={"kd": unjudged}, tune=Tune((1.0,), seed=9))
    found = run_plan(searched, tmp_path, workers=0)
    (trial,) = lines(tmp_path / "tuning.jsonl")
    assert trial["accuracy"] is None
    assert "found by validation accuracy" in trial["failed"]
    assert [row["failed"] for row in found.failed] == ["Every trial of its search failed."] * 2
    assert {row["method"] for row in found.failed} == {"kd"}

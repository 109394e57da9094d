"""The cell runner: each cell once, and results that are whole."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import congruence as cg
from congruence.bench import table
from congruence.bench.plan import Plan, Tune
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan
from congruence.config import load_config

SMALL = (
    "stages.teacher.student.model='resnet8'",
    "stages.teacher.train.epochs=1",
    "stages.student.train.epochs=1",
    "data.train_size=200",
)
SMALL_STUDENT = ("stages.student.student={model='cnn3', options={width=4}}",)


def plan(*overrides, methods=("ce", "pkt"), seeds=(0, 1)):
    return Plan("small", {method: f"digits/{method}" for method in methods}, seeds, (*SMALL, *overrides))


KERNEL_ERRORS = ["kernel_transfer_error", "logit_kernel_transfer_error", "cosine_kernel_transfer_error"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("plan")
    return run_plan(plan(), out, workers=0)


def test_one_line_a_method_and_seed(whole):
    lines = [json.loads(line) for line in whole.path.read_text().splitlines()]
    assert lines == list(whole.rows)
    assert [(row["method"], row["seed"]) for row in lines] == [("ce", 0), ("ce", 1), ("pkt", 0), ("pkt", 1)]
    shares = ["accuracy_best", "accuracy_last", "retrieval_map", "gpcl"]
    fidelity = [*KERNEL_ERRORS, "sliced_wasserstein", "soft_label_entropy"]
    for row in lines:
        own = ["method", "variant", "seed", "factor", *shares, *fidelity, "parameters", "seconds"]
        assert list(row)[: len(own)] == own
        assert all(0 <= row[key] <= 1 for key in shares)
        assert all(row[key] > 0 for key in fidelity)


def test_every_cell_leaves_its_student(whole):
    for folder, row in zip(whole.cells, whole.rows, strict=True):
        assert (folder / "config.toml").is_file()
        student = cg.load_student(folder)
        assert cg.models.count_parameters(student) == row["parameters"]


def test_finished_cells_are_not_redone(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.path.parent.rglob("*.safetensors")}
    told = []
    again = run_plan(plan(), whole.path.parent, workers=0, report=lambda row, done, total: told.append((done, total)))
    assert again.rows == whole.rows
    assert before == {path: path.stat().st_mtime_ns for path in whole.path.parent.rglob("*.safetensors")}
    assert len(told) == 4


def test_a_few_rows_at_a_time_leave_the_others_lines(whole, tmp_path):
    shutil.copytree(whole.path.parent, tmp_path / "out")
    for methods in (("pkt",), ("ce",)):
        some = run_plan(plan(methods=methods), tmp_path / "out", workers=0)
        assert [row["method"] for row in some.rows] == [*methods] * 2
        lines = [json.loads(line) for line in some.path.read_text().splitlines()]
        assert sorted(map(str, lines)) == sorted(map(str, whole.rows))
    names = [json.loads(line)["name"] for line in (tmp_path / "out" / "teachers.jsonl").read_text().splitlines()]
    assert names == ["teacher"]


def test_finished_cells_of_an_older_version_are_read_under_the_names_of_today(whole):
    teacher = whole.path.parent / "teachers" / next(iter(whole.teachers)) / "teacher.json"
    today = {path: path.read_text() for path in (teacher, *(folder / "cell.json" for folder in whole.cells))}
    younger = KERNEL_ERRORS[:2]

    def older(row):
        return {key: value for key, value in row.items() if key not in younger}

    for path, text in today.items():
        stored = json.loads(text)
        row = stored.get("result", stored)
        for name in younger:
            del row[name]
        row["kernel_transfer_error"] = row.pop("cosine_kernel_transfer_error")
        path.write_text(json.dumps(stored))
    again = run_plan(plan(), whole.path.parent, workers=0)
    for path, text in today.items():
        path.write_text(text)
    assert again.rows == tuple(map(older, whole.rows))
    assert again.teachers == {key: older(row) for key, row in whole.teachers.items()}


def test_a_cell_with_diagnostics_keeps_their_first_and_last(tmp_path):
    asked = ('diagnostics={measures=["gpcl"], losses=true, samples=30, every=2}', "stages.student.train.epochs=2")
    watching = {"watch": "digits/ce", "pkt": "digits/pkt"}
    terms = "stages.student.terms=[{key='ce'}, {key='pkt', weight=0.0, start_epoch=1}]"
    made = Plan("small", watching, (0,), (*SMALL, *SMALL_STUDENT, *asked), own={"watch": (terms,)})
    result = run_plan(made, tmp_path, workers=0)
    watch, pkt = (row["diagnosed"] for row in result.rows)
    assert list(watch["first"]) == ["gpcl", "loss/ce"]
    assert list(watch["last"]) == ["gpcl", "loss/ce", "loss/pkt"]
    assert list(pkt["first"]) == list(pkt["last"]) == ["gpcl", "loss/ce", "loss/pkt"]
    assert pkt["first"]["loss/pkt"] > pkt["last"]["loss/pkt"] > 0
    assert "diagnosed" not in table.text(table.cells(result.rows))


def test_lost_cells_come_again_to_the_same_numbers_in_workers(whole):
    kept = json.loads((whole.cells[2] / "cell.json").read_text())["result"]
    shutil.rmtree(whole.cells[2])
    again = run_plan(plan(), whole.path.parent, workers=1)
    assert {**again.rows[2], "seconds": 0} == {**kept, "seconds": 0}


def test_cells_of_one_teacher_share_its_rows(whole):
    teacher = whole.path.parent / "teachers" / next(iter(whole.teachers))
    assert len(list((teacher / "teacher-rows").iterdir())) == 2  # of the test and the training images, and no cell's
    assert not list(whole.path.parent.glob("cells/**/teacher-rows"))


def test_another_plan_is_refused_and_nothing_lost(whole):
    before = whole.path.read_bytes()
    with pytest.raises(ValueError, match="holds a cell of another plan or config: choose another --out"):
        run_plan(plan("stages.student.train.epochs=2"), whole.path.parent, workers=0)
    assert whole.path.read_bytes() == before


def test_weights_are_found_on_validation_and_used(tmp_path):
    tune = Tune((0.1, 1e30, 1.0), seed=9, overrides=("stages.student.train.max_steps=2",))
    tuned = dataclasses.replace(plan(seeds=(0,)), variants={"tiny": SMALL_STUDENT}, tune=tune)
    told = []
    results = run_plan(tuned, tmp_path, workers=0, report=lambda row, done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(1, 6)]  # three trials of pkt, and two cells
    trials = [json.loads(line) for line in (tmp_path / "tuning.jsonl").read_text().splitlines()]
    assert [(row["method"], row["variant"], row["seed"]) for row in trials] == [("pkt", "tiny", 9)] * 3
    assert trials[1] == {**trials[1], "factor": 1e30, "accuracy": 0.0, "diverged": True}
    assert all("accuracy_best" not in row for row in trials)  # no trial is measured on the test split
    best = max(trials, key=lambda row: row["accuracy"])["factor"]
    assert [row["factor"] for row in results.rows] == [1.0, best]
    weights = [term.weight for term in load_config(results.cells[1] / "config.toml").stages["student"].terms]
    assert weights == [1.0, 30000.0 * best]


def test_several_teachers_are_named_after_what_they_teach(whole, tmp_path):
    (alone,) = (json.loads(line) for line in (whole.path.parent / "teachers.jsonl").read_text().splitlines())
    assert alone["name"] == "teacher"
    other = {"plain": (), "longer": ("stages.teacher.train.epochs=2",)}
    results = run_plan(dataclasses.replace(plan(methods=("pkt",), seeds=(0,)), variants=other), tmp_path, workers=0)
    assert [row["name"] for row in results.teachers.values()] == ["teacher, pkt-plain", "teacher, pkt-longer"]
    kept = [json.loads(line) for line in (tmp_path / "teachers.jsonl").read_text().splitlines()]
    assert kept == list(results.teachers.values())
    assert kept[0]["accuracy_best"] == alone["accuracy_best"]


def test_cells_of_one_teacher_share_its_cache(tmp_path):
    cached = plan("stages.student.teacher_cache={views=2, seed=0}", methods=("pkt", "mimic"), seeds=(0, 1))
    results = run_plan(cached, tmp_path, workers=0)
    (cache,) = tmp_path.glob("teachers/*/cache-*")
    assert len(list(cache.glob("*.npy"))) == 1  # both methods read the embedding
    assert len(results.rows) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"overrides": (*SMALL, "stages.student.train.monitor=x")},
        {"own": {"pkt": ("stages.student.train.monitor=x",)}},
        {"tune": Tune((1.0,), seed=9, overrides=("stages.student.train.monitor=x",))},
    ],
)
def test_what_does_not_fit_is_found_before_a_teacher_is_trained(tmp_path, wrong):
    with pytest.raises(ValueError, match="`monitor` must be one of accuracy, loss, got 'x'"):
        run_plan(dataclasses.replace(plan(), **wrong), tmp_path, workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [-3, 1.5, True])
def test_workers_are_a_whole_number(tmp_path, workers):
    with pytest.raises(ValueError, match=rf"`run_plan`: `workers` must be an integer >= 0 or None, got {workers}\.$"):
        run_plan(plan(), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="children are found in /proc")
def test_workers_end_with_a_killed_runner(tmp_path):
    """They would go on training, and write into the folders of the run that takes over."""
    endless = (*SMALL, "stages.student.train.epochs=100000")
    script = f"""
from pathlib import Path
from congruence.bench.plan import Plan
from congruence.bench.runner import run_plan
if __name__ == "__main__":
    run_plan(Plan("endless", {{"ce": "digits/ce"}}, (0,), {endless!r}), Path({str(tmp_path / "out")!r}), workers=1)
"""
    (tmp_path / "endless.py").write_text(script)
    runner = subprocess.Popen([sys.executable, tmp_path / "endless.py"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = tmp_path / "out" / "cells" / "ce-seed0" / "metrics.jsonl"
    waited(lambda: metrics.exists() and metrics.read_text())
    workers = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    assert workers
    runner.kill()
    runner.wait()
    waited(lambda: not any(running(worker) for worker in workers))


def waited(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(process):
    path = Path("/proc", process, "stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_demo_has_what_it_promises():
    demo = load_plan("demo")
    assert list(demo.recipes) == ["ce", "kd", "cckd", "pkt", "perception_coherence"]
    assert len(demo.seeds) == 3


def test_students_that_teach_each_other_are_a_row_with_the_first_ones_numbers(tmp_path):
    few = ("stages.student.train.epochs=1", "data.train_size=200")
    result = run_plan(Plan("mutual", {"dml": "digits/dml"}, (0,), few), tmp_path, workers=0)
    (row,), (folder,) = result.rows, result.cells
    assert {path.name for path in folder.glob("student-*")} >= {
        "student-first.safetensors",
        "student-second.safetensors",
    }
    first = cg.load_student(folder, name="first")
    splits = cg.data.load("digits", train_size=200)
    logits = first(splits.test.batch(range(len(splits.test))))
    assert row["accuracy_best"] == (logits.argmax(1) == splits.test.labels).double().mean().item()
    assert row["gpcl"] is None


def test_a_student_without_labels_has_no_accuracy_but_retrieval(tmp_path):
    only = "stages.student.terms=[{key='pkt'}]"
    found = run_plan(plan(SMALL_STUDENT[0], only, seeds=(0,), methods=("pkt",)), tmp_path, workers=0)
    (row,) = found.rows
    assert (row["accuracy_best"], row["accuracy_last"]) == (None, None)
    assert 0 < row["retrieval_map"] < 1
    (teacher,) = found.teachers.values()
    assert 0 < teacher["accuracy_best"] <= 1
    lines = [json.loads(line) for line in (found.cells[0] / "metrics.jsonl").read_text().splitlines()]
    (validated,) = [line["validation"] for line in lines if "validation" in line]
    assert list(validated) == ["loss"]


def test_classes_that_nobody_saw(tmp_path):
    open_set = ("stages.student.terms=[{key='kda', landmarks='clusters', count=5, warmup=0}]", "data.test_classes=3")
    found = run_plan(plan(SMALL_STUDENT[0], *open_set, seeds=(0,), methods=("kda",)), tmp_path, workers=0)
    (row,), (teacher,) = found.rows, found.teachers.values()
    for numbers in (row, teacher):
        assert (numbers["accuracy_best"], numbers["accuracy_last"]) == (None, None)
        assert 0 < numbers["retrieval_map"] < 1


def test_one_of_several_students_of_a_stage_teaches(tmp_path):
    """Two teachers that taught each other are two teachers: each with its own weights, numbers and name."""
    recipe = """
        [data]
        name = "digits"
        train_size = 200
        [stages.mutual]
        student = { anna = { model = "cnn3", options = { width = 9 } }, ben = { model = "cnn3" } }
        terms = [{ key = "ce" }, { key = "dml" }]
        train = { epochs = 1 }
        [stages.student]
        teacher = "mutual/TEACHER"
        student = { model = "cnn3", options = { width = 4 } }
        terms = [{ key = "kd" }]
        train = { epochs = 1 }
    """
    for name in ("anna", "ben"):
        (tmp_path / f"{name}.toml").write_text(recipe.replace("TEACHER", name))
    recipes = {name: str(tmp_path / f"{name}.toml") for name in ("anna", "ben")}
    results = run_plan(Plan("mutual", recipes, (0,)), tmp_path / "out", workers=0)
    sizes = {key.rpartition("-")[2]: row["parameters"] for key, row in results.teachers.items()}
    assert sizes["anna"] > sizes["ben"]
    assert [row["name"] for row in results.teachers.values()] == ["teacher, anna", "teacher, ben"]
    assert all(row["gpcl"] is not None for row in results.rows)

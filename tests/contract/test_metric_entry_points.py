"""A number that an installed package adds is in every table, of whatever process; a wrong one is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import congruence

MODULE = """
from congruence.evaluation import Number


def errors(of):
    rows, labels = of.labelled()
    return (of.student_logits[rows].argmax(1) != labels).double().mean()


ROW = Number("errors", errors, ("labels", "student_logits"), title="errors (%)", label="wrong", scale=100.0, digits=1)
TWICE = Number("gpcl", errors)
OTHER = (ROW,)
"""
PLAN = """
name = "one"
seeds = [0]
set = ["stages.teacher.student.model='resnet8'", "stages.teacher.train.epochs=1", "stages.student.train.epochs=1",
       "data.train_size=200"]
methods = { ce = "digits/ce" }
"""
RUN = ["stages.teacher.train.max_steps=1", "stages.student.train.max_steps=1", 'diagnostics.measures=["errors"]']


@pytest.fixture
def installed(tmp_path):
    """Do as if a package with entry points were installed; gives what runs the program there."""

    def install(entry_point):
        info = tmp_path / "outside-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[congruence.metrics]\n{entry_point}\n")
        (tmp_path / "outside.py").write_text(MODULE)
        paths = os.pathsep.join([str(tmp_path), str(Path(congruence.__file__).parents[1])])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return lambda *words: subprocess.run(
            [sys.executable, "-m", "congruence", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return install


def test_a_packages_number_is_in_every_table(installed, tmp_path):
    call = installed("errors = outside:ROW")
    done = call("distill", "digits/pkt", "--out", "run", *(word for value in RUN for word in ("--set", value)))
    assert done.returncode == 0, done.stderr
    tested = json.loads((tmp_path / "run" / "test.json").read_text())
    assert {column: numbers["errors"] for column, numbers in tested.items()} == pytest.approx(
        {column: 1 - numbers["accuracy"] for column, numbers in tested.items()}
    )
    printed = [f"{tested[column]['errors']:.4f}" for column in ("best", "last", "teacher")]
    assert ["wrong", *printed] in [line.split() for line in done.stdout.splitlines()]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [set(record["diagnostics"]) for record in records if "diagnostics" in record] == [{"errors"}]

    (tmp_path / "plan.toml").write_text(PLAN)
    done = call("bench", "plan.toml", "--out", "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert row["errors"] == pytest.approx(1 - row["accuracy_best"])
    heading, _, teacher, ce = (line.split("|") for line in done.stdout.splitlines() if line.startswith("|"))
    column = [title.strip() for title in heading].index("errors (%)")
    assert ce[column].strip() == f"{100 * row['errors']:.1f}"
    assert teacher[column].strip() != "–"


@pytest.mark.parametrize(
    ("entry_point", "sentence"),
    [
        ("mine = outside:OTHER", "The entry point 'mine' of congruence.metrics must name a Number, got tuple."),
        ("mine = outside:TWICE", "The table of numbers has two rows with the key 'gpcl'."),
        ("a = outside:ROW\nb = outside:ROW", "The table of numbers has two rows with the key 'errors'."),
    ],
)
def test_a_package_with_a_wrong_number_is_refused(installed, entry_point, sentence):
    call = installed(entry_point)
    done = call("distill", "digits/pkt", "--out", "run")
    assert (done.returncode, done.stderr) == (2, f"{sentence}\n")

"""What the models of a plan cost: of each kind once, in the plan's folder and its table."""

from __future__ import annotations

import json

import pytest
from _harness.plans import TINY

from congruence.bench import costs, front
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan
from congruence.bench.table import cells

VARIANTS = """
[variants]
narrow = ["stages.student.student={model='cnn3', options={width=4}}"]
wide = ["stages.student.student={model='cnn3', options={width=8}}"]
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "two.toml").write_text(TINY + VARIANTS)
    plan = load_plan(str(folder / "two.toml")).only(methods=["ce"])
    return plan, run_plan(plan, folder / "runs", workers=0), folder / "runs"


def test_each_kind_is_measured_once_and_its_rows_have_it(ran, monkeypatch):
    plan, results, out = ran
    (out / costs.FILE).unlink(missing_ok=True)
    rows, teachers = costs.with_costs(results.rows, results.teachers, plan.cells(), out)
    narrow, wide = (row["cost"] for row in rows)
    assert len(json.loads((out / costs.FILE).read_text())) == 2  # the teacher is of the narrow kind
    assert [narrow["parameters"], wide["parameters"]] == [row["parameters"] for row in results.rows]
    of_weights = 4 * narrow["parameters"] / 1e6
    assert of_weights < narrow["weights_mb"] < of_weights + 0.002  # and what batch norms hold
    assert wide["multiply_adds"] > 3 * narrow["multiply_adds"] > 0
    assert all(cost[f"latency_{size}_ms"] > 0 for cost in (narrow, wide) for size in costs.BATCHES)
    assert [row["cost"] for row in teachers.values()] == [narrow]
    monkeypatch.setattr(costs, "costs", None)  # a second time it is read
    assert costs.with_costs(results.rows, results.teachers, plan.cells(), out) == (rows, teachers)


def test_a_damaged_file_is_measured_again(ran):
    plan, results, out = ran
    (out / costs.FILE).write_text("{")
    rows, _ = costs.with_costs(results.rows, {}, plan.cells(), out)
    assert rows[0]["cost"]["parameters"] == results.rows[0]["parameters"]


def test_a_model_that_cannot_be_built_is_left_out(ran, tmp_path, monkeypatch):
    plan, results, _ = ran

    def refuse(table, **_):
        raise ValueError("no weights here")

    monkeypatch.setattr(costs, "build_model", refuse)
    rows, _ = costs.with_costs(results.rows, {}, plan.cells(), tmp_path)
    assert [row["cost"] for row in rows] == [{"left_out": "no weights here"}] * 2
    heading, *lines = cells(rows)
    assert heading[-1] == "parameters"
    assert len({len(line) for line in lines} | {len(heading)}) == 1


def test_columns_stand_behind_the_parameters(ran, tmp_path):
    _, results, _ = ran
    cost = {"weights_mb": 1.234, "multiply_adds": 5_600_000, "latency_1_ms": 0.5, "latency_64_ms": 1234.5}
    heading, first, second = cells([{**results.rows[0], "cost": cost}, {**results.rows[1], "method": "other"}])
    at = heading.index("parameters")
    assert heading[at + 1 :] == ["MB", "10⁶ multiply-adds", "ms, batch of 1", "ms, batch of 64"]
    assert first[at + 1 :] == ["1.23", "5.60", "0.50", "1,234.5"]
    assert second[at + 1 :] == ["–"] * 4


def test_the_front_goes_by_any_cost():
    def row(method, accuracy, parameters, time):
        return {"method": method, "accuracy_best": accuracy, "parameters": parameters, "cost": {"latency_1_ms": time}}

    rows = [row("narrow", 0.6, 10, 5.0), row("shallow", 0.7, 20, 3.0)]
    assert front.front(rows) == [("narrow", ""), ("shallow", "")]
    assert front.front(rows, cost="latency_1_ms") == [("shallow", "")]
    by_size, by_time = front.told(rows).splitlines()
    assert by_size.endswith("with as few parameters as: narrow, shallow.")
    assert by_time.endswith("in as short a time as: shallow.")

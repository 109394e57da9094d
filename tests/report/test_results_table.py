"""Numbers as tables of the page."""

import pytest

from congruence.evaluation.comparison import Comparison, Comparisons
from congruence.report.results_table import of_comparison, of_plan, of_runs


def row(method, seed, accuracy, **more):
    return {"method": method, "variant": "", "seed": seed, "accuracy_best": accuracy, "parameters": 1200, **more}


ROWS = [row("ce", 0, 0.50), row("ce", 1, 0.60), row("kd", 0, 0.70), row("kd", 1, 0.78), row("pkt", 0, 0.5)]


def column(table, title):
    place = [each for each, _ in table.columns].index(title)
    return {name: cells[place] for name, _, cells in table.rows}


def test_a_plans_rows_are_means_beside_the_baseline():
    failed = {"method": "kd", "variant": "", "seed": 2, "failed": "It was killed."}
    table = of_plan([*ROWS, failed], [{"name": "teacher", "accuracy_best": 0.9, "parameters": 9000}], "ce", "few")
    cells = column(table, "accuracy, best (%)")
    assert table.title == "few"
    assert [(name, kind) for name, kind, _ in table.rows][:2] == [("teacher", "teacher"), ("ce", "student")]
    assert (cells["ce"].text, cells["ce"].more) == ("55.0 ± 7.1", "")
    assert cells["kd"].value == pytest.approx(74.0)
    # Differences 20 and 18: mean 19 ± t(0.975, 1) · 1, p of t = 19 with one degree of freedom, one comparison.
    assert cells["kd"].more == "+19.0 [+6.3, +31.7], p 0.033"
    assert (cells["pkt"].text, cells["pkt"].more) == ("50.0", "+0.0")
    assert (cells["teacher"].text, cells["teacher"].more) == ("90.0", "")
    assert column(table, "parameters")["teacher"].text == "9,000"
    assert "to ce, seed by seed" in table.note


def test_what_a_student_costs_and_what_a_paper_has_stand_beside():
    cost = {"multiply_adds": 2_500_000, "latency_1_ms": 1.234, "weights_mb": None}
    table = of_plan([row("ce", 0, 0.5, cost=cost, published={"accuracy_best": "51 ± 2"}), row("kd", 0, 0.6)], [], None)
    assert [title for title, _ in table.columns][2:] == ["10⁶ multiply-adds", "ms, batch of 1"]
    assert [cell.text for cell in table.rows[0][2][2:]] == ["2.50", "1.23"]
    assert table.rows[0][2][0].published == "51 ± 2"
    assert [cell.text for cell in table.rows[1][2][2:]] == ["–", "–"]
    assert table.rows[1][2][0].published == ""


def test_without_a_baseline_there_are_no_differences():
    table = of_plan(ROWS, [], "mmd")
    assert {cell.more for _, _, cells in table.rows for cell in cells} == {""}
    assert table.note == ""


def test_runs_have_the_columns_that_somebody_has():
    table = of_runs({"a, best": {"accuracy": 0.5, "gpcl": None, "mine": 0.25}, "teacher": {"accuracy": 0.75}})
    assert [title for title, _ in table.columns] == ["accuracy", "mine"]
    assert [(name, kind) for name, kind, _ in table.rows] == [("a, best", "student"), ("teacher", "teacher")]
    assert [cell.text for cell in table.rows[1][2]] == ["0.7500", "–"]


def test_a_comparison_has_its_teacher_first():
    found = Comparisons({"small": Comparison(9, 0.5, 0.25, 0.5, 0.75, 4000, 10)}).to_dict()
    table = of_comparison(found)
    assert [name for name, _, _ in table.rows] == ["teacher", "small"]
    assert column(table, "accuracy (%)")["small"].text == "25.0"
    assert column(table, "GPCL")["teacher"].text == "–"
    assert dict(table.columns)["accuracy (%)"] is True
    assert dict(table.columns)["parameters"] is False

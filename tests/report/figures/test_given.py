"""What figures are drawn from: folders, rows by setting, curves by epoch."""

import json
import math
import statistics

import pytest

from congruence.report.figures.given import Given, by_epoch
from congruence.report.figures.panels import curves, look, panels
from congruence.report.figures.spots import Spot, numbered, several, spots, swept


def row(variant, seed, value, method="kda", plan="p"):
    return {"method": method, "variant": variant, "seed": seed, "gpcl": value, "plan": plan}


def test_spots_are_the_seeds_of_each_setting():
    rows = [row("b", 0, 0.5), row("a", 0, 0.1), row("a", 1, 0.4), row("other", 0, 9.0), row("a", 2, None)]
    rows.append(row("a", 3, math.nan))
    (found,) = spots(rows, {"a": "first", "b": "second"}, "gpcl", scale=10).values()
    assert found == [Spot("first", (1.0, 4.0), "p"), Spot("second", (5.0,), "p")]
    assert (found[0].mean, found[0].sd) == (2.5, pytest.approx(statistics.stdev([1.0, 4.0])))
    assert found[1].sd == 0


def test_rows_that_differ_in_more_than_the_setting_are_apart():
    rows = [row("a", 0, 1), row("a", 0, 2, method="other"), row("A", 0, 3, method="a"), row("a", 0, 4, plan="q")]
    found = spots(rows, {"a": "a"}, "gpcl")
    assert {group: [spot.values for spot in each] for group, each in found.items()} == {
        "p, kda": [(1.0,)],
        "p, other": [(2.0,)],
        "p, A": [(3.0,)],
        "q, kda": [(4.0,)],
    }
    assert several(found) == {}


def test_numbers_in_names_are_sorted_as_numbers():
    rows = [row(name, 0, 1) for name in ("batch16", "batch4", "whole", "batchy", "batch4x")]
    (found,) = swept(rows, "batch", "gpcl", also={"whole": 32.0}).values()
    assert [(spot.label, spot.at) for spot in found] == [("4", 4.0), ("16", 16.0), ("32", 32.0)]
    assert swept(rows[:1], "batch", "gpcl") == {}
    assert [numbered("tau", name) for name in ("tau_0_001", "tau_10", "tau", "tau_1_2_3")] == [0.001, 10.0, None, None]


def test_an_epochs_value_is_the_mean_of_its_lines():
    lines = [
        {"epoch": 0, "step": 1, "kd": 4.0},
        {"epoch": 0, "step": 2, "kd": 2.0, "validation": {"accuracy": 0.5}},
        {"epoch": 2, "kd": float("inf")},
        {"epoch": 1, "kd": 1},
        {"kd": 7.0},
    ]
    assert by_epoch(lines, "kd") == [(1, 3.0), (2, 1.0)]
    assert by_epoch(lines, "accuracy", "validation") == [(1, 0.5)]
    assert by_epoch(lines, "accuracy") == []


def test_curves_beyond_seven_are_counted():
    pytest.importorskip("matplotlib")
    lines = {f"run {number}": [(1, 0.5), (2, 0.25)] for number in range(9)}
    with look():
        _, axes = panels("Nine runs", 1)
        curves(axes[0][0], lines, "loss")
    assert len(axes[0][0].get_lines()) == 7
    assert axes[0][0].get_legend().get_title().get_text() == "and 2 more, not drawn"


def test_folders_that_hold_nothing_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"^There is no folder '.*none': give the folders of runs or plans\.$"):
        Given([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"holds no run \(run.json\) and no plan's results \(results.jsonl\)\.$"):
        Given([tmp_path])
    (tmp_path / "results.jsonl").write_text('{"method": 3}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl"):
        Given([tmp_path])


def test_a_run_is_a_row_of_its_folders_name(tmp_path):
    for name, accuracy in (("kda-seed3", 0.5), ("ce", 0.25)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        (folder / "test.json").write_text(json.dumps({"best": {"accuracy": accuracy}, "last": {"accuracy": 0}}))
    given = Given([tmp_path / "kda-seed3", tmp_path / "ce"])
    found = [(each["method"], each["seed"], each["accuracy_best"]) for each in given.rows]
    assert found == [("kda", 3, 0.5), ("ce", 0, 0.25)]
    assert list(given.runs) == ["kda-seed3", "ce"]
    assert given.config("ce") is None

"""What is measured is whole, and the pages are what their commands make of it; cheap, and a step of `.ci/run`.

A row of the catalogue without figures is no error here: `python docs/rows_without_figures.py` names it.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from _harness.pages import ROOT, script

from congruence.bench.teachers import MOST, load_kept
from congruence.config import load_config
from congruence.methods import catalogue

BENCHMARKS = sorted(path for path in (ROOT / "benchmarks" / "results").glob("*.json") if path.stem != "demo")
PLANS = sorted(path.parent for path in (ROOT / "results").glob("*/results.jsonl"))
TEACHERS = sorted((ROOT / "results" / "teachers").glob("*.safetensors"))
ORIGIN = {"command", "commit", "processor", "python", "torch"}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


DIFFERENCES = {"best_epoch", "first_tries", "tokens"}  # whose values are gains, or losses


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmarks_figures_are_whole(path):
    result = json.loads(path.read_text(encoding="utf8"))
    name = result["benchmark"]
    assert path.stem in (name, f"{name}_{result['machine']['device']}")
    assert {"definition", "date", "commit", "machine", "versions", "figures"} <= set(result)
    assert {"cpu", "cores", "threads", "device", "system"} <= set(result["machine"])
    assert {"python", "torch", "congruence"} <= set(result["versions"])
    assert result["commit"]
    assert (ROOT / "benchmarks" / f"{name}.py").is_file()
    names = [figure["name"] for figure in result["figures"]]
    assert names
    assert len(set(names)) == len(names)
    for figure in result["figures"]:
        assert all(math.isfinite(value) for key, value in figure.items() if key != "name")
        assert figure["value"] > 0 or name in DIFFERENCES
        assert ("bar" in figure) == ("within" in figure)
        assert "bar" not in figure or figure["within"] == (figure["value"] <= figure["bar"])
        assert ("least" in figure) == ("reached" in figure)
        assert "least" not in figure or figure["reached"] == (figure["value"] >= figure["least"])


def test_the_figures_of_rows_are_of_our_rows():
    update = script("update_benchmarks")
    for name, of_rows in update.OF_ROWS.items():
        for path in update.FOLDER.glob(f"{name}*.json"):
            measured = {figure["name"] for figure in json.loads(path.read_text(encoding="utf8"))["figures"]}
            assert measured <= set(of_rows), "a row is gone: measure again"


@pytest.mark.parametrize("folder", PLANS, ids=lambda path: path.name)
def test_a_plans_results_are_whole(folder):
    assert set(json.loads((folder / "origin.json").read_text(encoding="utf8"))) == ORIGIN
    rows = lines(folder / "results.jsonl")
    assert rows
    assert len({(row["method"], row["variant"], row["seed"]) for row in rows}) == len(rows)
    more = [folder / name for name in ("teachers.jsonl", "tuning.jsonl")]  # a pretrained teacher has no line
    for row in [*rows, *(line for path in more if path.exists() for line in lines(path))]:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    assert all(row["parameters"] > 0 for row in rows)


@pytest.mark.parametrize("weights", TEACHERS, ids=lambda path: path.stem)
def test_a_kept_teacher_is_whole(weights):
    kept = load_kept(ROOT / "results", weights.stem, "figures")  # its weights are those that its facts speak of
    assert weights.stat().st_size <= MOST
    assert kept.mean is not None
    about = json.loads(weights.with_suffix(".json").read_text(encoding="utf8"))
    assert set(about) >= ORIGIN
    assert list(load_config(weights.with_suffix(".toml")).stages)
    assert 0 < about["numbers"].get("accuracy_best", about["numbers"].get("accuracy")) <= 1


def test_the_demos_results_are_whole():
    result = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf8"))
    assert set(result) == ORIGIN | {"teachers", "rows"}
    assert result["teachers"]
    assert len({(row["method"], row["seed"]) for row in result["rows"]}) == len(result["rows"]) > 0


def stale():
    """The pages that are not what their commands make of the figures now, whichever rows have none."""
    measured = script("generated").measured
    benchmarks, results, readme = (script(f"update_{name}") for name in ("benchmarks", "results", "readme"))
    pages = [
        (benchmarks, benchmarks.PAGE, lambda _: benchmarks.page()),
        (benchmarks, benchmarks.BALANCED, benchmarks.balanced),
        (results, results.PAGE, results.page),
        (readme, readme.README, lambda text: readme.generated.filled(text, {"demo": readme.demo()})),
    ]
    texts = [(update, path.read_text(encoding="utf8"), write) for update, path, write in pages]
    return [update.__name__ for update, text, write in texts if measured(write(text)) != measured(text)]


def test_the_pages_are_as_the_figures_are():
    assert not stale(), "run `python docs/NAME.py`"


def test_a_new_row_without_figures_is_a_dash_and_no_error(monkeypatch):
    row = replace(catalogue.ROWS[0], key="a_row_with_a_name_wider_than_every_column_of_the_pages")
    monkeypatch.setattr(catalogue, "ROWS", (*catalogue.ROWS, row))
    dashes = [line for line in script("update_benchmarks").page().splitlines() if line.startswith(f"| {row.key}")]
    assert len(dashes) == 4  # method_cost, step_overhead on two devices, and one_epoch
    assert all(set(line.split("|", 2)[2]) == set(" –|") for line in dashes)
    sentences = script("rows_without_figures").sentences()
    for command in ("python benchmarks/method_cost.py", "congruence bench methods-cifar10 --out runs/methods-cifar10"):
        # Other rows may be without figures, too.
        assert any(row.key in sentence and sentence.endswith(f"`{command}`") for sentence in sentences)
    assert script("update_results").part("methods-cifar10").count(f"| {row.key}") == 2
    assert not stale()


def test_a_changed_figure_is_an_error(monkeypatch):
    generated = script("generated")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf8")
    line = next(line for line in page.splitlines() if line.startswith("| pkt |"))
    assert generated.measured(page.replace(line, "| pkt | – | – |")) != generated.measured(page)
    assert generated.measured(page.replace(line, f"{line}\n| mine | – | – |")) == generated.measured(page)


def test_results_that_are_new_come_last():
    update = script("update_results")
    whole = update.page("# Results\n")
    assert [line[3:] for line in whole.splitlines() if line.startswith("## ")] == update.names()
    assert update.page(whole) == whole

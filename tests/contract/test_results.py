"""The page of results is what the command makes of the results that are kept."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def update(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(ROOT / "docs" / "update_results.py"), run_name="update_results")


def test_the_page_is_as_the_results_are(update):
    now = (ROOT / "docs" / "results.md").read_text(encoding="utf8")
    assert update["names"]()
    assert update["page"](now) == now, "run `python docs/update_results.py`"


def test_every_kept_cell_is_one_of_its_plan(update):
    """A plan that was changed after its run would be told with another plan's numbers."""
    for name in update["names"]():
        rows = [json.loads(line) for line in (ROOT / "results" / name / "results.jsonl").read_text().splitlines()]
        plan = update["load_plan"](name).only(*{row["variant"] for row in rows})
        wanted = {
            (method, variant, seed) for variant in plan.variants for method in plan.recipes for seed in plan.seeds
        }
        assert {(row["method"], row["variant"], row["seed"]) for row in rows} == wanted, name
        assert len(rows) == len(wanted), name


def test_results_that_are_new_come_last(update):
    whole = update["page"]("# Results\n")
    assert [line[3:] for line in whole.splitlines() if line.startswith("## ")] == update["names"]()
    assert update["page"](whole) == whole


def test_an_unfinished_plan_is_not_kept(update, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "results.jsonl").write_text('{"method": "ce", "variant": ""}\n')
    with pytest.raises(ValueError, match="has 1 of the plan's 15 cells"):
        update["keep"](folder)

"""What results/ keeps of an unfinished plan is still that plan's: a new key of a table or a row loses no cell."""

from __future__ import annotations

import json

import pytest
from _harness.pages import ROOT

from congruence.bench.identity import _short, settings
from congruence.bench.planfile import load_plan


@pytest.mark.parametrize(
    ("plan", "least"), [("evidence-2", 80), ("evidence-2-recent", 40), ("evidence-2-recent-resnet8", 10)]
)
def test_the_kept_cells_have_the_settings_of_today(plan, least):
    cells = {(cell.method, cell.variant, cell.seed): cell for cell in load_plan(plan).cells()}
    lines = (ROOT / "results" / plan / "results.jsonl").read_text(encoding="utf8").splitlines()
    kept, lost = [json.loads(line) for line in lines], set()
    for line in kept:
        config = cells[line["method"], line["variant"], line["seed"]].config
        told = settings(config, {config.last: config.stages[config.last]})
        if _short(told) != line["made"]["settings"]:
            lost.add(line["method"])
    assert len(kept) > least
    assert not lost, "a key got since then needs a place in `identity._YOUNGER`, or `COURSE` is to be raised"

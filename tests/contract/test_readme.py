"""The tables of the README are those that the commands gave."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def beside_its_own(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


def test_generated_parts_are_as_they_are_now():
    update = runpy.run_path(str(ROOT / "docs" / "update_readme.py"), run_name="update_readme")
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    assert update["filled"](readme) == readme, "run `python docs/update_readme.py`"


def test_the_demo_has_a_teacher_worth_learning_from():
    update = runpy.run_path(str(ROOT / "docs" / "update_readme.py"), run_name="update_readme")
    table = update["tables"]()["demo"].splitlines()
    means = {line.split("|")[1].strip(): float(line.split("|")[2].split("±")[0]) for line in table[2:]}
    assert means["teacher"] >= means["ce"] + 3

"""What the scripts beside this file share: where results come from, their tables, the generated parts of a page."""

from __future__ import annotations

import json
import platform
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from congruence.bench.table import cells, text
from congruence.methods import catalogue

ROOT = Path(__file__).resolve().parents[1]
_record = runpy.run_path(str(ROOT / "benchmarks" / "record.py"), run_name="record")
# The library's own rows: those of an installed package are not on our pages.
OWN_KEYS = tuple(row.key for row in catalogue.ROWS)
OF_EVERY_ROW = "methods-cifar10"  # the plan that is to have them all
NOTHING = "–"  # in the place of a number that was not measured
_UNFINISHED = re.compile(r"^\*\*Unfinished: .*\n\n", re.MULTILINE)
_EMPTY_LINE = re.compile(rf"^\|[^|]*\|( *{NOTHING} *\|)+\n", re.MULTILINE)


def origin(command: str) -> dict[str, str]:
    """Return what stands beside a result: the command, the commit, the machine and the versions."""
    machine = {"processor": f"{platform.machine()}, {_record['cpu']()}", "python": platform.python_version()}
    return {"command": command, "commit": _record["commit"](), **machine, "torch": torch.__version__}


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []


def teachers(folder: Path) -> list[dict[str, Any]]:
    """Read the numbers of the teachers of a plan's folder."""
    written = lines(folder / "teachers.jsonl")
    return written or [json.loads(path.read_text("utf8")) for path in sorted(folder.glob("teachers/*/teacher.json"))]


def results(
    rows: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]], without: Sequence[str], *, more: bool
) -> str:
    """Return the table of some results; the rows without any come last, as dashes."""
    table = cells(rows, teachers, more=more)
    return text([*table, *([name, *[NOTHING] * (len(table[0]) - 1)] for name in without)])


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with its generated parts, which stand between markers, as they are now."""
    for name, part in parts.items():
        pattern = rf"(<!-- begin {re.escape(name)}[ :][^>]*-->\n).*?(\n?<!-- end {re.escape(name)} -->)"
        page, count = re.subn(pattern, lambda m, t=part: f"{m[1]}{t}\n{m[2].lstrip()}", page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"The page must have one part '{name}' between its markers, has {count}.")
    return page


def measured(page: str) -> str:
    """Return a page without what a row without figures changes: its own line, and the widths of its table's columns.

    Two pages that are the same so say the same of every figure, whichever rows are still to be measured.
    """
    page = _UNFINISHED.sub("", _EMPTY_LINE.sub("", page + "\n"))
    return re.sub("-{2,}", "-", re.sub(" {2,}", " ", page))

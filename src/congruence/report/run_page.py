"""The page of runs: their test numbers, curves, and their students beside their teachers."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from congruence.bench.cell import RESULT
from congruence.core.files import damaged, read_json
from congruence.core.kinds import ANY_TABLE
from congruence.evaluation.numbers import numbers_in
from congruence.report import provenance
from congruence.report.as_html import Page, write
from congruence.report.filled import Row, add_curves, add_views, cost_of, tried
from congruence.report.results_table import of_runs
from congruence.training.saving.run_directory import RunDirectory

_TITLE = 4  # runs that the title names


def write_runs(folders: Sequence[Path], out: Path, *, trust: bool = False, commands: Sequence[str] = ()) -> Path:
    """Write the page of runs: test numbers, curves, and the students of the first four beside their teachers.

    Args:
        folders: of the runs.
        out: the file.
        trust: whether factories that runs name may be imported.
        commands: that made the runs and the page.
    """
    names = _names(folders)
    title = ", ".join(names[:_TITLE]) + (f" and {len(names) - _TITLE} more" if len(names) > _TITLE else "")
    page = Page(f"congruence: {title}", versions=provenance.versions(), commands=list(commands))
    numbers: dict[str, Row] = {}
    for folder, name in zip(folders, names, strict=True):
        directory = RunDirectory(folder)
        for student in directory.student_files() or {"student": folder}:
            file = directory.test_file(student)
            if not file.is_file() and not (folder / RESULT).is_file():
                continue
            prefix = [name] if len(folders) > 1 else []
            prefix += [student] if student != "student" else []
            none: dict[str, Row] = {}
            found = tried(functools.partial(_tested, file, folder), page, "results", none)
            for column, values in found.items():
                numbers[", ".join([*prefix, column])] = values
        page.made.append(provenance.of_folder(folder, name))
        if (config := directory.config).is_file():
            trusted = ["--trust"] if "factory = " in config.read_text(encoding="utf8") else []
            again = ["congruence", "distill", str(config), "--out", f"{folder}-again", *trusted]
            page.commands.append(shlex.join(again))
    if numbers:
        page.tables.append(of_runs(numbers))
        page.costs.extend(_costs_of_runs(numbers))
    else:
        page.left.setdefault("results", []).append("No test numbers: congruence distill measures a student at its end.")
    add_curves(page, dict(zip(names, folders, strict=True)))
    add_views(page, dict(zip(names, folders, strict=True)), trust=trust)
    return write(page, out)


def _tested(file: Path, folder: Path) -> dict[str, Row]:
    """Return a run's test numbers by column; a plan's cell has those of its best weights in a file of its own."""
    if file.is_file():
        return dict(read_json(file, {"*": ANY_TABLE}))
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf8"))["result"]
    except (ValueError, KeyError, TypeError):
        raise damaged(folder / RESULT, "it does not hold what a plan writes there") from None
    known = numbers_in("run")
    best = {"accuracy": result.get("accuracy_best")} | {key: value for key, value in result.items() if key in known}
    return {"best": {key: value for key, value in best.items() if value is not None}}


def _names(folders: Sequence[Path]) -> list[str]:
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for folder, name in zip(folders, short, strict=True)]


def _costs_of_runs(numbers: Mapping[str, Row]) -> list[dict[str, Any]]:
    points = {name: row for name, row in numbers.items() if not name.rpartition(", ")[2].startswith("last")}
    rows = [{**row, "method": name} for name, row in points.items()]
    students = [row for row in rows if not row["method"].rpartition(", ")[2].startswith("teacher")]
    teachers = [row for row in rows if row not in students]
    return [cost_of(students, teachers, "accuracy", "accuracy (%)", "parameters", "parameters")] if students else []

"""`report_of`: the page of whatever lies in a folder or a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from congruence.bench.kept import RESULTS
from congruence.report.as_html import NAME, check_installed
from congruence.report.comparison_page import write_comparison
from congruence.report.plan_page import write_plan
from congruence.report.run_page import write_runs
from congruence.training.saving.run_directory import RunDirectory


def report_of(words: Sequence[str | Path], out: Path | None = None, *, trust: bool = False) -> Path:
    """Write the page of runs, of a plan's folder, or of a comparison's JSON file.

    Args:
        words: folders of runs, one folder of a plan (with results.jsonl), or one file of `congruence compare --json`.
        out: the file; by default report.html in the folder, and of several runs here.
        trust: whether factories that runs name may be imported.

    Returns:
        The file's path.

    Raises:
        ValueError: for what is neither, or where the extra is not installed.
    """
    check_installed()
    paths = [Path(word) for word in words]
    if not paths:
        raise ValueError("`report_of`: `words` must name a run, a plan's folder or a comparison's file, got none.")
    kinds = {path: _kind(path) for path in paths}
    if len(kinds) < len(paths):
        raise ValueError("A report shows each run once: a folder is named twice.")
    if len(paths) > 1 and set(kinds.values()) != {"run"}:
        odd = next(path for path, kind in kinds.items() if kind != "run")
        raise ValueError(f"A report shows runs, or one plan or comparison: '{odd}' is not a run's folder.")
    path = paths[0]
    command = shlex.join(["congruence", "report", *map(str, words)])
    if kinds[path] == "plan":
        return write_plan(path, out or path / NAME, trust=trust, commands=[command])
    if kinds[path] == "comparison":
        found = _comparison(path)
        return write_comparison(found, out or path.with_suffix(".html"), commands=[command])
    return write_runs(paths, out or (path / NAME if len(paths) == 1 else Path(NAME)), trust=trust, commands=[command])


def _kind(path: Path) -> str:
    if path.is_file():
        return "comparison"
    if not path.is_dir():
        raise ValueError(f"There is no folder and no file '{path}': give a run, a plan or a comparison's file.")
    if (path / RESULTS).is_file():
        return "plan"
    if RunDirectory(path).identity.is_file():
        return "run"
    raise ValueError(
        f"The folder '{path}' holds no run ({RunDirectory(path).identity.name}) and no plan's results ({RESULTS})."
    )


def _comparison(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        found = None
    parts = found if isinstance(found, dict) else {}
    students = parts.get("students")
    if not (isinstance(students, dict) and isinstance(parts.get("teacher"), dict) and students) or not all(
        isinstance(values, dict) for values in students.values()
    ):
        raise ValueError(f"The file '{path}' is not what `congruence compare --json` writes.")
    return parts

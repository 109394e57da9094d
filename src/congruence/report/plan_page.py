"""The page of a plan's folder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from congruence.bench import rank_agreement
from congruence.bench.failed import failures, whole
from congruence.bench.front import told
from congruence.bench.kept import RESULTS, TEACHERS
from congruence.bench.naming import cell_name
from congruence.bench.table import COSTS, split
from congruence.core.files import read_lines
from congruence.report import provenance
from congruence.report.as_html import Page, write
from congruence.report.filled import Row, add_curves, add_views, cost_of, tried
from congruence.report.results_table import of_plan
from congruence.training.saving.run_directory import RunDirectory

_CURVES = 30  # runs whose curves are drawn
_BASELINE = "ce"  # of a plan that names none, where it has such a row
_QUALITIES = (("accuracy_best", "accuracy (%)"), ("retrieval_map", "retrieval mAP (%)"))


def write_plan(
    folder: Path,
    out: Path,
    *,
    rows: Sequence[Row] | None = None,
    teachers: Sequence[Row] | None = None,
    baseline: str | None = None,
    published: str = "",
    trust: bool = False,
    commands: Sequence[str] = (),
) -> Path:
    """Write the page of a plan: tables, curves, and the best student and the baseline's beside their teacher.

    Args:
        folder: with results.jsonl.
        out: the file.
        rows: in place of those of results.jsonl: with what a row costs, say, and what is published of it.
        teachers: in place of those of teachers.jsonl.
        baseline: the row that others are compared with; None: "ce" where there is such a row.
        published: the sentence that says where published numbers are from.
        trust: whether factories that runs name may be imported.
        commands: that made the results and the page.
    """
    page = Page(f"congruence: plan {folder.resolve().name}", versions=provenance.versions(), commands=list(commands))
    none: list[dict[str, Any]] = []
    if rows is None:
        rows = tried(functools.partial(read_lines, folder / RESULTS), page, "results", none)
    if teachers is None:
        teachers = tried(functools.partial(read_lines, folder / TEACHERS), page, "results", none)
    good = whole(rows)
    page.told.extend(told(rows).splitlines())
    for title, some in split(rows).items():
        of = baseline if baseline is not None else _BASELINE
        page.tables.append(of_plan(some, teachers, of, title))
    told_of_tables = dict.fromkeys(table.note for table in page.tables)
    agreed = [f"{title}: {text}" if title else text for title, text in _agreed(rows)]
    page.notes.extend(filter(None, [*told_of_tables, *agreed, published, *failures(rows)]))
    measured = [each for each in _QUALITIES if any(row.get(each[0]) is not None for row in good)]
    value, title = (measured or _QUALITIES)[0]
    costs = {"parameters": "parameters", **{key: words for key, (words, *_) in COSTS.items()}}
    for cost, words in {**costs, "seconds": "seconds of training"}.items():
        made = cost_of(good, teachers, value, title, cost, words)
        if any(point["kind"] == "student" for point in made["points"]):
            page.costs.append(made)
    folders = {
        _called(row): folder / "cells" / cell_name(row["method"], row.get("variant", ""), row["seed"]) for row in good
    }
    there = {name: path for name, path in folders.items() if RunDirectory(path).identity.is_file()}
    if not there:
        why = "The plan's folder has no runs, only their numbers: embeddings and curves are drawn from runs."
        page.left["curves"] = page.left["maps"] = [why]
        return write(page, out)
    seeds = {_called(row): row["seed"] for row in good}
    few = {name: there[name] for name in sorted(there, key=lambda name: seeds[name])[:_CURVES]}
    add_curves(page, few)
    if len(few) < len(there):
        page.left.setdefault("curves", []).append(f"Of {len(there)} runs the first {len(few)} are shown here.")
    chosen = _chosen([row for row in good if _called(row) in there], value, baseline or _BASELINE)
    add_views(page, {name: there[name] for name in chosen}, trust=trust)
    page.made.extend(provenance.of_folder(there[name], name) for name in chosen)
    return write(page, out)


def _agreed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the title of each table whose order of rows was compared with the published one, and the sentence."""
    return [(title, text) for title, some in split(rows).items() if (text := rank_agreement.told(some))]


def _called(row: Row) -> str:
    return f"{', '.join(filter(None, (row['method'], row.get('variant'))))}, seed {row['seed']}"


def _chosen(rows: Sequence[Row], value: str, baseline: str) -> list[str]:
    """Return the best row, and beside it the baseline's of the same variant and seed, else the last of all.

    Example:
        >>> rows = [{"method": m, "seed": 0, "accuracy_best": v} for m, v in (("ce", 0.5), ("kd", 0.8), ("pkt", 0.7))]
        >>> _chosen(rows, "accuracy_best", "ce"), _chosen(rows[1:], "accuracy_best", "ce")
        (['kd, seed 0', 'ce, seed 0'], ['kd, seed 0', 'pkt, seed 0'])
    """
    known = sorted((row for row in rows if row.get(value) is not None), key=lambda row: -row[value])
    if not known:
        return [_called(row) for row in rows[:1]]
    best = known[0]
    asked = (best.get("variant"), best["seed"])
    same = [row for row in known[1:] if row["method"] == baseline and (row.get("variant"), row["seed"]) == asked]
    return list(dict.fromkeys(_called(row) for row in (best, *(same or known[-1:]))))

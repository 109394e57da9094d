"""Numbers as a table of the page: of a plan's rows over their seeds, of runs, and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from congruence.bench.against import CERTAIN, difference, holm, probability
from congruence.bench.failed import whole
from congruence.bench.table import COSTS, mean_sd
from congruence.evaluation.comparison import COLUMNS
from congruence.evaluation.number import Number
from congruence.evaluation.numbers import RESERVED, numbers_in
from congruence.evaluation.stored import described

Row = Mapping[str, Any]
NONE = "–"
_LEAST = 0.001  # p below it is told as below it


@dataclass(frozen=True)
class Cell:
    """A number by which a column is sorted, None if there is none; its text, and smaller lines below it."""

    value: float | None
    text: str
    more: str = ""
    published: str = ""


@dataclass(frozen=True)
class ResultsTable:
    """A table: columns are titles and whether more is better (None: neither), rows a name, a kind and cells.

    `note` explains the cells.
    """

    title: str
    columns: list[tuple[str, bool | None]]
    rows: list[tuple[str, str, list[Cell]]] = field(default_factory=list)
    note: str = ""


def of_plan(rows: Sequence[Row], teachers: Sequence[Row], baseline: str | None, title: str = "") -> ResultsTable:
    """Return a plan's rows, means over their seeds and, beside a baseline of the plan's, what differs seed by seed.

    Args:
        rows: of results.jsonl, with a "cost" (`bench.costs`) and what is "published" where there is such; those that
            failed are in no mean.
        teachers: of teachers.jsonl.
        baseline: the method that others are compared with, None for none.
        title: of the table.
    """
    good = whole(rows)
    stored = [(key, value) for row in (*good, *teachers) for key, value in row.items() if key not in RESERVED]
    had = {key for key, value in stored if isinstance(value, int | float)}
    numbers = [number for number in described("plan", dict(stored)) if number.key in had]
    groups = {name: [row for row in good if row["method"] == name] for name in dict.fromkeys(r["method"] for r in good)}
    own = {row["seed"]: row for row in groups.get(baseline or "", ())}
    others = [name for name in groups if own and name != baseline]
    tested = {
        number.key: dict(
            zip(others, holm([probability(_paired(groups[name], own, number)) for name in others]), strict=True)
        )
        for number in numbers
    }
    costs = [key for key in COSTS if any((row.get("cost") or {}).get(key) is not None for row in (*good, *teachers))]
    table = ResultsTable(
        title,
        [
            *((number.title or number.key, number.higher_is_better) for number in numbers),
            *((COSTS[key][0], False) for key in costs),
        ],
        note=_told(baseline) if others else "",
    )
    for teacher in teachers:
        cells = [*(_mean([teacher], number) for number in numbers), *(_cost(teacher, key) for key in costs)]
        table.rows.append((str(teacher.get("name", "teacher")), "teacher", cells))
    for name, group in groups.items():
        cells = []
        for number in numbers:
            more = _against(_paired(group, own, number), number, tested[number.key].get(name)) if name in others else ""
            cells.append(_mean(group, number, more))
        table.rows.append((name, "student", [*cells, *(_cost(group[0], key) for key in costs)]))
    return table


def _cost(row: Row, key: str) -> Cell:
    value, (_, unit, digits) = (row.get("cost") or {}).get(key), COSTS[key]
    return Cell(None, NONE) if value is None else Cell(value / unit, f"{value / unit:,.{digits}f}")


def _told(baseline: str | None) -> str:
    return (
        f"Mean ± standard deviation over the seeds. Smaller lines: the mean difference to {baseline}, seed by seed, "
        f"its {CERTAIN:.0%} interval, and p of the paired t-test, corrected by Holm's method for the rows of a column."
    )


def _paired(group: Sequence[Row], own: Mapping[int, Row], number: Number) -> list[float]:
    pairs = [(row.get(number.key), own[row["seed"]].get(number.key)) for row in group if row["seed"] in own]
    return [number.scale * (one - other) for one, other in pairs if one is not None and other is not None]


def _against(differences: Sequence[float], number: Number, p: float | None) -> str:
    if not differences:
        return ""
    found = difference(differences)
    interval = f" [{found.low:+.{number.digits}f}, {found.high:+.{number.digits}f}]" if found.pairs > 1 else ""
    chance = "" if p is None else f", p {p:.3f}" if p >= _LEAST else f", p < {_LEAST}"
    return f"{found.mean:+.{number.digits}f}{interval}{chance}"


def _mean(rows: Sequence[Row], number: Number, more: str = "") -> Cell:
    values = [row[number.key] * number.scale for row in rows if row.get(number.key) is not None]
    if not values:
        return Cell(None, NONE)
    mean, sd = mean_sd(values)
    spread = "" if sd is None else f" ± {sd:.{number.digits}f}"
    return Cell(mean, f"{mean:,.{number.digits}f}{spread}", more, rows[0].get("published", {}).get(number.key, ""))


def of_runs(columns: Mapping[str, Row]) -> ResultsTable:
    """Return test numbers as test.json has them, a row for each of its columns.

    Example:
        >>> table = of_runs({"pkt, best": {"accuracy": 0.5, "parameters": 1200}})
        >>> table.rows[0][0], [cell.text for cell in table.rows[0][2]]
        ('pkt, best', ['0.5000', '1,200'])
    """
    had = {key for values in columns.values() for key, value in values.items() if isinstance(value, int | float)}
    numbers = [number for number in described("run", dict.fromkeys(k for v in columns.values() for k in v))]
    numbers = [number for number in numbers if number.key in had]
    table = ResultsTable("", [(number.label or number.key, number.higher_is_better) for number in numbers])
    for name, values in columns.items():
        found = [values.get(number.key) for number in numbers]
        cells = [
            Cell(None, NONE) if value is None else Cell(float(value), _as_in(number.form, value))
            for number, value in zip(numbers, found, strict=True)
        ]
        table.rows.append((name, "teacher" if name.rpartition(", ")[2].startswith("teacher") else "student", cells))
    return table


def _as_in(form: str, value: float) -> str:
    return format(round(value) if form.endswith("d") else value, form)


def of_comparison(found: Mapping[str, Any]) -> ResultsTable:
    """Return a comparison, as `Comparisons.to_dict` has it, a row for the teacher and for each student."""
    rows = {"teacher": found["teacher"]} | {
        name: {key.removeprefix("student_"): value for key, value in values.items()}
        for name, values in found["students"].items()
    }
    columns = [
        column for column in COLUMNS if any(isinstance(row.get(column[0]), int | float) for row in rows.values())
    ]
    known = numbers_in("compare")
    higher = {key: known[key].higher_is_better for key, *_ in columns if key in known}
    table = ResultsTable("", [(title, higher.get(key)) for key, title, _, _ in columns])
    for name, row in rows.items():
        values = [(row.get(key), scale, digits) for key, _, scale, digits in columns]
        cells = [
            Cell(None, NONE) if value is None else Cell(value * scale, f"{value * scale:,.{digits}f}")
            for value, scale, digits in values
        ]
        table.rows.append((name, "teacher" if name == "teacher" else "student", cells))
    return table

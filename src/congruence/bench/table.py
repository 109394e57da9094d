"""From rows of results to a table: mean ± standard deviation over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    ("accuracy_best", "accuracy, best (%)", 100.0, 1),
    ("accuracy_last", "accuracy, last (%)", 100.0, 1),
    ("retrieval_map", "retrieval mAP (%)", 100.0, 1),
    ("gpcl", "GPCL", 1.0, 3),
)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, None for a single value.

    Example:
        >>> mean_sd([1.0, 2.0, 3.0])
        (2.0, 1.0)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def cells(rows: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]] = ()) -> list[list[str]]:
    """Return the table's lines, the heading first: teachers, then the methods in their order.

    A number that no run has is "–".
    """
    lines = [["", *(title for _, title, _, _ in COLUMNS), "parameters"]]
    lines += [_line("teacher", [teacher]) for teacher in teachers]
    for method in dict.fromkeys(row["method"] for row in rows):
        lines.append(_line(method, [row for row in rows if row["method"] == method]))
    return lines


def _line(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    line = [name]
    for key, _, scale, digits in COLUMNS:
        values = [row[key] * scale for row in rows if row.get(key) is not None]
        line.append(_number(*mean_sd(values), digits) if values else "–")
    return [*line, f"{rows[0]['parameters']:,}"]


def _number(mean: float, sd: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def text(lines: Sequence[Sequence[str]]) -> str:
    """Lay a table out as Markdown with aligned columns, which reads well in a terminal too."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def row(line: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return f"| {' | '.join([line[0].ljust(widths[0]), *padded[1:]])} |"

    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join([row(lines[0]), f"|{'|'.join(rules)}|", *(row(line) for line in lines[1:])])

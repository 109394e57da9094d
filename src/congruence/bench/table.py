"""From rows of results to a table: mean ± standard deviation over the seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from congruence.bench.failed import whole
from congruence.evaluation.layout import text as text  # laid out as all tables are
from congruence.evaluation.number import Number
from congruence.evaluation.numbers import RESERVED
from congruence.evaluation.stored import described

_SIZE = "parameters"  # of the first row's student: without mean and deviation
# What follows it of `costs.with_costs`: titles, by what they are divided, digits.
COSTS = {
    "weights_mb": ("MB", 1.0, 2),
    "multiply_adds": ("10⁶ multiply-adds", 1e6, 2),
    "latency_1_ms": ("ms, batch of 1", 1.0, 2),
    "latency_64_ms": ("ms, batch of 64", 1.0, 1),
}


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, None for a single value.

    Example:
        >>> mean_sd([1.0, 2.0, 3.0])
        (2.0, 1.0)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def split(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Split the rows of a plan into tables by their titles: one a variant, or one a method where these are fewer.

    The rows of a method's table bear the variants' names instead of the method's.

    Example:
        >>> rows = [{"method": "cckd", "variant": "rbf"}, {"method": "cckd", "variant": "mmd"}]
        >>> split(rows)
        {'cckd': [{'method': 'rbf', 'variant': 'rbf'}, {'method': 'mmd', 'variant': 'mmd'}]}
    """
    by_method = len({row["method"] for row in rows}) < len({row.get("variant", "") for row in rows})
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        title = row["method"] if by_method else row.get("variant", "")
        tables.setdefault(title, []).append({**row, "method": row["variant"]} if by_method else row)
    return tables


def together(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of all variants for one table: each bears its method's and its variant's name, methods together.

    Example:
        >>> rows = [{"method": m, "variant": v} for v in ("small", "large") for m in ("ce", "kd")]
        >>> [row["method"] for row in together(rows)]
        ['ce, small', 'ce, large', 'kd, small', 'kd, large']
    """
    order = list(dict.fromkeys(row["method"] for row in rows))
    named = sorted(rows, key=lambda row: order.index(row["method"]))
    return [{**row, "method": ", ".join(filter(None, (row["method"], row.get("variant"))))} for row in named]


def averaged(rows: Sequence[Mapping[str, Any]], variants: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Return a row for each method and seed with the means of its numbers over all variants.

    Seeds that a variant lacks are left out, and so are numbers that are missing in one of them.

    Args:
        rows: of a plan.
        variants: of the plan.
        name: the variant that the new rows bear.

    Example:
        >>> rows = [{"method": "ce", "variant": v, "seed": 0, "accuracy_best": a} for v, a in (("x", 0.5), ("y", 0.75))]
        >>> averaged(rows, ["x", "y"], "average")
        [{'method': 'ce', 'variant': 'average', 'seed': 0, 'accuracy_best': 0.625}]
    """
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in whole(rows):
        groups.setdefault((row["method"], row["seed"]), []).append(row)
    found: list[dict[str, Any]] = []
    for (method, seed), group in groups.items():
        if {row["variant"] for row in group} != set(variants):
            continue
        numbers = [key for key in group[0] if all(_is_number(row.get(key)) for row in group) and key != "seed"]
        means = {key: statistics.fmean(row[key] for row in group) for key in numbers}
        means |= {key: group[0][key] for key in numbers if len({row[key] for row in group}) == 1}
        found.append({"method": method, "variant": name, "seed": seed, **means})
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cells(
    rows: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]] = (), *, more: bool = False
) -> list[list[str]]:
    """Return the table's lines, heading first:

    teachers, then the methods in order. Missing numbers are "–"; those that no run has get no column. A teacher is
    shown under its `name`, or "teacher". With `more`, there are also the detail numbers, and the results of a search:
    the weight's factor, or the settings. Rows with a "cost" get its columns after the parameters, and "published"
    numbers are shown next to the measured ones. Failed rows are not in the means; if there are any, the last column has
    their number.
    """
    everything, rows = rows, whole(rows)
    stored = [(key, value) for row in (*rows, *teachers) for key, value in row.items() if key not in RESERVED]
    had = {key: value for key, value in stored if value is not None}
    columns = [
        number
        for number in described("plan", had)
        if number.key in had and (more or not number.detail) and number.key != _SIZE
    ]
    found = more and any(row.get("found") for row in rows)
    tuned = more and not found and any(row.get("factor", 1.0) != 1.0 for row in rows)
    shown_beside = {key for row in (*rows, *teachers) for key in row.get("published", {})}
    titles = []
    for number in columns:
        titles += [number.title or number.key, *(["published"] if number.key in shown_beside else [])]
    failing = len(rows) < len(everything)
    last = ["failed"] if failing else []
    shown = [key for key in COSTS if any((row.get("cost") or {}).get(key) is not None for row in (*rows, *teachers))]
    sizes = [_SIZE, *(COSTS[key][0] for key in shown)]
    lines = [["", *titles, *(["weight ×"] if tuned else ["found"] if found else []), *sizes, *last]]
    groups = [(teacher.get("name", "teacher"), [teacher]) for teacher in teachers]
    for method in dict.fromkeys(row["method"] for row in everything):
        groups.append((method, [row for row in rows if row["method"] == method]))
    counts = Counter(row["method"] for row in everything)
    for place, (name, group) in enumerate(groups):
        first = group[0] if group else {}
        factor = [f"{first['factor']:g}" if "factor" in first else "–"] if tuned else []
        factor += [_found(first)] if found else []
        lost = 0 if place < len(teachers) else counts[name] - len(group)
        last = ([f"failed: {lost} of {counts[name]}"] if lost else [""]) if failing else []
        parameters = first.get(_SIZE)
        size = ["–" if parameters is None else f"{parameters:,}", *(_cost(first, key) for key in shown)]
        numbers = _numbers(group, columns, shown_beside)
        lines.append([name, *numbers, *factor, *size, *last])
    return lines


def _found(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in row.get("found", {}).items()) or "–"


def _cost(row: Mapping[str, Any], key: str) -> str:
    value, (_, unit, digits) = (row.get("cost") or {}).get(key), COSTS[key]
    return "–" if value is None else f"{value / unit:,.{digits}f}"


def _numbers(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Number], published: Collection[str] = ()
) -> list[str]:
    line = []
    beside = rows[0].get("published", {}) if rows else {}
    for number in columns:
        values = [row[number.key] * number.scale for row in rows if row.get(number.key) is not None]
        line.append(_number(*mean_sd(values), number.digits) if values else "–")
        line += [beside.get(number.key, "–")] if number.key in published else []
    return line


def _number(mean: float, sd: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"

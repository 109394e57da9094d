"""`front`: the rows of a plan that no other row beats in accuracy and cost at once."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from congruence.bench.failed import whole


def front(
    rows: Sequence[Mapping[str, Any]], *, value: str = "accuracy_best", cost: str = "parameters"
) -> list[tuple[str, str]]:
    """Return (method, variant) of the rows on the Pareto front, the cheapest first.

    A row is on the front if no other row is at least as good both in the mean of `value` over its seeds and in `cost`,
    and better in one of them. The cost is a number of the row, or in its "cost" (`costs.with_costs`). Rows without
    these numbers, and failed cells, are left out.

    Example:
        >>> small, large = {"variant": "small", "parameters": 9}, {"variant": "large", "parameters": 90}
        >>> front([{"method": "ce", "accuracy_best": 0.7, **small}, {"method": "kd", "accuracy_best": 0.8, **small},
        ...        {"method": "ce", "accuracy_best": 0.75, **large}, {"method": "kd", "accuracy_best": 0.9, **large}])
        [('kd', 'small'), ('kd', 'large')]
    """
    seeds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in whole(rows):
        costly = _cost(row, cost)
        if row.get(value) is not None and costly is not None:
            seeds.setdefault((row["method"], row.get("variant", "")), []).append((row[value], costly))
    points = {
        name: (statistics.fmean(good for good, _ in pairs), statistics.fmean(costly for _, costly in pairs))
        for name, pairs in seeds.items()
    }
    best = [name for name, point in points.items() if not any(_beats(other, point) for other in points.values())]
    return sorted(best, key=lambda name: (points[name][1], points[name][0]))


def told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Describe the rows on the fronts of accuracy against parameters and time; "" if all students have equal costs."""
    sentences = []
    for cost, words in (("parameters", "with as few parameters"), ("latency_1_ms", "in as short a time")):
        names = [" ".join(part for part in name if part) for name in front(rows, cost=cost)]
        if names and len({_cost(row, cost) for row in whole(rows)}) > 1:
            sentences.append(f"No other row has as good a mean accuracy {words} as: {', '.join(names)}.")
    return "\n".join(sentences)


def _cost(row: Mapping[str, Any], key: str) -> Any:
    return row.get(key, (row.get("cost") or {}).get(key))


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other

"""A plan's rows compared with a baseline row: differences for equal seeds, and losses on held-out images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import t as student_t

from congruence import methods
from congruence.bench.failed import whole
from congruence.evaluation.number import Number
from congruence.evaluation.numbers import RESERVED
from congruence.evaluation.published import published
from congruence.evaluation.stored import described
from congruence.methods.term import Term

CERTAIN = 0.95
NONE = "–"
_LOSS, _LOSS_TITLE = "loss/", "loss on held-out images"
Row = Mapping[str, Any]


class Difference(NamedTuple):
    """The mean of paired differences, its interval, and the number of better pairs (if one direction is better)."""

    mean: float
    low: float
    high: float
    pairs: int
    better: int | None = None


def difference(values: Sequence[float], *, higher_is_better: bool | None = None) -> Difference:
    """Return mean ± t(0.975, n − 1) · s / √n of n differences, the 95 % confidence interval of the mean.

    For a single difference, the interval is unbounded.

    Example:
        >>> found = difference([1.0, 2.0, 3.0], higher_is_better=True)
        >>> round(found.low, 3), found.mean, round(found.high, 3), found.better
        (-0.484, 2.0, 4.484, 3)
    """
    mean, count = statistics.fmean(values), len(values)
    wide = math.inf
    if count > 1:
        wide = float(student_t.ppf((1 + CERTAIN) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    better = None
    if higher_is_better is not None:
        better = sum(value > 0 if higher_is_better else value < 0 for value in values)
    return Difference(mean, mean - wide, mean + wide, count, better)


def probability(values: Sequence[float]) -> float | None:
    """Return p of the two-sided paired t-test of differences against 0; None for fewer than two.

    Example:
        >>> round(probability([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    if len(values) < 2:
        return None
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * student_t.sf(abs(mean) / (sd / math.sqrt(len(values))), len(values) - 1))


def holm(probabilities: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's method; None stays None and is not counted.

    The i-th smallest of n is multiplied by n − i + 1, raised to at least the one before, and limited to 1.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(probabilities) if p is not None)
    corrected: list[float | None] = [None] * len(probabilities)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def against(rows: Sequence[Row], baseline: str, *, corrected: bool = False) -> list[list[str]]:
    """Return the lines of a table of one variant's rows against the baseline's, heading first; none without a baseline.

    Each number measured for a student, also by a protocol, has a column: the mean difference, its interval, and the
    number of seeds in which the row is better. If the plan's diagnostics include losses, there are two more columns
    for the loss of the method's own term: its final value divided by its value after the first epoch, and by its
    value for the baseline's student if that was measured. With `corrected`, cells also have p of the paired t-test,
    corrected for the rows of the table (`holm`).
    """
    rows = whole(rows)
    own = {row["seed"]: row for row in rows if row["method"] == baseline}
    others = [name for name in dict.fromkeys(row["method"] for row in rows) if name != baseline]
    groups = {name: [row for row in rows if row["method"] == name and row["seed"] in own] for name in others}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        return []
    had = dict.fromkeys(key for row in rows for key, value in row.items() if key not in RESERVED and value is not None)
    measured = [n for n in described("plan", had) if n.key in had]
    numbers = [n for n in measured if n.function is not None or published(n.key) is not None]
    with_losses = any(_losses(row, "last") for row in rows)
    heading = ["", *(number.title or number.key for number in numbers)]
    tested = {number.key: _tested(list(groups.values()), own, number) if corrected else [] for number in numbers}
    table = [[*heading, *([f"{_LOSS_TITLE}, by the first epoch's", f"by {baseline}'s"] if with_losses else [])]]
    for place, (name, group) in enumerate(groups.items()):
        line = [name]
        for number in numbers:
            p = tested[number.key][place] if corrected else None
            line.append(_cell(group, own, number) + ("" if p is None else f" p {p:.3f}"))
        table.append(line + (_of_losses(group, own) if with_losses else []))
    return table


def told(baseline: str, *, corrected: bool = False) -> str:
    """Return the sentence above the table."""
    p = " p: of the paired t-test, corrected by Holm's method for the rows of a column." if corrected else ""
    return (
        f"Against {baseline}, seed by seed: the mean difference [its {CERTAIN:.0%} interval], and in how many seeds it "
        f"is better.{p}"
    )


def _tested(groups: Sequence[Sequence[Row]], own: Mapping[int, Row], number: Number) -> list[float | None]:
    return holm([probability(_differences(group, own, number)) for group in groups])


def _differences(group: Sequence[Row], own: Mapping[int, Row], number: Number) -> list[float]:
    pairs = [(row.get(number.key), own[row["seed"]].get(number.key)) for row in group]
    return [number.scale * (one - other) for one, other in pairs if one is not None and other is not None]


def _cell(group: Sequence[Row], own: Mapping[int, Row], number: Number) -> str:
    values = _differences(group, own, number)
    if not values:
        return NONE
    found = difference(values, higher_is_better=number.higher_is_better)
    interval = f" [{found.low:+.{number.digits}f}, {found.high:+.{number.digits}f}]" if found.pairs > 1 else ""
    better = "" if found.better is None else f" {found.better}/{found.pairs}"
    return f"{found.mean:+.{number.digits}f}{interval}{better}"


def _losses(row: Row, when: str) -> Mapping[str, float]:
    of_all = row.get("diagnosed", {}).get(when, {})
    return {key.removeprefix(_LOSS): value for key, value in of_all.items() if key.startswith(_LOSS)}


def own_loss(losses: Mapping[str, float], method: str) -> float | None:
    """Return the loss of the term that bears a method's name, its parts by their published weights; None without it.

    Example:
        >>> own_loss({"ce": 1.0, "rkd.distance": 0.2, "rkd.angle": 0.1}, "rkd"), own_loss({"ce": 1.0}, "pkt")
        (10.0, None)
    """
    if method in losses:
        return losses[method]
    parts = {name.removeprefix(f"{method}."): value for name, value in losses.items() if name.startswith(f"{method}.")}
    known = methods.keys()
    if not parts or method not in known:
        return None
    term = Term(method)
    return sum(term.given(part) * value for part, value in parts.items())


def _of_losses(group: Sequence[Row], own: Mapping[int, Row]) -> list[str]:
    """Return a method's own loss by the first epoch's and by the baseline's: mean ratios, and how many are lower."""
    columns = []
    for before in (lambda row: _losses(row, "first"), lambda row: _losses(own[row["seed"]], "last")):
        pairs = [(own_loss(_losses(row, "last"), row["method"]), own_loss(before(row), row["method"])) for row in group]
        both = [(now, then) for now, then in pairs if now is not None and then is not None]
        lower = sum(now < then for now, then in both)
        ratios = [now / then for now, then in both if now >= 0 and then > 0]
        ratio = f"× {statistics.fmean(ratios):.2f} " if both and len(ratios) == len(both) else ""
        columns.append(f"{ratio}{lower}/{len(both)}" if both else NONE)
    return columns

"""Kendall's τ between a paper's order of rows and the measured one, with its interval over seeds."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from congruence.bench.failed import whole
from congruence.evaluation.stored import described

CERTAIN = 0.95
LEAST = 3  # rows: of two, the order is right or wrong
_EVERY = 20_000  # resamples that are enumerated; more are drawn
_DRAWS = 4_000
_NUMBER = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)")
Row = Mapping[str, Any]


class Agreement(NamedTuple):
    """τ of the means over seeds, its interval (None with a single seed), and the numbers of rows and of seeds."""

    tau: float
    low: float | None
    high: float | None
    rows: int
    seeds: int


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's τ-b of two lists: (concordant − discordant) / √((n₀ − n₁)(n₀ − n₂)).

    n₀ = n(n − 1)/2 pairs, of which n₁ are tied in the first list and n₂ in the second. Without ties this is the share
    of pairs in the same order minus the share in the opposite one.

    Args:
        first: one number for each item.
        second: the same items' other numbers.

    Returns:
        A number in [−1, 1]; NaN if all values of a list are equal.

    Raises:
        ValueError: if the lists differ in length.

    Example:
        >>> kendall_tau([1, 2, 3], [10, 20, 30]), kendall_tau([1, 2, 3], [3, 2, 1])
        (1.0, -1.0)
        >>> round(kendall_tau([1, 2, 3], [10, 30, 20]), 3)
        0.333

    Reference:
        Kendall 1945, The Treatment of Ties in Ranking Problems.
    """
    if len(first) != len(second):
        raise ValueError(f"`kendall_tau`: expected lists of one length, got {len(first)} and {len(second)} numbers.")
    total, free_first, free_second = 0, 0, 0
    for i, j in itertools.combinations(range(len(first)), 2):
        one, other = _sign(first[i] - first[j]), _sign(second[i] - second[j])
        total += one * other
        free_first += one != 0
        free_second += other != 0
    return total / math.sqrt(free_first * free_second) if free_first and free_second else math.nan


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def agreement(published: Mapping[str, float], measured: Mapping[str, Mapping[int, float]]) -> Agreement | None:
    """Compare the published order of rows with the order of the measured means over seeds.

    The interval is that of the bootstrap over seeds: seeds are drawn with replacement, the same for all rows, and the
    2.5 % and 97.5 % points of τ are taken. With few seeds all resamples are counted instead of drawn.

    Args:
        published: a number for each row.
        measured: for each row its number by seed. Only rows with a published number and seeds that all of these rows
            have are used.

    Returns:
        None for fewer than three rows, without a common seed, or where τ is not defined.

    Example:
        >>> agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": {0: 5.0}, "b": {0: 6.0}, "c": {0: 7.0}})
        Agreement(tau=1.0, low=None, high=None, rows=3, seeds=1)
    """
    rows = [row for row in published if measured.get(row)]
    if len(rows) < LEAST:
        return None
    seeds = sorted(set.intersection(*(set(measured[row]) for row in rows)))
    wanted = [published[row] for row in rows]

    def tau(weights: Mapping[int, int]) -> float:
        means = [sum(measured[row][seed] * count for seed, count in weights.items()) for row in rows]
        return kendall_tau(wanted, means)

    whole_sample = tau(dict.fromkeys(seeds, 1)) if seeds else math.nan
    if math.isnan(whole_sample):
        return None
    low = high = None
    if len(seeds) > 1:
        found = sorted((value, weight) for one, weight in _resamples(seeds) if not math.isnan(value := tau(one)))
        low, high = (_quantile(found, share) for share in ((1 - CERTAIN) / 2, (1 + CERTAIN) / 2))
    return Agreement(whole_sample, low, high, len(rows), len(seeds))


def _resamples(seeds: Sequence[int]) -> Iterator[tuple[Counter[int], float]]:
    """Yield resamples of seeds, how often each was drawn, and how probable (or how often drawn) the resample is."""
    count = len(seeds)
    if math.comb(2 * count - 1, count) <= _EVERY:
        for drawn in itertools.combinations_with_replacement(seeds, count):
            weights = Counter(drawn)
            ways = math.factorial(count) / math.prod(math.factorial(each) for each in weights.values())
            yield weights, ways
    else:
        generator = random.Random(0)
        for _ in range(_DRAWS):
            yield Counter(generator.choices(seeds, k=count)), 1.0


def _quantile(found: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest value at which the cumulated weight reaches a share of the whole."""
    total, sofar = math.fsum(weight for _, weight in found), 0.0
    for value, weight in found:
        sofar += weight
        if sofar >= share * total * (1 - 1e-12):
            return value
    return found[-1][0]


def value_of(text: str) -> float | None:
    """Return the number with which a published text begins, None if it begins with none.

    Example:
        >>> value_of("89.0 ± 0.2"), value_of("–")
        (89.0, None)
    """
    match = _NUMBER.match(text)
    return None if match is None else float(match[1])


def agreements(rows: Sequence[Row]) -> dict[str, Agreement]:
    """Return the agreement of each number of which a table's rows have published values, by the number's key.

    Args:
        rows: of one table, with their "published" numbers (`Published.beside`).
    """
    good = whole(rows)
    found = {}
    for key in dict.fromkeys(key for row in good for key in row.get("published", {})):
        known = {row["method"]: value_of(row.get("published", {}).get(key, "")) for row in good}
        published = {name: value for name, value in known.items() if value is not None}
        measured: dict[str, dict[int, float]] = {}
        for row in good:
            if row.get(key) is not None:
                measured.setdefault(row["method"], {})[row["seed"]] = row[key]
        each = agreement(published, measured)
        if each is not None:
            found[key] = each
    return found


def told(rows: Sequence[Row]) -> str:
    """Return the sentence below a table with published numbers, "" where there is nothing to compare."""
    titles = {number.key: number.label or number.key for number in described("plan", {key: 0 for key in _keys(rows)})}
    parts = []
    for key, found in agreements(rows).items():
        interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
        seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
        parts.append(f"{titles.get(key, key)} {found.tau:.2f}{interval} ({found.rows} rows, {seeds})")
    if not parts:
        return ""
    return (
        f"Kendall's τ between the published order of the rows and the order here, and its {CERTAIN:.0%} interval over "
        f"the seeds: {'; '.join(parts)}."
    )


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.get("published", {})))

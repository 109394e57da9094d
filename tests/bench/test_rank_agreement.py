"""Kendall's τ between a published order of rows and the measured one, from its definition."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy.stats import kendalltau

from congruence.bench.rank_agreement import agreement, agreements, kendall_tau, told, value_of


@pytest.mark.parametrize("seed", range(6))
def test_tau_counts_pairs_with_ties(seed):
    draw = random.Random(seed)
    first, second = ([draw.randrange(5) for _ in range(9)] for _ in range(2))
    signs = [
        (
            math.copysign(first[i] != first[j], first[i] - first[j]),
            math.copysign(second[i] != second[j], second[i] - second[j]),
        )
        for i, j in itertools.combinations(range(9), 2)
    ]
    apart = [sum(abs(pair[side]) for pair in signs) for side in (0, 1)]
    expected = sum(one * other for one, other in signs) / math.sqrt(apart[0] * apart[1])
    assert kendall_tau(first, second) == pytest.approx(expected)
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)


def test_tau_of_nothing_to_order():
    assert math.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match=r"`kendall_tau`: expected lists of one length, got 2 and 3 numbers\."):
        kendall_tau([1, 2], [1, 2, 3])


def test_the_interval_is_that_of_all_resamples_of_the_seeds():
    draw = random.Random(3)
    published = {name: float(place) for place, name in enumerate("abcde")}
    measured = {name: {seed: place + draw.gauss(0, 2) for seed in range(4)} for name, place in published.items()}
    found = agreement(published, measured)
    taus = sorted(
        kendall_tau(list(published.values()), [sum(measured[name][seed] for seed in seeds) for name in published])
        for seeds in itertools.product(range(4), repeat=4)
    )
    assert found.low == pytest.approx(taus[math.ceil(0.025 * len(taus)) - 1])
    assert found.high == pytest.approx(taus[math.ceil(0.975 * len(taus)) - 1])
    assert found.low <= found.tau <= found.high
    assert (found.rows, found.seeds) == (5, 4)


def test_only_rows_and_seeds_in_common_count():
    published = {"a": 1.0, "b": 2.0, "c": 3.0, "unmeasured": 0.0}
    measured = {"a": {0: 1.0, 1: 9.0}, "b": {0: 2.0}, "c": {0: 3.0, 2: 0.0}, "unpublished": {0: 5.0}}
    assert agreement(published, measured)[:3] == (1.0, None, None)
    assert agreement({"a": 1.0, "b": 2.0}, measured) is None
    assert agreement(published, {"a": {0: 1.0}, "b": {1: 1.0}, "c": {0: 1.0}}) is None


def test_many_seeds_are_drawn_the_same_each_time():
    measured = {name: {seed: place + (seed % 3) for seed in range(12)} for place, name in enumerate("abc")}
    published = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert agreement(published, measured) == agreement(published, measured)


def test_rows_of_a_table_are_compared_number_by_number():
    def row(method, seed, accuracy, published):
        return {"method": method, "variant": "", "seed": seed, "accuracy_best": accuracy, "published": published}

    texts = {"ce": "88.1", "kd": "89.0 ± 0.2", "pkt": "90", "none": "–"}
    rows = [
        row(method, seed, accuracy, {"accuracy_best": text})
        for (method, text), accuracy in zip(texts.items(), (0.8, 0.9, 0.85, 0.1), strict=True)
        for seed in (0, 1)
    ]
    assert value_of("–") is None
    assert agreements(rows)["accuracy_best"].tau == pytest.approx(1 / 3)
    assert told(rows) == (
        "Kendall's τ between the published order of the rows and the order here, and its 95% interval over the seeds: "
        "accuracy 0.33 [0.33, 0.33] (3 rows, 2 seeds)."
    )
    assert told([{**each, "published": {}} for each in rows]) == ""

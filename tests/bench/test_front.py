"""The Pareto front against its definition, pair by pair."""

from __future__ import annotations

import random

from congruence.bench.front import front, told


def row(method, accuracy, parameters, **more):
    return {"method": method, "variant": "", "seed": 0, "accuracy_best": accuracy, "parameters": parameters, **more}


def test_the_front_is_what_nobody_beats():
    draw = random.Random(0)
    rows = [row(str(number), draw.randint(0, 9) / 10, draw.randint(1, 9)) for number in range(30)]

    def beaten(one):
        return any(
            (other["accuracy_best"] > one["accuracy_best"] and other["parameters"] <= one["parameters"])
            or (other["accuracy_best"] >= one["accuracy_best"] and other["parameters"] < one["parameters"])
            for other in rows
        )

    assert {method for method, _ in front(rows)} == {one["method"] for one in rows if not beaten(one)}


def test_means_over_seeds_count_and_failures_do_not():
    rows = [
        *(row("a", 0.9, 5), row("a", 0.5, 5, seed=1), row("b", 0.8, 5)),
        *({"method": "c", "variant": "", "seed": 0, "failed": "It was killed."}, row("d", None, 1)),
    ]
    assert front(rows) == [("b", "")]
    assert told(rows[:3]) == ""
    assert told([*rows, row("e", 0.7, 2)]).endswith(": e, b.")

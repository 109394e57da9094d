"""The table of results: means, spreads, and numbers nobody has."""

from __future__ import annotations

import statistics

import pytest

from congruence.bench.table import cells, mean_sd, split, text


def row(method, best, last, retrieval, gpcl, parameters):
    names = ("method", "accuracy_best", "accuracy_last", "retrieval_map", "gpcl", "parameters")
    return dict(zip(names, (method, best, last, retrieval, gpcl, parameters), strict=True))


ROWS = [
    row("ce", 0.9, 0.8, 0.5, 0.75, 1234),
    row("ce", 0.7, 0.8, 0.7, 0.25, 1234),
    row("kd", 0.5, 0.4, 0.1, None, 9),
]


def test_means_and_sample_deviations():
    values = [0.3, 0.7, 0.1, 0.9]
    mean = sum(values) / 4
    spread = (sum((value - mean) ** 2 for value in values) / 3) ** 0.5
    assert mean_sd(values) == pytest.approx((mean, spread))
    assert mean_sd([2.0]) == (2.0, None)


def test_lines():
    heading, *lines = cells(ROWS, [row("", 1.0, 0.95, 0.9, None, 2000000)])
    spread = statistics.stdev([90, 70])
    assert len(heading) == 6
    assert lines[0] == ["teacher", "100.0", "95.0", "90.0", "–", "2,000,000"]
    assert lines[1] == ["ce", f"80.0 ± {spread:.1f}", "80.0 ± 0.0", f"60.0 ± {spread:.1f}", "0.500 ± 0.354", "1,234"]
    assert lines[2] == ["kd", "50.0", "40.0", "10.0", "–", "9"]


def test_more_columns_are_those_that_a_run_has():
    rows = [{**ROWS[0], "cosine_kernel_transfer_error": 0.25, "wasserstein": None, "factor": 1.0}, ROWS[1]]
    heading, line = cells(rows, more=True)
    assert heading[5:] == ["kernel error (cosine)", "parameters"]
    assert line[5] == "0.250"
    assert cells(rows)[0][5:] == ["parameters"]


def test_a_teacher_is_called_by_its_name():
    teacher = row("", 1.0, 1.0, 1.0, None, 1)
    assert [line[0] for line in cells([], [teacher, {**teacher, "name": "teacher, small"}])[1:]] == [
        "teacher",
        "teacher, small",
    ]


def test_tables_are_of_variants_or_of_methods_where_these_are_fewer():
    def of(methods, variants):
        return split([{"method": method, "variant": variant} for variant in variants for method in methods])

    two = of(("ce", "kd", "pkt"), ("small", "large"))
    assert list(two) == ["small", "large"]
    assert [row["method"] for row in two["large"]] == ["ce", "kd", "pkt"]
    swept = of(("wasserstein", "mmd"), ("low", "middle", "high"))
    assert list(swept) == ["wasserstein", "mmd"]
    assert [row["method"] for row in swept["mmd"]] == ["low", "middle", "high"]
    assert list(split([{"method": "ce"}, {"method": "kd"}])) == [""]


def test_text_is_aligned_markdown():
    rows = text(cells(ROWS)).split("\n")
    assert len({len(row) for row in rows}) == 1
    assert all(row.startswith("|") and row.endswith("|") for row in rows)
    assert set(rows[1]) <= set("|-:")

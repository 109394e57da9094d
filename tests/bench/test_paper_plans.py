"""The papers' tables as plans: whole, with published numbers, and with rows that differ by their method alone."""

from __future__ import annotations

import pytest

from congruence.bench.plan import teacher_names
from congruence.bench.planfile import load_plan
from congruence.bench.rank_agreement import value_of
from congruence.config.shipped import names, shipped

PAPERS = tuple(name for name in names("plans") if name.startswith("paper/"))
TABLES = {
    *(f"cckd-{number}" for number in range(1, 8)),
    *(f"intra-class-{number}" for number in range(1, 4)),
    *(f"kda-{number}" for number in range(1, 4)),
    "kd2m-1",
    *(f"perception-coherence-{number}" for number in range(1, 7)),
}
# Rows that a table does not have: what others are read against, and what the text of a table leaves out.
ADDED = {
    "cckd-5": {"kd"},
    "kda-1": {"conv3", "conv4"},
    "kda-2": {"ce-shufflenetv2"},
    "intra-class-3": {
        f"{row}-{pair}"
        for row in ("student", "crd", "ofd")
        for pair in ("resnet-mobilenet", "wrn-shuffle", "vgg-mobilenet")
    },
}
# What else belongs to a method: batches, its students, layers that no cache holds.
TRAIN = {"cckd-7": {"sampler", "drop_last"}}
STUDENTS = {"dml", "one_layer", "two_layers", "three_layers"}


def test_each_table_has_a_plan():
    assert {name.removeprefix("paper/").removesuffix("-cpu") for name in PAPERS} == TABLES
    assert shipped("plans", "paper-kda-2") == shipped("plans", "paper/kda-2")


@pytest.mark.parametrize("name", PAPERS)
def test_it_is_whole(name):
    plan, short = load_plan(name), name.removeprefix("paper/")
    assert plan.name == name.replace("/", "-")
    assert len(plan.seeds) >= 3
    cells = [cell for cell in plan.cells() if cell.seed == 0]
    assert len({cell.name for cell in cells}) == len(cells) == plan.count() / len(plan.seeds)
    assert all(cell.has_teacher for cell in cells)
    assert all(cell.config.data.validation != 0 for cell in cells)
    for variant in plan.variants:
        rows = [cell for cell in cells if cell.variant == variant]
        apart = TRAIN.get(short, set())
        trains = {str(cell.config.stages["student"].train.model_dump(exclude=apart)) for cell in rows}
        students = {str(cell.config.stages["student"].student) for cell in rows if cell.method not in STUDENTS}
        assert len(trains) == 1
        assert len(students) == 1
        assert len({str(cell.config.data) for cell in rows}) == 1
        taught = {cell.teacher_key() for cell in rows if cell.method not in ("ours", "ours_rkd", "hkd")}
        assert len(taught) == 1
    published = plan.published
    beside = published.beside([{"method": cell.method, "variant": cell.variant} for cell in cells])
    assert {cell.row for cell, row in zip(cells, beside, strict=True) if not row["published"]} == ADDED.get(
        short, set()
    )
    for row, numbers in published.rows.items():
        assert all(value_of(text) is not None for text in numbers.values()), row
        if row.startswith("teacher"):
            assert row in teacher_names(cells).values()


def test_averages_are_published_too():
    plan = load_plan("paper/kd2m-1")
    assert plan.average
    assert plan.published.beside([{"method": "ce", "variant": "average"}])[0]["published"] == {"accuracy_best": "78.29"}

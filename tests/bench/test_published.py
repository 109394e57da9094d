"""A plan's table of published numbers: read, refused, and shown beside what is measured."""

from __future__ import annotations

import pytest

from congruence.bench.planfile import load_plan
from congruence.bench.table import averaged, cells, split, together

PLAN = """
name = "paper"
seeds = [0, 1]
[methods]
ce = "digits/ce"
kd = "digits/kd"
[variants]
small = []
large = []
[published]
source = "Someone et al., table 1"
differs = "all images are trained on"
[published.rows]
teacher = 93
ce = 88.1
"kd-small" = "89.0 ± 0.2"
"kd-large" = { accuracy_best = 90.5, retrieval_map = "70.0" }
"""


def load(tmp_path, text=PLAN):
    (tmp_path / "paper.toml").write_text(text)
    return load_plan(str(tmp_path / "paper.toml"))


def row(method, variant, accuracy, **more):
    return {"method": method, "variant": variant, "accuracy_best": accuracy, "retrieval_map": 0.5, **more}


ROWS = [row(m, v, a, parameters=9, seed=0) for m, a in (("ce", 0.8), ("kd", 0.9)) for v in ("small", "large")]
TEACHER = {"name": "teacher", "accuracy_best": 0.95, "retrieval_map": 0.8, "parameters": 90}


def test_it_stands_beside_the_number_it_is_of(tmp_path):
    published = load(tmp_path).published
    rows, teachers = published.beside(ROWS), published.beside([TEACHER])
    tables = {title: cells(group, teachers) for title, group in split(rows).items()}
    heading, teacher, ce, kd = tables["small"]
    assert heading == ["", "accuracy, best (%)", "published", "retrieval mAP (%)", "parameters"]
    assert teacher[:4] == ["teacher", "95.0", "93", "80.0"]
    assert ce[:3] == ["ce", "80.0", "88.1"]
    assert kd[:3] == ["kd", "90.0", "89.0 ± 0.2"]
    heading, _, ce, kd = tables["large"]
    assert heading[1:5] == ["accuracy, best (%)", "published", "retrieval mAP (%)", "published"]
    assert ce[1:5] == ["80.0", "88.1", "50.0", "–"]
    assert kd[1:5] == ["90.0", "90.5", "50.0", "70.0"]
    assert [line[2] for line in cells(together(rows))[1:]] == ["88.1", "88.1", "89.0 ± 0.2", "90.5"]
    told = "Published: Someone et al., table 1. Its setting differs: all images are trained on."
    assert published.told() == told


def test_without_it_nothing_is_added(tmp_path):
    text = PLAN.partition("[published]")[0]
    assert load(tmp_path, text).published is None
    assert cells(ROWS)[0] == ["", "accuracy, best (%)", "retrieval mAP (%)", "parameters"]


def test_its_columns_are_in_the_command_of_a_plan_alone(tmp_path):
    rows = load(tmp_path).published.beside(ROWS)
    assert all("published" not in each for each in ROWS)  # what is stored stays as it was
    assert rows[0]["published"] == {"accuracy_best": "88.1"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("ce = 88.1", "dist = 88.1", "published.rows.dist: unknown row."),
        ("ce = 88.1", "ce = true", "published.rows.ce: expected a number or a text, got True."),
        ("retrieval_map =", "retrieval_mpa =", "published: a plan has no number 'retrieval_mpa'."),
        ('source = "Someone et al., table 1"', "", "published.source: expected a sentence, got None."),
        ("differs =", "difers =", "published.difers: unknown key. Did you mean 'differs'?"),
        ('differs = "all images are trained on"', 'number = "acc"', "published: a plan has no number 'acc'."),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, sentence):
    with pytest.raises(ValueError, match="published") as refused:
        load(tmp_path, PLAN.replace(old, new))
    assert sentence in str(refused.value)


def test_rows_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"published.rows: expected for each row a number, or numbers by their keys\."):
        load(tmp_path, PLAN.partition("[published.rows]")[0])


AVERAGED = (
    PLAN.replace("[methods]", "average = true\n[methods]", 1) + '"ce-average" = 85.0\n"teacher, kd-large" = 94.0\n'
)


def test_means_over_variants_have_published_numbers_too(tmp_path):
    plan = load(tmp_path, AVERAGED)
    rows = [{**row(m, v, a), "seed": 0} for m, v, a in (("ce", "small", 0.8), ("ce", "large", 0.9), ("kd", "small", 1))]
    more = averaged(rows, list(plan.variants), "average")
    assert [(each["method"], each["variant"], each["accuracy_best"]) for each in more] == [
        ("ce", "average", pytest.approx(0.85))
    ]
    assert plan.published.beside(more)[0]["published"] == {"accuracy_best": "85.0"}
    assert plan.published.beside([{"name": "teacher, kd-large"}])[0]["published"] == {"accuracy_best": "94.0"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("average = true", "average = false", "published.rows.ce-average: unknown row."),
        ("[published.rows]", "same_data = 1\n[published.rows]", "published.same_data: expected true or false, got 1."),
        ("average = true", "average = 1", "average: expected true or false, got 1."),
        ("large = []\n", "", "average: expected two variants or more, none of them 'average', got ['small']."),
    ],
)
def test_averages_need_variants(tmp_path, old, new, sentence):
    with pytest.raises(ValueError) as error:
        load(tmp_path, AVERAGED.replace(old, new))
    assert sentence in str(error.value)


def test_what_is_held_out_is_told(tmp_path):
    assert load(tmp_path).published.told(held_out=True) == load(tmp_path).published.told()
    plan = load(tmp_path, PLAN.replace("[published.rows]", "same_data = true\n[published.rows]"))
    assert plan.holds_out() is True
    assert "a part of the training images is held out here" in plan.published.told(held_out=True)
    assert "chooses on the test images" in plan.published.told(held_out=False)
    whole = load_plan(str(tmp_path / "paper.toml"), overrides=("data.validation=0",))
    assert whole.holds_out() is False

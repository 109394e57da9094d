"""The table of numbers: one row for each, read wherever numbers are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from _harness.fits import data, net

import congruence as cg
from congruence.bench.table import cells
from congruence.cli.train import table as run_table
from congruence.evaluation import Embeddings, Number, diagnose, measure, numbers
from congruence.evaluation.measure import measured
from congruence.evaluation.stored import described
from congruence.training.saving.migrate import migrate_numbers

STUDENT = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def length(of):
    return float(of.student_features.norm())


LENGTH = Number("length", length, title="length of all", label="length", digits=2, higher_is_better=False)


@pytest.fixture
def one_more(monkeypatch):
    """One row more in the table."""
    monkeypatch.setattr(numbers, "ROWS", (*numbers.ROWS, LENGTH))
    numbers._all.cache_clear()
    yield
    monkeypatch.undo()
    numbers._all.cache_clear()


def test_one_row_is_in_every_table(one_more):
    splits = cg.data.load("digits", train_size=100)
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    found = measure(student, splits)
    expected = length(Embeddings(splits.test.batch(range(len(splits.test))).flatten(1)))
    assert found.length == pytest.approx(expected, rel=1e-5)
    assert "length" in found.to_dict()
    assert f"{'length':16}{found.length:10.4f}" in run_table({"best": found.to_dict()}, title="test set")
    heading, line = cells([{"method": "ce", "length": found.length, "parameters": 1}])
    assert (heading[1], line[1]) == ("length of all", f"{found.length:.2f}")
    assert diagnose(Embeddings(STUDENT), "length") == {"length": length(Embeddings(STUDENT))}
    assert "length" in diagnose(Embeddings(STUDENT))


def test_one_row_is_in_compare(one_more):
    teacher, student = net(0, 7), net(1)
    loader = cg.data.loader(data(12), batch_size=5, shuffle=False)
    found = cg.compare(teacher, student, loader)
    sides = {"student": cg.evaluation.embed(student, loader), "teacher": cg.evaluation.embed(teacher, loader)}
    expected = {f"{side}_length": length(Embeddings(embedded.features)) for side, embedded in sides.items()}
    assert {key: found.more[key] for key in expected} == pytest.approx(expected)
    assert {key: found.to_dict()[key] for key in found.more} == found.more
    assert list(found.to_dict())[: -len(found.more)] == list(cg.Comparison(1, None, None, None, 1.0, 1, 1).to_dict())


def test_a_key_stands_once_in_each_place():
    with pytest.raises(ValueError, match=r"^The table of numbers has two rows with the key 'length'\.$"):
        numbers.table((LENGTH, replace(LENGTH, shown=("plan", "run"))))
    index = numbers.table((replace(LENGTH, shown=("run",)), replace(LENGTH, shown=("diagnostics",), digits=1)))
    assert (index["run"]["length"].digits, index["diagnostics"]["length"].digits) == (2, 1)
    with pytest.raises(ValueError, match="No number can have the key 'seed'"):
        numbers.table((replace(LENGTH, key="seed"),))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"needs": ("labels", "taecher")}, "`Number`: `needs` must be words among teacher, two, .* got 'taecher'."),
        (
            {"shown": ("run", "report")},
            "`shown` must be words among run, plan, compare, diagnostics, got 'report'.",
        ),
    ],
)
def test_a_row_with_a_wrong_word_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(LENGTH, **change)


def test_what_cannot_be_had_is_none():
    rows = [LENGTH, replace(LENGTH, key="taught", needs=("teacher",)), replace(LENGTH, key="classed", of_classes=True)]
    assert measured(rows, Embeddings(STUDENT), classifies=False) == {
        "length": length(Embeddings(STUDENT)),
        "taught": None,
        "classed": None,
    }
    assert measured(rows, None) == {"length": None, "taught": None, "classed": None}
    assert measured([Number("parameters", None)], None, facts={"parameters": 7}) == {"parameters": 7}


def test_a_function_may_give_several():
    rows = [Number("sides", lambda of: {"rows": len(of.student_features), "width": None})]
    assert measured(rows, Embeddings(STUDENT)) == {"rows": 6, "width": None}


def test_the_two_kernel_errors_have_two_names():
    teacher = 5 * STUDENT
    of = Embeddings(STUDENT, teacher)
    raw = diagnose(of, "kernel_transfer_error")["kernel_transfer_error"]
    assert raw == cg.metrics.kernel_transfer_error(STUDENT, teacher) == pytest.approx(1 - 1 / 25)
    for place in ("run", "plan", "compare"):
        both = [numbers.numbers_in(place)[name] for name in ("kernel_transfer_error", "cosine_kernel_transfer_error")]
        values = {name: value for number in both for name, value in number.measure(of).items()}
        assert values["kernel_transfer_error"] == raw
        assert values["cosine_kernel_transfer_error"] == pytest.approx(0, abs=1e-6)
        assert len({number.title for number in both}) == len({number.label for number in both}) == 2
    assert migrate_numbers({"kernel_transfer_error": 0.5, "gpcl": None}) == {
        "cosine_kernel_transfer_error": 0.5,
        "gpcl": None,
    }
    today = {"kernel_transfer_error": 0.5, "cosine_kernel_transfer_error": 0.25}
    assert migrate_numbers(today) == today


def test_the_kernel_error_behind_the_last_linear_is_of_the_logits():
    of = Embeddings(STUDENT, STUDENT, student_logits=STUDENT, teacher_logits=2 * STUDENT)
    number = numbers.numbers_in("run")["logit_kernel_transfer_error"]
    assert number.measure(of) == {"logit_kernel_transfer_error": pytest.approx(1 - 1 / 4)}
    masked = torch.cat([STUDENT, torch.full((len(STUDENT), 1), -torch.inf)], 1)
    of = Embeddings(STUDENT, STUDENT, student_logits=STUDENT, teacher_logits=masked)
    assert number.measure(of) == {"logit_kernel_transfer_error": None}


def test_a_stored_number_without_a_row_is_shown_under_its_name():
    shown = described("plan", ["gpcl", "mine", "mine"])
    assert [number.key for number in shown][-1] == "mine"
    assert [number.key for number in shown[:-1]] == list(numbers.numbers_in("plan"))
    heading, line = cells([{"method": "ce", "mine": 0.25, "parameters": 1}])
    assert (heading[1], line[1]) == ("mine", "0.250")
    text = run_table({"best": {"a_metric_with_a_long_name": 0.25}}, title="test set").splitlines()
    assert text == ["test set                        best", "a_metric_with_a_long_name     0.2500"]


def test_a_measurement_has_its_numbers_as_attributes():
    found = cg.evaluation.Measurement({"gpcl": 0.5})
    assert found.gpcl == 0.5
    with pytest.raises(AttributeError, match="has no number 'gpc', only gpcl"):
        _ = found.gpc

"""Batches of any kind, taken apart in one place."""

from __future__ import annotations

import pytest
import torch

from congruence.core.batch import Batch, grouped, parse, unpack
from congruence.core.inputs import Inputs

X, Y, I = torch.ones(4, 2), torch.arange(4), torch.arange(4) + 10  # noqa: E741


@pytest.mark.parametrize(
    ("batch", "inputs", "labels", "index"),
    [
        (X, X, None, None),
        ((X,), X, None, None),
        ((X, Y), X, Y, None),
        ([X, None, I], X, None, I),
        ({"inputs": X, "labels": Y, "index": I}, X, Y, I),
        ({"inputs": X, "label": Y}, X, Y, None),
        ({"input_ids": X, "mask": Y, "labels": Y}, {"input_ids": X, "mask": Y}, Y, None),
        (((X, X), Y), (X, X), Y, None),
        ({"inputs": X, "label": I, "labels": Y, "other": X}, X, Y, None),
        ({"input_ids": X, "label": I, "labels": Y}, {"input_ids": X}, Y, None),
        (Batch(X, Y, I), X, Y, I),
    ],
)
def test_unpack(batch, inputs, labels, index):
    found = unpack(batch, torch.device("cpu"))
    assert str(found.inputs) == str(inputs)
    assert found.labels is labels
    assert found.index is index


def test_a_batch_is_not_changed():
    batch = {"inputs": X, "labels": Y, "views": {"strong": X}}
    found = unpack(batch)
    assert list(batch) == ["inputs", "labels", "views"]
    assert list(found.views) == ["strong"]


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ((X, Y, I, I), "got 4 parts"),
        ((), "got 0 parts"),
        ((X, [1, 2]), "The labels of a batch must be a tensor, got list"),
    ],
)
def test_bad_batches(batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        unpack(batch)


@pytest.mark.parametrize(
    ("third", "why"),
    [
        ([1, 2], "list"),
        (("a.png", "b.png"), "tuple"),
        (torch.rand(4), "float32 [4]"),
        (I > 11, "bool [4]"),
        (I[:, None], "int64 [4, 1]"),
        (I[:2], "int64 [2]"),
        (I - 12, "-2 among them"),
    ],
)
def test_what_is_no_index_is_left_out(third, why):
    for batch in ((X, Y, third), {"inputs": X, "labels": Y, "index": third}):
        found = unpack(batch)
        assert found.index is None
        assert found.no_index == why
        assert found.to("meta").no_index == why
        assert found.labels is Y
    narrow = unpack((X, Y, I.int())).index
    assert narrow.dtype == torch.int64
    assert narrow.tolist() == I.tolist()


def test_everything_moves():
    found = unpack({"inputs": {"a": [X, (X,)], "n": 3}, "labels": Y, "views": {"s": X}}, torch.device("meta"))
    assert found.inputs["a"][1][0].is_meta
    assert found.inputs["n"] == 3
    assert found.labels.is_meta
    assert found.views["s"].is_meta


def test_an_item_may_go_on_where_a_batch_may_not():
    item = parse(("text", 3, 7, "more"))
    assert (item.inputs, item.labels, item.index) == ("text", 3, 7)
    with pytest.raises(ValueError, match="got 4 parts"):
        unpack((X, Y, I, X))


def test_what_is_given_goes_round():
    for batch in (Batch(X, Y, I), Batch(X, None, I), Batch(X, Y, I, {"main": X, "strong": Y})):
        again = unpack(batch.as_given())
        assert again.inputs is batch.inputs
        assert again.labels is batch.labels
        assert again.index is batch.index
        assert again.views == batch.views


def test_a_view_that_is_the_inputs_moves_once():
    moved = Batch(X, None, None, {"main": X, "strong": X + 1}).to("meta")
    assert moved.views["main"] is moved.inputs


def test_groups():
    batches = [Batch(torch.full((2,), float(number))) for number in range(4)]
    groups = [[int(batch.inputs[0]) for batch in group] for group in grouped(batches, 3, torch.device("cpu"))]
    assert groups == [[0, 1, 2], [3]]


@pytest.mark.parametrize("name", ["target", "targets", "y"])
def test_labels_of_another_name_are_not_left_out_without_a_word(name):
    with pytest.raises(ValueError, match=f"must have its labels as 'labels' \\(or 'label'\\), got '{name}'"):
        parse({"inputs": torch.ones(2, 3), name: torch.zeros(2)})
    assert parse({"inputs": torch.ones(2, 3), name: torch.zeros(2), "labels": torch.ones(2)}).labels is not None
    assert set(parse({name: torch.zeros(2), "x": torch.ones(2, 3)}).inputs) == {name, "x"}  # the model's own arguments


def test_inputs_of_each_model_stay_what_they_are():
    inputs = Inputs(teacher=X, student=Y)
    assert parse(inputs).inputs is inputs
    assert parse((inputs, Y)).inputs is inputs
    assert unpack({"inputs": inputs, "labels": Y}).inputs is inputs

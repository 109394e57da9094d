"""Private copies of inputs: writes stay on their side, whatever memory the tensors have; and inputs made later."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from congruence.core import devices
from congruence.core.devices import private
from congruence.core.inputs import Inputs, check_rows_agree, inputs_of
from congruence.core.later import Later, entries

KINDS = {
    "usual": lambda: torch.ones(2, 3),
    "of NumPy": lambda: torch.from_numpy(np.ones((2, 3), dtype=np.float32)),
    "shared": lambda: torch.ones(2, 3).share_memory_(),
    "a view": lambda: torch.ones(4, 3)[1:3],
    "of a half": lambda: torch.ones(2, 3, dtype=torch.bfloat16),
    "of integers": lambda: torch.ones(2, 3, dtype=torch.int64),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("mine", [True, False], ids=["the copy is written", "the original is written"])
def test_a_write_stays_on_its_side(make, mine):
    original = make()
    copy = private({"x": original})["x"]
    written, other = (copy, original) if mine else (original, copy)
    written[0].add_(4)
    assert torch.equal(other, torch.ones_like(other))
    assert torch.equal(written[1], other[1])
    assert written[0, 0] == 5


def test_a_copy_of_what_wants_gradient_passes_it_on():
    original = torch.ones(3, requires_grad=True)
    private(original).square().sum().backward()
    assert torch.equal(original.grad, torch.full((3,), 2.0))


def test_inputs_left_for_later_are_made_once_and_then_as_they_would_have_been():
    asked = []

    def make():
        asked.append(1)
        return torch.arange(3.0)

    inputs = Inputs(student=torch.zeros(3, 2), teacher=Later(make))
    moved = devices.on_tensors(torch.neg, devices.to_device(inputs, "cpu"))
    assert devices.row_count(moved) == 3
    assert [tensor.shape for tensor in devices.tensors(moved)] == [(3, 2)]
    check_rows_agree(moved)
    assert not asked
    assert inputs_of(moved, "teacher", "teacher").tolist() == [0, -1, -2]
    assert moved["teacher"].tolist() == [0, -1, -2]
    few = devices.take_rows(moved, torch.tensor([2, 1]), 3)
    assert few["teacher"].tolist() == [-2, -1]
    assert asked == [1]


def test_whoever_reads_an_entry_gets_inputs_and_whoever_moves_them_makes_none():
    asked = []

    def later(name):
        return Later(lambda: asked.append(name) or torch.ones(3, 1))

    inputs = Inputs(teacher=later("teacher"), other=later("other"))
    copied = copy.copy(inputs)
    moved = {name: entry.to(torch.float64) for name, entry in entries(copied)}  # as trainers move what has `to`
    assert asked == []
    assert devices.row_count(inputs) == 3
    assert asked == ["teacher"]  # there is nothing else to count
    assert [type(value) for value in (*inputs.values(), inputs.get("other"), *dict(inputs.items()).values())] == [
        torch.Tensor
    ] * 5
    assert inputs.get("third") is None
    assert moved["other"].made().dtype == torch.float64
    assert asked == ["teacher", "other"]

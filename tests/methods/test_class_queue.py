"""Queues by class: who waits, who is ready, what is kept of inputs of any form, and the state that goes with it."""

from typing import NamedTuple

import pytest
import torch

from congruence.methods.class_queue import ClassQueue


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def every(rows):
    return torch.ones(rows, dtype=torch.bool)


def queued(size=2, views=("clean", "main")):
    queue = ClassQueue(views, size)
    points = torch.arange(8.0).view(4, 2)
    added = torch.tensor([True, True, False, True])
    queue.replace(queue.ready(), {"clean": points, "main": 10 * points}, torch.tensor([1, 0, 1, 1]), added)
    return queue, points


def test_a_class_is_ready_when_it_has_enough():
    queue, points = queued()
    assert queue.labels.tolist() == [1, 0, 1]
    assert queue.ready().tolist() == [True, False, True]
    taken = queue.taken(queue.ready(), {"clean": points, "main": points})
    assert torch.equal(taken["clean"], points[[0, 3]])
    assert torch.equal(taken["main"], 10 * points[[0, 3]])


def test_what_was_ready_goes_and_the_rest_stays_first():
    queue, points = queued()
    new = {"clean": points[:1] + 100, "main": points[:1]}
    queue.replace(queue.ready(), new, torch.tensor([0]), every(1))
    assert queue.labels.tolist() == [0, 0]
    assert torch.equal(queue.clean_0, torch.stack([points[1], points[0] + 100]))


def test_an_empty_queue_is_never_ready():
    queue = ClassQueue(("main",), 2)
    assert queue.ready().tolist() == []
    queue.replace(queue.ready(), {"main": torch.ones(2, 3)}, torch.tensor([0, 0]), ~every(2))
    assert queue.main_0.shape == (0, 3)
    queue.replace(queue.ready(), {"main": torch.ones(2, 5)}, torch.tensor([0, 0]), every(2))
    assert queue.main_0.shape == (2, 5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: {"words": (x * 3).long(), "mask": x > 2, "kind": "text"},
        lambda x: (x, [2 * x, None]),
        lambda x: Pair(x, -x),
    ],
    ids=["mapping", "nested", "named tuple"],
)
def test_inputs_of_any_form_are_kept(form):
    points = torch.arange(8.0).view(4, 2)
    queue = ClassQueue(("main",), 2)
    queue.replace(queue.ready(), {"main": form(points)}, torch.zeros(4).long(), every(4))
    (taken,) = queue.taken(torch.tensor([True, False, True, False]), {"main": form(points[:1])}).values()
    expected = form(points[[0, 2]])
    assert type(taken) is type(expected)
    assert str(taken) == str(expected)


def test_state_goes_into_a_new_one_whatever_it_holds():
    queue, points = queued()
    other, empty = ClassQueue(("clean", "main"), 2), ClassQueue(("clean", "main"), 2)
    start = empty.state_dict()
    other.load_state_dict(queue.state_dict())
    assert other.state_dict().keys() == queue.state_dict().keys() == {"labels", "clean_0", "main_0"}
    assert torch.equal(other.main_0, 10 * points[[0, 1, 3]])
    assert other.labels.tolist() == [1, 0, 1]
    other.load_state_dict(start)
    assert other.state_dict().keys() == {"labels"}
    assert len(other.labels) == 0


def test_another_shape_of_inputs_is_refused():
    queue, _ = queued()
    wide = torch.zeros(1, 3)
    sentence = r"`ClassQueue`: inputs must have the shape \[2\] of those kept in view 'clean', got \[3\]: pad all"
    with pytest.raises(ValueError, match=sentence):
        queue.replace(queue.ready(), {"clean": wide, "main": wide}, torch.tensor([0]), every(1))

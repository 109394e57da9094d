"""What the host keeps of labels and positions that it moved."""

from __future__ import annotations

import pytest
import torch
from _harness.reads import Reads
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.core import host_values as known
from congruence.core.batch import unpack


def test_what_is_moved_is_known():
    here = torch.tensor([3, -1, 7])
    there = here.clone()
    assert known.known(there) is None
    assert known.extremes(there) == (-1, 7)
    known.note(there, here)
    assert known.known(there)[:2] == (-1, 7)
    assert known.on_host(there) is here
    there += 1
    assert known.known(there) is None
    assert known.extremes(there) == (0, 8)
    assert known.on_host(there).tolist() == [4, 0, 8]


def test_rows_of_all_ranks_are_known_by_one_s_own():
    own = torch.tensor([1, 2])
    known.note(moved := own.clone(), own)
    whole = known.note_rows(torch.tensor([1, 2, 9]), moved)
    assert known.extremes(whole) == (1, 2)
    assert known.on_host(whole).tolist() == [1, 2, 9]
    assert known.known(known.note_rows(torch.tensor([4]), torch.tensor([4]))) is None


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(3) > 0, torch.ones(0).long()])
def test_nothing_is_noted_of_other_tensors(tensor):
    known.note(copy := tensor.clone(), tensor)
    assert known.known(copy) is None


def test_a_batch_that_is_moved_is_known():
    index = torch.tensor([5, 2])
    batch = unpack((torch.ones(2, 1), torch.tensor([0, 1]), index), torch.device("meta"))
    assert known.extremes(batch.labels) == (0, 1)
    assert known.on_host(batch.index) is index
    loader = cg.data.loader(TensorDataset(torch.ones(4, 1), torch.arange(4)), batch_size=4, device="meta")
    _, labels, index = next(iter(loader))
    assert known.extremes(labels) == known.extremes(index) == (0, 3)


def test_labels_that_do_not_fit_are_refused_without_a_look():
    labels = torch.tensor([0, 5])
    known.note(moved := labels.clone(), labels)
    with Reads() as reads, pytest.raises(ValueError, match=r"`labels` must be class labels in \[0, 3\)"):
        cg.losses.cross_entropy_loss(torch.zeros(2, 3), moved)
    assert reads.places == {}

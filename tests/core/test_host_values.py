"""What the host keeps of labels and positions that it moved."""

from __future__ import annotations

import pytest
import torch
from _harness.reads import Reads
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.core import host_values
from congruence.core.batch import unpack


def test_the_values_of_what_is_moved_are_noted():
    here = torch.tensor([3, -1, 7])
    moved = here.clone()
    assert host_values.host_values_of(moved) is None
    assert host_values.extremes(moved) == (-1, 7)
    host_values.note_values(moved, here)
    assert host_values.host_values_of(moved)[:2] == (-1, 7)
    assert host_values.on_host(moved) is here
    moved += 1
    assert host_values.host_values_of(moved) is None
    assert host_values.extremes(moved) == (0, 8)
    assert host_values.on_host(moved).tolist() == [4, 0, 8]


def test_rows_of_all_ranks_have_the_extremes_of_one_s_own():
    own = torch.tensor([1, 2])
    host_values.note_values(moved := own.clone(), own)
    gathered = host_values.note_row_values(torch.tensor([1, 2, 9]), moved)
    assert host_values.extremes(gathered) == (1, 2)
    assert host_values.on_host(gathered).tolist() == [1, 2, 9]
    assert host_values.host_values_of(host_values.note_row_values(torch.tensor([4]), torch.tensor([4]))) is None


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(3) > 0, torch.ones(0).long()])
def test_nothing_is_noted_of_other_tensors(tensor):
    host_values.note_values(copy := tensor.clone(), tensor)
    assert host_values.host_values_of(copy) is None


def test_the_values_of_a_batch_that_is_moved_are_noted():
    index = torch.tensor([5, 2])
    batch = unpack((torch.ones(2, 1), torch.tensor([0, 1]), index), torch.device("meta"))
    assert host_values.extremes(batch.labels) == (0, 1)
    assert host_values.on_host(batch.index) is index
    loader = cg.data.loader(TensorDataset(torch.ones(4, 1), torch.arange(4)), batch_size=4, device="meta")
    _, labels, index = next(iter(loader))
    assert host_values.extremes(labels) == host_values.extremes(index) == (0, 3)


def test_labels_that_do_not_fit_are_refused_without_a_look():
    labels = torch.tensor([0, 5])
    host_values.note_values(moved := labels.clone(), labels)
    with Reads() as reads, pytest.raises(ValueError, match=r"`labels` must be class labels in \[0, 3\)"):
        cg.losses.cross_entropy_loss(torch.zeros(2, 3), moved)
    assert reads.functions == {}

"""Any map-style dataset as a part of splits."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from congruence.core.inputs import Inputs
from congruence.data import Augment, ItemDataset, keep_labels, loader


class Own(Dataset):
    """Six rows, with a transform that draws."""

    def __init__(self, label=lambda index: index % 3, noise=False):
        self.label, self.noise, self.read = label, noise, 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.read += 1
        row = torch.full((2,), float(index)) + (torch.rand(2) + random.random() if self.noise else 0)
        return row, self.label(index)


class Named(Own):
    targets = (0, 1, 0, 1, 0, 1)
    classes = ("no", "yes", "perhaps")

    def fingerprint(self):
        return "of all"


def test_labels_are_those_of_the_items():
    data = ItemDataset(Own())
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.classes, len(data), data.told, data.in_memory) == (3, 6, False, False)
    assert data.batch([4, 1]).tolist() == [[4.0, 4.0], [1.0, 1.0]]
    assert ItemDataset(Own(lambda index: torch.tensor(index % 2))).labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert ItemDataset(Own(lambda index: index / 2)).labels is None
    assert ItemDataset([torch.ones(2), torch.zeros(2)]).labels is None


def test_what_the_dataset_tells_is_not_read():
    items = Named()
    data = ItemDataset(items)
    assert (items.read, data.labels.tolist(), data.classes) == (0, [0, 1, 0, 1, 0, 1], 3)
    assert (data.class_names, data.told) == (("no", "yes", "perhaps"), True)
    assert ItemDataset(Subset(items, [1, 2])).labels.tolist() == [1, 0]


def test_reading_labels_leaves_the_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ItemDataset(Own(noise=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sample_is_a_function_of_its_key():
    data = ItemDataset(Own(noise=True))
    first = data.batch([0, 1, 2], epoch=1, seed=3)
    assert torch.equal(first[[2]], data.batch([2], epoch=1, seed=3))
    assert not torch.equal(first, data.batch([0, 1, 2], epoch=2, seed=3))
    alone = next(loader(Own(noise=True), batch_size=6, shuffle=False, seed=3).batches(0))[0]
    assert torch.equal(next(loader(data, batch_size=6, shuffle=False, seed=3).batches(0))[0], alone)
    assert data.varies(None)


def test_subsets_and_forgotten_labels():
    data = ItemDataset(Own()).subset([5, 3, 1])
    assert data.labels.tolist() == [2, 0, 1]
    assert data.batch([0, 2])[:, 0].tolist() == [5.0, 1.0]
    assert data.subset([1]).batch([0])[:, 0].tolist() == [3.0]
    assert sorted(keep_labels(ItemDataset(Own()), 1).labels.tolist()) == [-1, -1, -1, 0, 1, 2]
    assert len(data.subset([])) == 0


def test_rows_of_tensors_are_gathered():
    rows, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    data = ItemDataset(TensorDataset(rows, labels))
    assert torch.equal(data.batch([3, 0]), rows[[3, 0]])
    assert (data.in_memory, data.told, data.varies(None)) == (True, True, False)
    floats = ItemDataset(TensorDataset(rows, torch.randn(6)))
    assert floats.labels is None
    assert ItemDataset(TensorDataset(rows)).labels is None
    three = ItemDataset(TensorDataset(rows, labels, torch.arange(6)))
    assert torch.equal(three.batch([3, 0]), rows[[3, 0]])
    assert not three.told


def test_a_class_of_rows_of_tensors_with_a_transform_of_its_own_keeps_it():
    class Doubled(TensorDataset):
        def __getitem__(self, row):
            rows, label = super().__getitem__(row)
            return 2 * rows, label

    rows, labels = torch.arange(12.0).view(6, 2), torch.arange(6) % 3
    data = ItemDataset(Doubled(rows, labels))
    assert torch.equal(data.batch(range(6)), 2 * rows)
    assert (data.in_memory, data.told, data.varies(None), data.classes) == (False, False, True, 3)
    assert [loader(each(rows, labels), batch_size=2).varies() for each in (TensorDataset, Doubled)] == [False, True]


def test_fingerprints_are_of_the_content():
    rows, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    one = ItemDataset(TensorDataset(rows, labels)).fingerprint()
    assert one == ItemDataset(TensorDataset(rows.clone(), labels)).fingerprint()
    assert one != ItemDataset(TensorDataset(rows + 1, labels)).fingerprint()
    assert one != ItemDataset(TensorDataset(rows, 1 - labels)).fingerprint()
    plain = [ItemDataset(TensorDataset(rows, each)).fingerprint(labels=False) for each in (labels, 1 - labels)]
    assert plain[0] == plain[1]
    whole = ItemDataset(Own())
    assert whole.fingerprint() == ItemDataset(Own()).fingerprint()
    assert whole.fingerprint() != whole.subset([0, 1]).fingerprint()
    assert ItemDataset(Named()).fingerprint() == ItemDataset(Named()).fingerprint()


def test_items_that_models_take_differently():
    items = [(Inputs(teacher=torch.ones(3), student=torch.ones(2) * i), i % 2) for i in range(4)]
    data = ItemDataset(items)
    batch = data.batch([1, 2])
    assert isinstance(batch, Inputs)
    assert (batch["teacher"].shape, batch["student"].tolist()) == ((2, 3), [[1.0, 1.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        (lambda: ItemDataset(3), r"`ItemDataset`: `items` must be a map-style dataset .* got int"),
        (lambda: ItemDataset({"a": 1}), "must be a map-style dataset"),
        (
            lambda: ItemDataset(Own(), torch.zeros(2).long()),
            r"`labels` must be as many as there are samples \(6\), got 2",
        ),
        (
            lambda: ItemDataset(Own()).batch([0], augment=Augment()),
            "`augment` must be None, since items have transforms",
        ),
        (lambda: ItemDataset(Own()).check_views(["main", "clean"]), "`views` must be those that"),
        (
            lambda: ItemDataset(Own()).for_models(student=1),
            "`inputs` must be none, since items are what the models take",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(do, sentence):
    with pytest.raises(ValueError, match=sentence):
        do()

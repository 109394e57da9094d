"""How a run reads loaders: a stock one and ours are read alike, and a look leaves them as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _harness.fits import CPU, constant, net
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, TensorDataset

import congruence as cg
from congruence.core.batch import grouped
from congruence.data.loading.source import BatchSource, PlannedLoader

SIZE = 24
POINTS = torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(0))
LABELS = POINTS[:, :3].argmax(1)


class Items(Dataset):
    """A dataset of one form of item."""

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return SIZE

    def __getitem__(self, place):
        return self.form(POINTS[place], int(LABELS[place]), place)


FORMS = {
    "x": lambda x, y, i: x,
    "(x,)": lambda x, y, i: (x,),
    "(x, y)": lambda x, y, i: (x, y),
    "[x, y]": lambda x, y, i: [x, y],
    "(x, y, index)": lambda x, y, i: (x, y, i),
    "((x, x), y)": lambda x, y, i: ((x, x), y),
    "(array, y)": lambda x, y, i: (x.numpy(), np.int64(y)),
    "inputs, labels": lambda x, y, i: {"inputs": x, "labels": y},
    "inputs, label": lambda x, y, i: {"inputs": x, "label": y},
    "inputs, labels, label": lambda x, y, i: {"inputs": x, "labels": y, "label": -1},
    "inputs, labels, index": lambda x, y, i: {"inputs": x, "labels": y, "index": i},
    "inputs, labels, more": lambda x, y, i: {"inputs": x, "labels": y, "name": "a"},
    "inputs alone": lambda x, y, i: {"inputs": x},
    "keywords, labels": lambda x, y, i: {"input": x, "labels": y},
    "keywords, label, labels": lambda x, y, i: {"input": x, "label": -1, "labels": y},
    "keywords alone": lambda x, y, i: {"input": x},
    "inputs of keywords": lambda x, y, i: {"inputs": {"input": x}, "labels": y},
    "views": lambda x, y, i: {"inputs": x, "labels": y, "views": {"strong": x + 1}},
}


def stock(form):
    return DataLoader(Items(FORMS[form]), batch_size=8)


def ours(form, **options):
    return cg.data.loader(Items(FORMS[form]), batch_size=8, shuffle=False, **options)


def tensors_of(batch):
    from congruence.core.devices import tensors

    more = {name: view for name, view in batch.views.items() if name != "main"}
    return [*tensors(batch.inputs), *tensors(more)]


@pytest.mark.parametrize("form", FORMS)
def test_a_stock_loader_and_ours_give_the_same_batches(form):
    pairs = zip(BatchSource(stock(form)).epoch(0), BatchSource(ours(form)).epoch(0), strict=True)
    for theirs, mine in pairs:
        assert type(theirs.inputs) in (type(mine.inputs), list)
        assert len(tensors_of(theirs)) == len(tensors_of(mine)) > 0
        for first, second in zip(tensors_of(theirs), tensors_of(mine), strict=True):
            assert torch.equal(first, second)
        assert (theirs.labels is None) == (mine.labels is None)
        assert theirs.labels is None or torch.equal(theirs.labels, mine.labels)
        assert theirs.index is None or torch.equal(theirs.index, mine.index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "((x, x), y)"])
def test_they_train_to_the_same_weights(form, workers):
    labelled = "alone" not in form and form not in ("x", "(x,)")
    trained = []
    for loader in (stock(form), ours(form, workers=workers)):
        terms = ["ce", "kd"] if labelled else ["kd"]
        made = cg.Distiller(net(0, 7), net(1), terms, example=POINTS[:4])
        cg.fit(made, loader, loader, constant(epochs=2))
        trained.append(made.student_state_dict())
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name


def test_views_of_the_loader_and_of_the_items_go_together():
    batch = next(ours("views", views=("main", "weak")).batches(0))
    assert sorted(batch["views"]) == ["main", "strong", "weak"]
    assert torch.equal(batch["views"]["strong"], batch["inputs"] + 1)
    own = next(ours("views", views=("main", "strong")).batches(0))
    assert torch.equal(own["views"]["strong"], own["inputs"] + 1)


def test_groups_and_starts():
    loader = cg.data.loader(TensorDataset(torch.arange(10.0), torch.arange(10)), batch_size=2, shuffle=False)
    groups = [[b.index.tolist() for b in group] for group in grouped(BatchSource(loader).epoch(0, 1), 3, CPU)]
    assert groups == [[[2, 3], [4, 5], [6, 7]], [[8, 9]]]


def test_a_loader_around_ours_is_planned_too():
    class Doubled:
        def __init__(self):
            self.inner = cg.data.loader(TensorDataset(torch.arange(8.0)), batch_size=2)
            self.batch_size = 2

        def __len__(self):
            return len(self.inner)

        def batches(self, epoch, start=0):
            return ((2 * inputs, labels, index) for inputs, labels, index in self.inner.batches(epoch, start))

    source = BatchSource(Doubled())
    assert isinstance(source.loader, PlannedLoader)
    assert source.planned
    assert torch.equal(next(source.epoch(3, 1)).inputs, 2 * next(source.loader.inner.batches(3, 1))[0])
    assert not BatchSource([POINTS]).planned
    assert BatchSource([POINTS]).batch_size is None


def test_samplers_hear_of_the_epoch_wherever_they_are():
    dataset = TensorDataset(torch.arange(8.0))
    for make in (
        lambda s: DataLoader(dataset, batch_size=2, sampler=s),
        lambda s: DataLoader(dataset, batch_sampler=BatchSampler(s, 2, False)),
    ):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
        list(BatchSource(make(sampler)).epoch(5))
        assert sampler.epoch == 5


def test_a_look_at_the_first_batch_leaves_the_loader_as_it_was():
    generator = torch.Generator().manual_seed(3)
    dataset = TensorDataset(torch.arange(8.0))
    loader = DataLoader(dataset, batch_size=2, shuffle=True, generator=generator)
    assert isinstance(loader.sampler, RandomSampler)
    source = BatchSource(loader, "train_loader")
    assert len(source.state_dict()["generators"]) == 1
    states = torch.get_rng_state(), generator.get_state()
    first = source.first()
    assert torch.equal(states[0], torch.get_rng_state())
    assert torch.equal(states[1], generator.get_state())
    assert torch.equal(first.inputs, next(iter(loader))[0])
    with pytest.raises(ValueError, match="`train_loader` must be a loader of at least one batch"):
        BatchSource([], "train_loader").first()
    with pytest.raises(ValueError, match="`val_loader` must be a loader that can be read more than once"):
        BatchSource(iter(loader), "val_loader").first()


def test_a_dataset_in_place_of_a_loader_is_refused():
    samples = TensorDataset(POINTS, LABELS)
    with pytest.raises(
        ValueError, match=r"`train_loader` must give batches, but this TensorDataset gives single samples"
    ):
        cg.fit(cg.Distiller(None, net(0), ["ce"], example=POINTS[:2]), samples, None, constant())
    with pytest.raises(
        ValueError, match=r"put a loader around it, such as congruence.data.loader\(dataset, batch_size=32\)"
    ):
        cg.compare(net(0), net(1), samples)


def test_a_dataset_of_batches_is_a_loader():
    batches = TensorDataset(POINTS.view(3, 8, 6), LABELS.view(3, 8))
    assert cg.fit(cg.Distiller(None, net(0), ["ce"], example=POINTS[:2]), batches, None, constant(epochs=1)).steps == 3

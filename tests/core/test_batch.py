"""Batches of any kind, and what is read of a stock loader."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

import congruence as cg
from congruence.core.batch import first_batch, generators, grouped, samplers, unpack

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
        ((X, Y, [1, 2]), "The index of a batch must be a tensor, got list"),
    ],
)
def test_bad_batches(batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        unpack(batch)


def test_everything_moves():
    found = unpack({"inputs": {"a": [X, (X,)], "n": 3}, "labels": Y, "views": {"s": X}}, torch.device("meta"))
    assert found.inputs["a"][1][0].is_meta
    assert found.inputs["n"] == 3
    assert found.labels.is_meta
    assert found.views["s"].is_meta


def test_groups_and_starts():
    loader = cg.data.loader(TensorDataset(torch.arange(10.0), torch.arange(10)), batch_size=2, shuffle=False)
    groups = [[b.index.tolist() for b in group] for group in grouped(loader, 0, 1, 3, torch.device("cpu"))]
    assert groups == [[[2, 3], [4, 5], [6, 7]], [[8, 9]]]


def test_samplers_hear_of_the_epoch_wherever_they_are():
    dataset = TensorDataset(torch.arange(8.0))
    for make in (
        lambda s: DataLoader(dataset, batch_size=2, sampler=s),
        lambda s: DataLoader(dataset, batch_sampler=BatchSampler(s, 2, False)),
    ):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
        list(grouped(make(sampler), 5, 0, 1, torch.device("cpu")))
        assert sampler.epoch == 5


def test_a_look_at_the_first_batch_leaves_the_loader_as_it_was():
    generator = torch.Generator().manual_seed(3)
    dataset = TensorDataset(torch.arange(8.0))
    loader = DataLoader(dataset, batch_size=2, shuffle=True, generator=generator)
    assert generators(loader) == [generator]
    assert any(isinstance(sampler, RandomSampler) for sampler in samplers(loader))
    states = torch.get_rng_state(), generator.get_state()
    first = first_batch(loader, "train_loader")
    assert torch.equal(states[0], torch.get_rng_state())
    assert torch.equal(states[1], generator.get_state())
    assert torch.equal(first[0], next(iter(loader))[0])
    with pytest.raises(ValueError, match="`train_loader` must be a loader of at least one batch"):
        first_batch([], "train_loader")

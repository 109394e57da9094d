"""A third part of a stock loader's batches that is no index: left out where nothing needs it, else one sentence."""

import logging
import re

import pytest
import torch
from _harness.fits import constant, data, net, same_state
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, WeightedRandomSampler

import congruence as cg
from congruence.data.loading.source import BatchSource

POINTS, LABELS = data().tensors


class Paths(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, position):
        return POINTS[position], LABELS[position], f"{position}.png"


THIRD = {
    "weights": (lambda: TensorDataset(POINTS, LABELS, torch.rand(24)), r"float32 \[8\]"),
    "paths": (Paths, "tuple|list"),
    "cameras": (lambda: TensorDataset(POINTS, LABELS, torch.arange(24) % 6), "[0-5] occurs twice in an epoch"),
    "few cameras a batch": (lambda: TensorDataset(POINTS, LABELS, torch.arange(24) % 8), "[0-7] occurs twice in an"),
    "years": (lambda: TensorDataset(POINTS, LABELS, torch.arange(24) + 1990), "[0-9]+ for 24 samples"),
    "positions in parts": (
        lambda: ConcatDataset([cg.data.indexed(TensorDataset(POINTS[:12], LABELS[:12]))] * 2),
        "occurs twice in an epoch",
    ),
}


def fitted(dataset, *terms, shuffle=False):
    torch.manual_seed(0)
    facts = cg.data.facts(
        cg.data.ArrayDataset(torch.zeros(24, 1, 1, 1, dtype=torch.uint8), LABELS, classes=3, mean=[0.5], std=[0.5])
    )
    made = cg.Distiller(net(0, 7), net(1), list(terms), example=POINTS[:4], facts=facts)
    cg.fit(made, DataLoader(dataset, batch_size=8, shuffle=shuffle), None, constant(epochs=1))
    return made


@pytest.mark.parametrize("third", THIRD)
def test_terms_that_need_no_index_are_left_alone(third, caplog):
    dataset, why = THIRD[third][0](), THIRD[third][1]
    with caplog.at_level(logging.WARNING, "congruence"):
        found = fitted(dataset, "ce", "kd")
    told = [text for text in caplog.messages if "third part" in text]
    assert len(told) == 1
    assert re.search(why, told[0])
    if third != "positions in parts":
        same_state(fitted(TensorDataset(POINTS, LABELS), "ce", "kd"), found)


@pytest.mark.parametrize("third", THIRD)
def test_terms_that_need_one_say_so(third):
    with pytest.raises(ValueError, match="The term 'crd' needs index, the batch has none: wrap the dataset in"):
        fitted(THIRD[third][0](), "ce", "crd")


@pytest.mark.parametrize(
    "dataset",
    [
        lambda: cg.data.indexed(TensorDataset(POINTS, LABELS)),
        lambda: TensorDataset(POINTS, LABELS, torch.arange(24, dtype=torch.int32)),
        lambda: Subset(cg.data.indexed(TensorDataset(POINTS, LABELS)), list(range(23, 7, -1))),
    ],
)
def test_an_index_stays(dataset, caplog):
    with caplog.at_level(logging.WARNING, "congruence"):
        fitted(dataset(), "ce", "crd", shuffle=True)
    assert not [text for text in caplog.messages if "third part" in text]


def test_a_sampler_that_repeats_may_repeat():
    dataset = cg.data.indexed(TensorDataset(POINTS, LABELS))
    sampler = WeightedRandomSampler(torch.ones(24), 48, generator=torch.Generator().manual_seed(0))
    source = BatchSource(DataLoader(dataset, batch_size=8, sampler=sampler))
    for epoch in range(2):
        batches = list(source.epoch(epoch))
        assert all(batch.index is not None for batch in batches)
    assert len(torch.cat([batch.index for batch in batches]).unique()) < 48

"""Batches that resume bit for bit."""

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from congruence.core import ranks
from congruence.core.rng import get_state
from congruence.data import ArrayDataset, Augment, loader
from congruence.data.loading.loader import CONSTRAINTS

IMAGES = torch.randint(0, 256, (22, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ARRAY = ArrayDataset(IMAGES, torch.arange(22) % 5, classes=5, mean=[0.5] * 3, std=[0.25] * 3)
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


class Noisy:
    """A user's dataset, with random transforms of its own."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        noise = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
        return torch.tensor([float(index), *noise], dtype=torch.float64), index % 5


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("dataset", [ARRAY, Noisy()], ids=["array", "map-style"])
@pytest.mark.parametrize("views", [("main",), ("weak", "strong")])
def test_any_step_of_any_epoch_resumes_bit_for_bit(dataset: Any, views: tuple[str, ...]) -> None:
    augment = Augment(pad=2) if dataset is ARRAY else None

    def fresh() -> Any:
        return loader(dataset, batch_size=4, seed=7, augment=augment, views=views)

    never_killed = fresh()
    epochs = [list(never_killed) for _ in range(3)]
    assert never_killed.epoch == 3
    assert [len(epoch) for epoch in epochs] == [6, 6, 6] == [len(never_killed)] * 3
    for epoch, start in itertools.product(range(3), range(7)):
        torch.rand(start + 1)
        assert same(list(fresh().batches(epoch, start)), epochs[epoch][start:])
    assert not same(epochs[0], epochs[1])


def test_batches_left_out_are_not_read() -> None:
    data = Noisy()
    rest = list(loader(data, batch_size=5, shuffle=False).batches(0, start=4))
    assert data.read == [20, 21]
    assert rest[0][2].tolist() == [20, 21]


@FORKS
@pytest.mark.parametrize("views", [("main",), ("weak", "strong")])
def test_workers_give_the_same_bits(views: tuple[str, ...]) -> None:
    before = get_state()
    batches = [
        list(loader(Noisy(), batch_size=4, seed=1, views=views, workers=workers).batches(2, start=1))
        for workers in (0, 2)
    ]
    assert same(*batches)
    assert len(batches[0]) == 5
    assert torch.equal(before["torch"], get_state()["torch"])
    assert before["python"] == get_state()["python"]


def test_an_epoch_is_every_sample_once_in_a_keyed_order() -> None:
    data = loader(ARRAY, batch_size=4)
    orders = [torch.cat([index for _, _, index in data.batches(epoch)]) for epoch in (0, 1, 0)]
    assert all(sorted(order.tolist()) == list(range(22)) for order in orders)
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    other = torch.cat(loader(ARRAY, batch_size=4, seed=1).plan(0))
    assert not torch.equal(orders[0], other)
    assert torch.cat(loader(ARRAY, batch_size=4, shuffle=False).plan(3)).tolist() == list(range(22))


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    assert torch.equal(torch.cat(loader(ARRAY, batch_size=4).plan(1)), torch.cat(loader(ARRAY, batch_size=7).plan(1)))


def test_contents_are_those_of_the_dataset() -> None:
    for inputs, labels, index in loader(ARRAY, batch_size=4, augment=True, seed=3).batches(2):
        assert torch.equal(inputs, ARRAY.batch(index, epoch=2, seed=3, augment=ARRAY.augment))
        assert torch.equal(labels, index % 5)
    inputs, labels, index = next(loader(Noisy(), batch_size=4).batches(0))
    assert torch.equal(inputs[:, 0].long(), index)
    assert torch.equal(labels, index % 5)


def test_several_views_come_by_name() -> None:
    spec = {"weak": Augment(pad=1), "strong": Augment(pad=3), "clean": Augment()}
    batch = next(loader(ARRAY, batch_size=4, augment=spec, views=("weak", "strong", "clean")).batches(1))
    index = batch["index"]
    assert list(batch["views"]) == ["weak", "strong", "clean"]
    assert torch.equal(batch["inputs"], batch["views"]["weak"])
    assert torch.equal(batch["views"]["strong"], ARRAY.batch(index, epoch=1, augment=spec["strong"], view="strong"))
    assert torch.equal(batch["views"]["clean"], ARRAY.batch(index))
    assert torch.equal(batch["labels"], index % 5)
    batch = next(loader(ARRAY, batch_size=4, augment=True, views=("other", "main")).batches(1))
    assert torch.equal(batch["inputs"], batch["views"]["main"])
    assert not torch.equal(batch["views"]["other"], batch["views"]["main"])


def test_a_view_cycle_repeats_augmentation_but_not_the_order() -> None:
    data = loader(ARRAY, batch_size=22, augment=True, view_cycle=2)
    batches = [next(data.batches(epoch)) for epoch in (1, 2, 3)]
    images = [inputs[index.argsort()] for inputs, _, index in batches]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(batches[0][2], batches[2][2])


def test_labels_are_none_or_minus_one_where_unknown() -> None:
    bare = ArrayDataset(IMAGES, None, classes=None, mean=[0.5] * 3, std=[0.25] * 3)
    assert next(iter(loader(bare, batch_size=4)))[1] is None
    assert next(iter(loader(TensorDataset(torch.rand(5, 2)), batch_size=4)))[1] is None
    assert next(iter(loader(list(torch.rand(5, 2)), batch_size=4)))[1] is None
    some = ArrayDataset(IMAGES, torch.full((22,), -1), classes=5, mean=[0.5] * 3, std=[0.25] * 3)
    assert next(iter(loader(some, batch_size=4)))[1].tolist() == [-1] * 4


def test_mappings_are_collated() -> None:
    texts = [{"ids": torch.tensor([i, i]), "mask": torch.ones(2), "labels": i % 2} for i in range(4)]
    inputs, labels, index = next(iter(loader(texts, batch_size=4, shuffle=False, device="cpu")))
    assert inputs["ids"].tolist() == [[i, i] for i in range(4)]
    assert list(inputs) == ["ids", "mask"]
    assert labels.tolist() == [0, 1, 0, 1]
    assert index.tolist() == [0, 1, 2, 3]
    nested, _, _ = next(iter(loader([((1.0, 2.0), 0)], batch_size=1, device="cpu")))
    assert [part.tolist() for part in nested] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [(4, False, [4] * 5 + [2]), (4, True, [4] * 5), (11, True, [11, 11]), (22, True, [22]), (100, False, [22])],
)
def test_the_last_batch(batch_size: int, drop_last: bool, sizes: list[int]) -> None:
    data = loader(ARRAY, batch_size=batch_size, drop_last=drop_last)
    assert [len(index) for _, _, index in data] == sizes
    assert len(data) == len(sizes)


@pytest.mark.parametrize(("batch_size", "drop_last"), [(4, False), (4, True), (8, False), (20, False), (100, False)])
@pytest.mark.parametrize("dataset", [ARRAY, Noisy()], ids=["array", "map-style"])
def test_ranks_share_every_global_batch(
    monkeypatch: pytest.MonkeyPatch, dataset: Any, batch_size: int, drop_last: bool
) -> None:
    data = loader(dataset, batch_size=batch_size, drop_last=drop_last)
    alone = list(data.batches(1))
    monkeypatch.setattr(ranks, "world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append(list(data.batches(1)))
        assert len(data) == len(shares[-1])
    for whole, parts in zip(alone, zip(*shares, strict=True), strict=False):
        kept = len(whole[0]) // 4 * 4
        assert {len(part[0]) for part in parts} == {kept // 4}
        for position in range(3):
            assert torch.equal(torch.cat([part[position] for part in parts]), whole[position][:kept])
    assert len(shares[0]) == sum(len(index) >= 4 for _, _, index in alone)


def test_uneven_shares_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = loader(ARRAY, batch_size=6)
    monkeypatch.setattr(ranks, "world_size", lambda: 4)
    sentence = r"`batch_size` must be a multiple of the number of ranks \(4\), got 6"
    with pytest.raises(ValueError, match=sentence):
        data.batches(0)
    with pytest.raises(ValueError, match=sentence):
        loader(ARRAY, batch_size=6)
    with pytest.raises(ValueError, match="at least 4 samples, or no batch is left, got 3"):
        loader(ARRAY.subset([1, 2, 3]), batch_size=8)
    with pytest.raises(ValueError, match="the sampler's batch of 3 does not divide by 4 ranks"):
        loader(ARRAY, batch_size=4, sampler=Pairs()).batches(0)


class Pairs:
    """A sampler with three lists an epoch."""

    def batches(self, epoch: int) -> list[list[int]]:
        return [[epoch, 5, 5], [7, 8, 9], [1, 2, 3]]


def test_a_sampler_plans_the_epoch() -> None:
    data = loader(ARRAY, batch_size=4, sampler=Pairs(), augment=True)
    assert len(data) == 3
    batches = list(data.batches(2))
    assert [index.tolist() for _, _, index in batches] == Pairs().batches(2)
    assert torch.equal(batches[0][0][1], batches[0][0][2])
    assert same(list(data.batches(2, start=2)), batches[2:])


def test_the_epoch_moves_on_after_a_full_pass_only() -> None:
    data = loader(ARRAY, batch_size=4)
    next(iter(data))
    assert data.epoch == 0
    assert same(list(data), list(data.batches(0)))
    assert data.epoch == 1
    data.set_epoch(5)
    assert same(list(data), list(data.batches(5)))
    assert data.epoch == 6


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_invalid_value_is_refused(name: str) -> None:
    for value in CONSTRAINTS[name].invalid():
        with pytest.raises(ValueError, match=rf"`loader`: `{name}` must be "):
            loader(ARRAY, **{"batch_size": 4, name: value})


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dataset": ARRAY.subset([])}, "`dataset` must be a dataset with samples, got an empty one"),
        ({"dataset": Stream()}, "`dataset` must be a map-style dataset .* got Stream"),
        ({"batch_size": 23, "drop_last": True}, "at least 23 samples, or no batch is left, got 22"),
        ({"views": "main"}, "`views` must be different names, got 'main'"),
        ({"views": ()}, "`views` must be different names"),
        ({"views": ("a", "a")}, "`views` must be different names"),
        ({"augment": {"weak": True}}, r"`augment` must be for views among \['main'\], got \['weak'\]"),
        ({"augment": 4}, "`augment` must be an Augment, a PhotoAugment, True, False"),
        ({"dataset": Noisy(), "augment": True}, "`augment` must be None for a dataset that transforms its own"),
        ({"dataset": Noisy(), "views": ("clean", "main")}, "`views` must be views that .* can make, got 'clean'"),
        ({"sampler": [[1, 2]]}, r"`sampler` must be an object with `batches\(epoch\)`, got list"),
    ],
)
def test_misfits_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    given = {"dataset": ARRAY, "batch_size": 4} | changes
    with pytest.raises(ValueError, match=sentence):
        loader(given.pop("dataset"), **given)


def test_epochs_and_starts_are_whole_numbers() -> None:
    data = loader(ARRAY, batch_size=4)
    with pytest.raises(ValueError, match="`batches`: `start` must be an integer >= 0, got -1"):
        data.batches(0, start=-1)
    with pytest.raises(ValueError, match="`batches`: `epoch` must be an integer >= 0, got -1"):
        data.batches(-1)
    with pytest.raises(ValueError, match="`set_epoch`: `epoch` must be an integer >= 0"):
        data.set_epoch(-1)
    assert list(data.batches(0, start=9)) == []


def test_what_decides_the_batches_is_described_in_plain_values():
    images = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)

    def described(labels=(0, 1, 0, 1, 0, 1), **options):
        dataset = ArrayDataset(images, torch.tensor(labels), classes=2, mean=(0.0,), std=(1.0,))
        return json.loads(json.dumps(loader(dataset, batch_size=2, **options).describe()))

    assert described() == described()
    for changed in ({"labels": (1, 1, 0, 1, 0, 1)}, {"seed": 1}, {"shuffle": False}, {"augment": True}):
        assert described(**changed) != described()


@pytest.mark.parametrize("dataset", [ARRAY, Noisy()], ids=["array", "own"])
def test_a_sample_is_the_same_bits_in_any_batch(dataset: Any) -> None:
    """As a teacher's cache takes it: what one batch stored another reads."""
    views = ("main", "clean", "strong") if dataset is ARRAY else ("main",)
    given = loader(dataset, batch_size=5, augment=Augment(pad=2) if dataset is ARRAY else None, views=views, seed=3)
    if dataset is ARRAY:
        (whole,) = (batch["views"] for batch in given.in_order(1, 22))
    else:
        (whole,) = ({"main": batch[0]} for batch in given.in_order(1, 22))
    samples = torch.tensor([21, 3, 4, 0, 9, 3, 17])
    seen = torch.cat([_index(batch) for batch in given.in_order(1, 3, samples)])
    assert torch.equal(seen, samples)
    for raw, part in zip(given.in_order(1, 3, samples), samples.split(3), strict=True):
        of_part = raw["views"] if dataset is ARRAY else {"main": raw[0]}
        for view in views:
            assert torch.equal(of_part[view], whole[view][part])


def _index(raw: Any) -> Tensor:
    index: Tensor = raw["index"] if isinstance(raw, dict) else raw[2]
    return index

"""Stratified choices."""

import pytest
import torch

from congruence.data.datasets.split import first_of_each, new_order, stratified

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [-1])[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize("total", [0, 1, 7, 20, 50, 99, 100])
def test_parts_are_whole_sorted_and_of_the_size_asked(total: int) -> None:
    chosen, rest = stratified(LABELS, total, seed=0, stream=1)
    assert len(chosen) == total
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(100))
    assert torch.equal(chosen, chosen.sort().values)
    assert torch.equal(rest, rest.sort().values)


def test_classes_keep_their_share_within_one() -> None:
    for total in range(1, 100):
        chosen, _ = stratified(LABELS, total, seed=5, stream=1)
        for label, count in ((0, 50), (1, 30), (2, 19)):
            assert abs(int((LABELS[chosen] == label).sum()) - total * count / 100) <= 1


def test_a_class_gives_its_last_sample_only_at_need() -> None:
    labels = torch.tensor([0] * 9 + [1])
    for seed in range(10):
        assert labels[stratified(labels, 8, seed=seed, stream=1)[0]].sum() == 0
    assert stratified(labels, 10, seed=0, stream=1)[0].tolist() == list(range(10))


def test_seed_and_stream_choose() -> None:
    first = stratified(LABELS, 20, seed=0, stream=1)[0]
    assert torch.equal(first, stratified(LABELS, 20, seed=0, stream=1)[0])
    assert not torch.equal(first, stratified(LABELS, 20, seed=1, stream=1)[0])
    assert not torch.equal(first, stratified(LABELS, 20, seed=0, stream=2)[0])


def test_first_of_each_is_nested_and_leaves_the_unlabelled() -> None:
    few, more = (set(first_of_each(LABELS, k, seed=0, stream=4).tolist()) for k in (3, 10))
    assert few < more
    assert len(few) == 9
    assert (LABELS[list(more)] >= 0).all()


def test_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`stratified`: `total` must be between 0 and 100, got 101\."):
        stratified(LABELS, 101, seed=0, stream=1)


def test_classes_that_come_last_are_chosen_by_the_seed() -> None:
    for seed in range(5):
        order = new_order(20, 6, seed=seed)
        assert sorted(order) == list(range(20))
        assert order[:14] == sorted(order[:14])
        assert order[14:] == sorted(order[14:])
        assert set(order[14:]) < set(new_order(20, 7, seed=seed)[13:])
    assert len({tuple(new_order(20, 6, seed=seed)) for seed in range(5)}) == 5
    assert new_order(3, 0, seed=0) == [0, 1, 2]

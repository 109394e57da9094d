import math

import pytest
import torch
from _harness.losses import seeded
from _harness.memory import largest_array

from congruence.geometry import dissimilarity_blocks
from congruence.metrics import order
from congruence.metrics.order import flag_ranks, nearest, rank_gaps, row_nearest, row_order, row_ranks


def slow_ranks(values, tolerance):
    rows = values.tolist()
    kind = values.dtype
    bounds = (values + tolerance * values.abs()).to(kind).tolist()
    return [
        [len(row) if math.isnan(b) else sum(v <= b for v in row) for b in bound]
        for row, bound in zip(rows, bounds, strict=True)
    ]


CASES = {
    "random": torch.rand(9, 60, generator=seeded()),
    "ties": torch.randint(0, 5, (9, 60), generator=seeded()).float(),
    "one value": torch.full((3, 60), 0.1),
    "runs of rounding": 1 + 3e-7 * torch.arange(60.0).repeat(2, 1),
    "negative": torch.randn(9, 60, generator=seeded()),
    "zeros of both signs": torch.tensor([[0.0, -0.0, 1.0, -0.0, 0.0]]),
    "infinite": torch.tensor([[math.inf, 1.0, math.inf, 3e38, 0.0]]),
    "smallest": torch.tensor([[1e-45, 0.0, 3e-45, 1e-38]]),
    "one column": torch.rand(4, 1, generator=seeded()),
    "not numbers": torch.tensor([[math.nan, 1.0, -math.nan, 0.5], [1.0, 2.0, 3.0, 3.0], [math.nan] * 4]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_ranks_are_the_definition(case, dtype):
    values = CASES[case].to(dtype)
    for tolerance in (1e-12, 1e-6, 0.1):
        assert row_ranks(values, tolerance).tolist() == slow_ranks(values, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [case for case in CASES if case != "not numbers"])
def test_order_is_that_of_a_stable_sort_and_nearest_its_beginning(case, dtype):
    values = CASES[case].to(dtype)
    expected = [sorted(range(len(row)), key=row.__getitem__) for row in values.tolist()]
    assert row_order(values).tolist() == expected
    for k in {1, min(3, values.shape[1]), values.shape[1]}:
        assert row_nearest(values, k).tolist() == [row[:k] for row in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("case", [case for case in CASES if case != "not numbers"])
def test_ranks_of_flags_are_their_places_in_the_order(case, share, dtype):
    values = CASES[case].to(dtype)
    flags = torch.rand(values.shape, generator=seeded(1)) < share
    expected = [
        [position for position, column in enumerate(row, 1) if flag[column]]
        for row, flag in zip(row_order(values).tolist(), flags.tolist(), strict=True)
    ]
    most = max(1, *map(len, expected))
    assert flag_ranks(values, flags).tolist() == [row + [math.inf] * (most - len(row)) for row in expected]


def test_values_are_left_as_they_are():
    values = torch.tensor([[0.5, -0.0, 0.25]])
    before = values.clone()
    row_ranks(values, 1e-6), row_order(values), row_nearest(values, 2), flag_ranks(values, values > 0)
    assert torch.equal(values, before)
    assert torch.equal(values.signbit(), before.signbit())


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_and_threads_change_nothing(threads, monkeypatch):
    values = torch.randint(0, 9, (31, 20), generator=seeded()).float()
    values[:, 10:] = torch.rand(31, 10, generator=seeded())
    flags = values > 4
    whole = row_ranks(values, 1e-6), row_order(values), row_nearest(values, 4), flag_ranks(values, flags)
    seen = []
    monkeypatch.setattr(order, "_keys", largest_array(order._keys, seen))
    monkeypatch.setattr(order, "_PIECE_ENTRIES", 60)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    pieces = row_ranks(values, 1e-6), row_order(values), row_nearest(values, 4), flag_ranks(values, flags)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert len(seen) == 4 * 11
    assert max(seen) == 60


@pytest.mark.parametrize("spoilt", [None, math.nan, math.inf, -1.0, 1e6])
def test_both_ways_to_sort_long_rows_give_the_same(spoilt, monkeypatch):
    values = torch.rand(5, 1500, generator=seeded())
    values[:, 700:] = values[:, 700:].round(decimals=2)  # ties
    values[0, 3:9] = values[0, 2] * (1 + 1e-7)
    values[3] = 0.25
    if spoilt is not None:
        values[1, 4] = spoilt
    flags, taken, found = values > 0.4, [], []
    for pays in (False, True):
        monkeypatch.setattr(order, "_bins_pay", lambda pays=pays: taken.append(pays) or pays)
        gaps = rank_gaps(values, values.flip(1), (1e-6, 1e-3))
        monkeypatch.setattr(order, "_LEAST_COUNTED", 1000)
        counted = flag_ranks(values, flags), flag_ranks(values, torch.zeros_like(flags))
        monkeypatch.setattr(order, "_LEAST_COUNTED", 10_000)
        found.append([row_ranks(values, 1e-6), row_order(values), flag_ranks(values, flags), gaps, *counted])
        assert torch.equal(counted[0], found[-1][2])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
    assert {*taken} == {False, True}
    assert found[0][0].tolist() == slow_ranks(values, 1e-6)
    gaps = (row_ranks(values, 1e-6).long() - row_ranks(values.flip(1), 1e-3)).abs().sum(1)
    assert torch.equal(found[1][3], gaps)


def test_the_quicker_way_to_sort_is_tried_once():
    order._bins_pay.cache_clear()
    assert order._bins_pay() in (True, False)
    assert order._bins_pay.cache_info().misses == 1


def test_a_row_that_is_not_contiguous():
    values = torch.rand(40, 7, generator=seeded()).T
    assert row_ranks(values, 1e-6).tolist() == slow_ranks(values, 1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rows", [1, 4, 50])
def test_nearest_leaves_itself_out(metric, rows):
    x = torch.randn(20, 3, generator=seeded()).repeat(2, 1)
    (values,) = dissimilarity_blocks(x, x, metric, 40)
    neighbours = torch.cat(list(nearest(x, x, metric, 39, rows=rows, apart=True))).tolist()
    for i, row in enumerate(values.tolist()):
        others = [j for j in range(40) if j != i]
        assert neighbours[i] == sorted(others, key=row.__getitem__)
    close = torch.cat(list(nearest(x, x, metric, 2, rows=rows)))
    assert close[:, 0].tolist() == [i % 20 for i in range(40)]


def test_a_row_of_not_numbers_never_finds_itself():
    x = torch.randn(6, 3, generator=seeded())
    x[2] = math.nan
    for dtype in (torch.float32, torch.float64):
        neighbours = torch.cat(list(nearest(x.to(dtype), x.to(dtype), "cosine", 5, rows=4, apart=True)))
        assert all(i not in row for i, row in enumerate(neighbours.tolist()))
        assert all(row[-1] == 2 for i, row in enumerate(neighbours.tolist()) if i != 2)

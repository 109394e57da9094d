from __future__ import annotations

import pytest
import torch
from _harness.gathers import gather_on_a_rank, several, weights
from _harness.runs import on_ranks

from congruence.core import gathering, ranks


def test_one_process_gathers_itself():
    rows = torch.ones(2, 3, requires_grad=True)
    assert gathering.gather_rows(rows) is rows
    assert (ranks.world_size(), ranks.rank()) == (1, 0)
    assert ranks.any_rank(torch.tensor(True)).item()
    assert ranks.sum_over_ranks(torch.tensor(2.0)).item() == 2.0


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(gather_on_a_rank, folder)
    return [torch.load(folder / f"gather-{rank}.pt") for rank in (0, 1)]


def test_tensors_of_any_dtypes_and_uneven_rows_go_in_one_exchange(by_rank):
    own = [several(rank) for rank in (0, 1)]
    for rank, result in enumerate(found["several"] for found in by_rank):
        for whole, parts in zip(result["whole"], zip(*own, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts))
        assert result["wants"] == [True, False, True, False, True]
        first, _, unread, _, uneven = result["gradients"]
        assert torch.equal(first, (1 + 2) * 2 * own[rank][0])
        assert unread is None  # as in one process: zeros would be stepped, with weight decay
        assert torch.equal(uneven, (1 + 2) * 3 * own[rank][4].square())
        assert result["calls"] == {"gather": 1, "gradients of gathered rows": 1}
        # each tensor begins at a multiple of 16 bytes: 24, 16, 20, 14 and 48 bytes, of which two get a gradient
        assert result["bytes"] == {"gather": 32 + 16 + 32 + 16 + 48, "gradients of gathered rows": 32 + 48}


def test_rows_and_gradients_of_two_ranks(by_rank):
    rows = torch.tensor([[0.0, 2.0], [1.0, 3.0], [10.0, 12.0], [11.0, 13.0]], dtype=torch.float64)
    gradient = (1 + 2) * weights() * 3 * rows.square()  # both ranks' losses reach every row
    for rank, result in enumerate(by_rank):
        assert torch.equal(result["rows"], rows)
        assert torch.equal(result["constant"], rows)
        assert result["labels"].tolist() == [0, 5, 1, 6]
        own = slice(2 * rank, 2 * rank + 2)
        torch.testing.assert_close(result["gradient"], gradient[own])
        second = (1 + 2) * weights() * 6 * rows * 2 * (1 + rank) * gradient  # rank's own loss reaches its rows alone
        torch.testing.assert_close(result["second"], second[own])
        assert result["flag"].item()
        assert result["sum"].item() == 3.0

from __future__ import annotations

import torch
from _harness.gathers import gather_on_a_rank, weights
from _harness.runs import on_ranks

from congruence.core import ranks


def test_one_process_gathers_itself():
    rows = torch.ones(2, 3, requires_grad=True)
    assert ranks.gather_rows(rows) is rows
    assert (ranks.world_size(), ranks.rank()) == (1, 0)
    assert ranks.any_rank(torch.tensor(True)).item()
    assert ranks.sum_over_ranks(torch.tensor(2.0)).item() == 2.0


def test_rows_and_gradients_of_two_ranks(tmp_path):
    on_ranks(gather_on_a_rank, tmp_path)
    by_rank = [torch.load(tmp_path / f"gather-{rank}.pt") for rank in (0, 1)]
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

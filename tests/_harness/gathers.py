"""Gathers on a rank of a process group, for the tests of `core.ranks`."""

from __future__ import annotations

import torch

from congruence.core import ranks


def weights():
    return torch.arange(8.0, dtype=torch.float64).reshape(4, 2).cos()


def gather_on_a_rank(rank, folder):
    """Gather rows, weigh them differently on each rank, and leave what came out behind."""
    mine = torch.arange(4.0, dtype=torch.float64).reshape(2, 2).T.add(10 * rank).requires_grad_()  # not contiguous
    everyone = ranks.gather_rows(mine)
    loss = ((1 + rank) * weights() * everyone.pow(3)).sum()
    (gradient,) = torch.autograd.grad(loss, mine, create_graph=True)
    ((1 + rank) * gradient.square()).sum().backward()
    torch.save(
        {
            "rows": everyone.detach(),
            "gradient": gradient.detach(),
            "second": mine.grad,
            "labels": ranks.gather_rows(torch.tensor([rank, rank + 5])),
            "constant": ranks.gather_rows(mine.detach()),
            "flag": ranks.any_rank(torch.tensor(rank == 1)),
            "sum": ranks.sum_over_ranks(torch.tensor(float(rank + 1))),
        },
        folder / f"gather-{rank}.pt",
    )

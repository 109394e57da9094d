"""Gathers on a rank of a process group, for the tests of `core.ranks`."""

from __future__ import annotations

import torch

from congruence.core import gathering, ranks, traffic


def weights():
    return torch.arange(8.0, dtype=torch.float64).reshape(4, 2).cos()


# Rows of every rank: features, labels, rows of half precision, flags, and rows of which each rank has another number.
KINDS = (torch.float32, torch.int64, torch.bfloat16, torch.bool, torch.float64)
COUNTS = (None, None, None, None, (3, 0))


def several(rank):
    """What a rank gives to one exchange."""
    generator = torch.Generator().manual_seed(rank)
    shapes = [(2, 3), (2,), (2, 1, 5), (2, 7), ((3, 0)[rank], 2)]
    drawn = [torch.randint(-9, 9, shape, generator=generator) for shape in shapes]
    return [tensor.to(kind) for tensor, kind in zip(drawn, KINDS, strict=True)]


def gather_several(rank):
    """Gather tensors of several dtypes and of uneven rows at once; a loss reads two of them, differently by rank."""
    own = several(rank)
    for tensor in (own[0], own[2], own[4]):
        tensor.requires_grad_()
    with traffic.counting() as exchanged:
        whole = gathering.gather_all(own, COUNTS)
        ((rank + 1) * (whole[0].square().sum() + whole[4].pow(3).sum())).backward()
    return {
        "whole": [tensor.detach() for tensor in whole],
        "wants": [tensor.requires_grad for tensor in whole],
        "gradients": [tensor.grad for tensor in own],
        "calls": dict(exchanged.calls),
        "bytes": dict(exchanged.bytes),
    }


def gather_on_a_rank(rank, folder):
    """Gather rows, weigh them differently on each rank, and leave what came out behind."""
    mine = torch.arange(4.0, dtype=torch.float64).reshape(2, 2).T.add(10 * rank).requires_grad_()  # not contiguous
    everyone = gathering.gather_rows(mine)
    loss = ((1 + rank) * weights() * everyone.pow(3)).sum()
    (gradient,) = torch.autograd.grad(loss, mine, create_graph=True)
    ((1 + rank) * gradient.square()).sum().backward()
    torch.save(
        {
            "rows": everyone.detach(),
            "gradient": gradient.detach(),
            "second": mine.grad,
            "labels": gathering.gather_rows(torch.tensor([rank, rank + 5])),
            "constant": gathering.gather_rows(mine.detach()),
            "flag": ranks.any_rank(torch.tensor(rank == 1)),
            "several": gather_several(rank),
            "sum": ranks.sum_over_ranks(torch.tensor(float(rank + 1))),
        },
        folder / f"gather-{rank}.pt",
    )

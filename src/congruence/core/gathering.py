"""Rows of all ranks, with their gradient: several tensors of any dtypes in one exchange."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from congruence.core.ranks import rank, world_size
from congruence.core.traffic import Traffic, counted, counting_now


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order; every rank must have the same number of rows.

    Floating-point tensors carry gradient: the backward sums each row's gradient over the ranks. If gradients are then
    averaged over ranks (as DDP does), N ranks give the gradient of one process on the global batch.
    """
    return gather_all([tensor])[0]


def gather_all(tensors: Sequence[Tensor], counts: Sequence[Sequence[int] | None] | None = None) -> list[Tensor]:
    """Gather the rows of several tensors of any dtypes in one exchange, their gradients in another; see `gather_rows`.

    Args:
        tensors: of one device; every rank gives as many, of the same dtypes and shapes but for the number of rows.
        counts: for each tensor the number of rows on every rank, None where all ranks have as many.
    """
    if world_size() == 1 or not tensors:
        return list(tensors)
    rows = [
        Rows(tuple(own), max(own)) if own else Rows((len(tensor),) * world_size(), len(tensor))
        for tensor, own in zip(tensors, counts or [None] * len(tensors), strict=True)
    ]
    return list(_Gather.apply(rows, *tensors))


class Rows(NamedTuple):
    """How many rows of a tensor each rank has, and the most that one has: all are padded to this for the exchange."""

    counts: tuple[int, ...]
    most: int


_ALIGNED = 16  # bytes at a multiple of which each tensor begins, so that a part can be read in any dtype


class _Packed(NamedTuple):
    """Where tensors lie in one buffer of bytes."""

    starts: list[int]
    sizes: list[int]
    total: int

    @classmethod
    def of(cls, shapes: Sequence[Sequence[int]], dtypes: Sequence[torch.dtype]) -> _Packed:
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
        starts = [0, *itertools.accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]
        return cls(starts[:-1], sizes, starts[-1])


def _exchanged(
    name: str, own: Sequence[Tensor], rows: Sequence[Rows], traffic: Traffic | None, *, to_each: bool
) -> list[Tensor]:
    """Send tensors to the ranks in one exchange of bytes; return for each what all ranks sent, [ranks, most, ...].

    Args:
        name: what the exchange is counted as.
        own: tensors [most, ...], which every rank gets, or [ranks, most, ...], of which each rank gets its part.
        rows: of each tensor.
        traffic: counts the exchange.
        to_each: whether the first dimension is that of the receiving ranks.
    """
    world, first = world_size(), own[0]
    shapes = [(each.most, *tensor.shape[2 if to_each else 1 :]) for tensor, each in zip(own, rows, strict=True)]
    packed = _Packed.of(shapes, [tensor.dtype for tensor in own])
    sent = torch.empty((world if to_each else 1, packed.total), dtype=torch.uint8, device=first.device)
    for tensor, start, size in zip(own, packed.starts, packed.sizes, strict=True):
        if size:
            # the copy is written through the tensor's own dtype
            sent[:, start : start + size].view(tensor.dtype).copy_(tensor.reshape(len(sent), -1))
    got = torch.empty((world, packed.total), dtype=torch.uint8, device=first.device)
    moved = (world - 1) * packed.total
    if packed.total:
        with counted(traffic, name, moved):
            if to_each:
                dist.all_to_all_single(got, sent)  # and a sum here: gloo's reduce_scatter sends all to all
            else:
                _all_gather(got.view(-1), sent.view(-1))
    return [
        got[:, start : start + size].view(tensor.dtype).reshape(world, *shape)
        for tensor, start, size, shape in zip(own, packed.starts, packed.sizes, shapes, strict=True)
    ]


def _all_gather(output: Tensor, own: Tensor) -> None:
    # `all_gather_into_tensor` is deprecated from torch 2.13; its successor is missing before.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, own)


def _padded(tensor: Tensor, most: int) -> Tensor:
    missing = most - len(tensor)
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor


class _Gather(torch.autograd.Function):
    """The gather whose backward sums over the ranks; torch's own is deprecated from 2.13, its successor private."""

    @staticmethod
    def forward(ctx: Any, rows: Sequence[Rows], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.rows, ctx.traffic = rows, counting_now()
        ctx.set_materialize_grads(False)
        own = [_padded(tensor.detach(), each.most) for tensor, each in zip(tensors, rows, strict=True)]
        got = _exchanged("gather", own, rows, ctx.traffic, to_each=False)
        whole = tuple(
            parts.flatten(0, 1)
            if min(each.counts) == each.most
            else torch.cat([part[:count] for part, count in zip(parts, each.counts, strict=True)])
            for parts, each in zip(got, rows, strict=True)
        )
        ctx.wants = [ctx.needs_input_grad[at + 1] and t.is_floating_point() for at, t in enumerate(tensors)]
        ctx.mark_non_differentiable(*(t for t, wants in zip(whole, ctx.wants, strict=True) if not wants))
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        # A tensor that no loss reads is left out, and stays without a gradient: all ranks compute the same losses of
        # the same rows, so it is left out on all.
        at = [number for number, wants in enumerate(ctx.wants) if wants and gradients[number] is not None]
        own = iter(_SumForOwners.apply([ctx.rows[n] for n in at], ctx.traffic, *(gradients[n] for n in at)))
        return None, *(next(own) if number in at else None for number in range(len(ctx.wants)))


class _SumForOwners(torch.autograd.Function):
    """The sum over the ranks of each rank's own rows: the gradient of the gather, and the gather is its own."""

    @staticmethod
    def forward(ctx: Any, rows: Sequence[Rows], traffic: Traffic | None, *gradients: Tensor) -> tuple[Tensor, ...]:
        ctx.rows = rows
        by_owner = [
            torch.stack([_padded(part, each.most) for part in gradient.split(each.counts)])
            for gradient, each in zip(gradients, rows, strict=True)
        ]
        got = _exchanged("gradients of gathered rows", by_owner, rows, traffic, to_each=True)
        return tuple(parts.sum(0)[: each.counts[rank()]] for parts, each in zip(got, rows, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, None, *_Gather.apply(ctx.rows, *gradients)

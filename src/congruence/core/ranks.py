"""Ranks of a torch.distributed process group: this process's rank, and rows gathered with their gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order; every rank must have the same number of rows.

    Floating-point tensors carry gradient: the backward sums each row's gradient over the ranks. If gradients are then
    averaged over ranks (as DDP does), N ranks give the gradient of one process on the global batch.
    """
    if world_size() == 1:
        return tensor
    if tensor.is_floating_point() and tensor.requires_grad:
        return cast(Tensor, _GatherRows.apply(tensor))
    return _all_rows(tensor)


def gather_uneven_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order, of which each may have another number; see `gather_rows`."""
    if world_size() == 1:
        return tensor
    counts = from_all_ranks(len(tensor))
    most = max(counts)
    missing = tensor.new_zeros(most - len(tensor), *tensor.shape[1:])
    gathered = gather_rows(torch.cat([tensor, missing]))
    return torch.cat([gathered[most * at : most * at + count] for at, count in enumerate(counts)])


def _all_rows(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts, 0)


class _GatherRows(torch.autograd.Function):
    """The gather whose backward sums over the ranks; torch's own is deprecated from 2.13, its successor private."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        return _all_rows(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return cast(Tensor, _OwnRowsOfSum.apply(gradient, ctx.rows))


class _OwnRowsOfSum(torch.autograd.Function):
    """The sum over the ranks, cut to this rank's rows: the gradient of the gather, and the gather is its own."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, rows: int) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * rows : (rank() + 1) * rows]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _GatherRows.apply(gradient)), None


def any_rank(flag: Tensor) -> Tensor:
    """Return a boolean tensor that is true on all ranks if `flag` is true on any rank."""
    if world_size() == 1:
        return flag
    shared = flag.to(torch.int32)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.bool()


class HostExchange:
    """Exchanges small integers between the hosts of all ranks, without waiting for a device.

    All ranks must make the same calls. It creates its own process group, which a copy or a pickle does not take along.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def __call__(self, values: Sequence[int]) -> list[list[int]]:
        """Return every rank's values, in rank order; each rank must give the same number."""
        if world_size() == 1:
            return [list(values)]
        device = "cpu"
        if dist.get_backend() != "gloo":  # nccl can only move tensors on a GPU
            if dist.is_gloo_available():
                self._group = self._group or dist.new_group(backend="gloo")
            else:
                device = "cuda"
        mine = torch.tensor(list(values), dtype=torch.int64, device=device)
        parts = [torch.empty_like(mine) for _ in range(world_size())]
        dist.all_gather(parts, mine, group=self._group)
        return [part.tolist() for part in parts]

    def __reduce__(self) -> tuple[type[HostExchange], tuple[()]]:
        return HostExchange, ()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks."""
    return sum_over_ranks(value) / world_size()


def means_over_ranks(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over the ranks, in one exchange per dtype: many small exchanges cost more."""
    means = list(values)
    if world_size() == 1:
        return means
    for kind in dict.fromkeys(value.dtype for value in values):
        of_kind = [number for number, value in enumerate(values) if value.dtype == kind]
        flat = mean_over_ranks(torch.cat([values[number].flatten() for number in of_kind]))
        for number, mean in zip(of_kind, flat.split([values[number].numel() for number in of_kind]), strict=True):
            means[number] = mean.view_as(values[number])
    return means


def from_all_ranks(value: T) -> list[T]:
    """Return every rank's value, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_rank_zero(function: Callable[[], T]) -> T:
    """Call the function on rank 0 and return its result on every rank; a `ValueError` is raised on all ranks."""
    if world_size() == 1:
        return function()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except ValueError as error:
            box[1] = str(error)
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise ValueError(box[1])
    return cast(T, box[0])

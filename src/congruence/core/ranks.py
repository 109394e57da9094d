"""Ranks of a torch.distributed process group: this process's rank, and values that ranks exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from congruence.core.traffic import counted, counting_now, reduced

T = TypeVar("T")


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_rank(flag: Tensor) -> Tensor:
    """Return a boolean tensor that is true on all ranks if `flag` is true on any rank."""
    if world_size() == 1:
        return flag
    shared = flag.to(torch.int32)
    with counted(counting_now(), "flags", reduced(shared, world_size())):
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
        with counted(counting_now(), "hosts", 8 * len(mine) * (world_size() - 1)):
            dist.all_gather(parts, mine, group=self._group)
        return [part.tolist() for part in parts]

    def __reduce__(self) -> tuple[type[HostExchange], tuple[()]]:
        return HostExchange, ()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks."""
    if world_size() == 1:
        return value
    total = value.clone()
    with counted(counting_now(), "sums", reduced(total, world_size())):
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
    with counted(counting_now(), "objects", 0, calls=2):  # their sizes go first
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

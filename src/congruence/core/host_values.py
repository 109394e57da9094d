"""What the host has seen of labels and positions that it moved to a device: looking there would make it wait."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core.devices import to_device

_NAME = "_congruence_host_values"  # an attribute of the tensor: it goes where the tensor goes, and ends with it


class HostValues(NamedTuple):
    """A tensor's smallest and largest value, and all its values on the host, where the host has them.

    `version` is the tensor's when this was noted: of one that was changed in place since, it says nothing.
    """

    low: int
    high: int
    values: Tensor | None
    version: int


def move_with_values(tensor: Tensor | None, device: torch.device | str | None) -> Tensor | None:
    """Move class labels or positions to a device, and note what the host has seen of them on the way.

    Example:
        >>> extremes(move_with_values(torch.tensor([3, -1, 2]), "cpu"))
        (-1, 3)
    """
    moved: Tensor | None = to_device(tensor, device)
    if tensor is not None and moved is not None and moved is not tensor and tensor.device.type == "cpu":
        note_values(moved, tensor)
    return moved


def note_values(on_device: Tensor, here: Tensor) -> None:
    """Note that a tensor on a device is equal to one on the host, where that is of integers."""
    integers = not (here.is_floating_point() or here.is_complex() or here.dtype == torch.bool)
    # An inference tensor has no version, by which a change in place would be seen.
    if here.numel() and integers and not on_device.is_inference():
        low, high = (int(value) for value in here.aminmax())
        setattr(on_device, _NAME, HostValues(low, high, here, on_device._version))


def note_row_values(gathered: Tensor, own: Tensor) -> Tensor:
    """Note of the rows of all ranks the extremes of this rank's own: each rank answers for its rows."""
    values = host_values_of(own)
    if values is not None and gathered is not own:
        setattr(gathered, _NAME, HostValues(values.low, values.high, None, gathered._version))
    return gathered


def host_values_of(tensor: Tensor) -> HostValues | None:
    """Return what the host has seen of a tensor, None where that is nothing or no longer true."""
    values: HostValues | None = getattr(tensor, _NAME, None)
    return values if values is not None and values.version == tensor._version else None


def extremes(tensor: Tensor) -> tuple[int, int]:
    """Return the smallest and the largest value of an integer tensor that is not empty, read where none are noted.

    Of rows that were gathered from several ranks they may be those of this rank's own.
    """
    values = host_values_of(tensor)
    if values is not None:
        return values.low, values.high
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # one of many, whose own values torch.vmap keeps back
        return extremes(torch._C._functorch.get_unwrapped(tensor))
    low, high = (int(value) for value in tensor.aminmax())
    return low, high


def on_host(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the host, copied where the host does not have them."""
    seen = host_values_of(tensor)
    return tensor.detach().cpu() if seen is None or seen.values is None else seen.values

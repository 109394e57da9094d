"""Values of labels and positions, noted on the host before they move to a device, where reading them would wait."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core.devices import to_device

_NAME = "_congruence_host_values"  # stored as an attribute of the tensor, so that it lives exactly as long


class HostValues(NamedTuple):
    """A tensor's smallest and largest value, and a copy of all its values on the host, if there is one.

    `version` is the tensor's version when this was noted: after a change in place, the note is no longer valid.
    """

    low: int
    high: int
    values: Tensor | None
    version: int


def move_with_values(tensor: Tensor | None, device: torch.device | str | None) -> Tensor | None:
    """Move class labels or positions to a device, and note their values on the host.

    Example:
        >>> extremes(move_with_values(torch.tensor([3, -1, 2]), "cpu"))
        (-1, 3)
    """
    moved: Tensor | None = to_device(tensor, device)
    if tensor is not None and moved is not None and moved is not tensor and tensor.device.type == "cpu":
        note_values(moved, tensor)
    return moved


def note_values(on_device: Tensor, here: Tensor) -> None:
    """Note that a tensor on a device equals one on the host, if they hold integers."""
    integers = not (here.is_floating_point() or here.is_complex() or here.dtype == torch.bool)
    # An inference tensor has no version, so a change in place would go unnoticed.
    if here.numel() and integers and not on_device.is_inference():
        low, high = (int(value) for value in here.aminmax())
        setattr(on_device, _NAME, HostValues(low, high, here, on_device._version))


def note_row_values(gathered: Tensor, own: Tensor) -> Tensor:
    """Note the extremes of this rank's rows on the rows of all ranks: each rank checks its own rows."""
    values = host_values_of(own)
    if values is not None and gathered is not own:
        setattr(gathered, _NAME, HostValues(values.low, values.high, None, gathered._version))
    return gathered


def host_values_of(tensor: Tensor) -> HostValues | None:
    """Return the values noted for a tensor; None if there are none or they are no longer valid."""
    values: HostValues | None = getattr(tensor, _NAME, None)
    return values if values is not None and values.version == tensor._version else None


def extremes(tensor: Tensor) -> tuple[int, int]:
    """Return the smallest and largest value of a non-empty integer tensor, reading it if none are noted.

    For rows gathered from several ranks, they may be those of this rank's rows only.
    """
    values = host_values_of(tensor)
    if values is not None:
        return values.low, values.high
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # inside torch.vmap, which hides a tensor's values
        return extremes(torch._C._functorch.get_unwrapped(tensor))
    low, high = (int(value) for value in tensor.aminmax())
    return low, high


def on_host(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the host, copying them only if the host has none."""
    seen = host_values_of(tensor)
    return tensor.detach().cpu() if seen is None or seen.values is None else seen.values

"""What the host knows of labels and positions that it moved to a device: looking there would make it wait."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core.devices import to_device

_NAME = "_congruence_known"  # an attribute of the tensor, so that it goes where the tensor goes, and ends with it


class Known(NamedTuple):
    """A tensor's smallest and largest value; its values on the host, where all of them are there.

    `version` is the tensor's when this was noted: one that was changed in place since is not known.
    """

    low: int
    high: int
    values: Tensor | None
    version: int


def move_known(tensor: Tensor | None, device: torch.device | str | None) -> Tensor | None:
    """Move class labels or positions to a device, and note what the host has seen of them on the way.

    Example:
        >>> extremes(move_known(torch.tensor([3, -1, 2]), "cpu"))
        (-1, 3)
    """
    there: Tensor | None = to_device(tensor, device)
    if tensor is not None and there is not None and there is not tensor and tensor.device.type == "cpu":
        note(there, tensor)
    return there


def note(there: Tensor, here: Tensor) -> None:
    """Note that a tensor on a device is equal to one on the host, where that is of integers."""
    whole = not (here.is_floating_point() or here.is_complex() or here.dtype == torch.bool)
    if here.numel() and whole and not there.is_inference():
        low, high = (int(value) for value in here.aminmax())
        setattr(there, _NAME, Known(low, high, here, there._version))


def note_rows(whole: Tensor, own: Tensor) -> Tensor:
    """Note of the rows of all ranks that this rank's are as they are known: each rank answers for its own."""
    found = known(own)
    if found is not None and whole is not own:
        setattr(whole, _NAME, Known(found.low, found.high, None, whole._version))
    return whole


def known(tensor: Tensor) -> Known | None:
    """Return what the host knows of a tensor."""
    found: Known | None = getattr(tensor, _NAME, None)
    return found if found is not None and found.version == tensor._version else None


def extremes(tensor: Tensor) -> tuple[int, int]:
    """Return the smallest and the largest value of an integer tensor that is not empty, read where they are not known.

    Of rows that were gathered from several ranks they may be those of this rank's own.
    """
    found = known(tensor)
    if found is not None:
        return found.low, found.high
    low, high = (int(value) for value in tensor.aminmax())
    return low, high


def on_host(tensor: Tensor) -> Tensor:
    """Return a tensor's values on the host, copied where they are not known."""
    found = known(tensor)
    return tensor.detach().cpu() if found is None or found.values is None else found.values

"""What batches are made of: tensors in tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """Move the tensors in a tensor, tuple, list or mapping, without waiting for the device."""
    if device is None:
        return value
    pinned = torch.device(device).type == "cuda"

    def move(tensor: Tensor) -> Tensor:
        # A copy from memory that is not pinned waits for what the device is doing.
        source = tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor
        return source.to(device, non_blocking=True)

    return on_tensors(move, value)


def on_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to the tensors in a tensor, tuple, list or mapping."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: on_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [on_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a tensor, tuple, list or mapping, in the order in which `on_tensors` meets them."""
    in_order: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        in_order.append(tensor)
        return tensor

    on_tensors(note, value)
    return in_order

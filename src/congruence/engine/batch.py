"""A batch as the models take it, whatever the loader gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch."""

    inputs: Any
    labels: Tensor | None = None
    index: Tensor | None = None
    views: Mapping[str, Any] = field(default_factory=dict)


def unpack(batch: Any, device: torch.device | None = None) -> Batch:
    """Turn `x`, `(x, y)`, `(x, y, index)` or a mapping with "inputs" into a `Batch` on the device.

    A mapping may hold "labels", "index" and "views". Any other mapping is taken as the model's inputs, with "labels"
    taken out, as text models have them.
    """
    if isinstance(batch, Mapping):
        values = dict(batch)
        labels, index, views = values.pop("labels", None), values.pop("index", None), values.pop("views", None)
        found = Batch(values.get("inputs", values), labels, index, dict(views or {}))
    elif isinstance(batch, (tuple, list)):
        if not 1 <= len(batch) <= 3:
            raise ValueError(f"A batch must be (inputs, labels) or (inputs, labels, index), got {len(batch)} parts.")
        found = Batch(*batch)
    else:
        found = Batch(batch)
    if found.labels is not None and not isinstance(found.labels, Tensor):
        raise ValueError(f"The labels of a batch must be a tensor, got {type(found.labels).__name__}.")
    parts = (found.inputs, found.labels, found.index, found.views)
    return Batch(*(to_device(part, device) for part in parts))


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """Move the tensors in a tensor, tuple, list or mapping."""
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    return value


def grouped(loader: Any, epoch: int, start: int, size: int, device: torch.device) -> Iterator[list[Batch]]:
    """Yield an epoch's batches from number `start` on, in groups of `size`, on the device.

    A loader of `congruence.data` starts where it is told. Any other starts anew; its sampler hears of the epoch.
    """
    if hasattr(loader, "batches"):
        source: Iterable[Any] = loader.batches(epoch, start)
    else:
        for name in ("sampler", "batch_sampler"):
            set_epoch = getattr(getattr(loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        source = loader
    group: list[Batch] = []
    for raw in source:
        group.append(unpack(raw, device))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

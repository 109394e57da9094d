"""A batch as the models take it, whatever the loader gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from congruence.core import check, rng
from congruence.core.devices import to_device
from congruence.core.host_values import move_with_values


@dataclass(frozen=True)
class Batch:
    """One batch."""

    inputs: Any
    labels: Tensor | None = None
    index: Tensor | None = None
    views: Mapping[str, Any] = field(default_factory=dict)


def unpack(batch: Any, device: torch.device | None = None) -> Batch:
    """Turn `x`, `(x, y)`, `(x, y, index)` or a mapping with "inputs" into a `Batch` on the device.

    A mapping may hold "labels" (or "label"), "index" and "views". Where it holds "inputs", what else it holds is left
    out; any other mapping is the model's inputs, with the labels taken out, as text models have them.

    Raises:
        ValueError: for a batch of more parts, or labels or an index that are no tensors.
    """
    if isinstance(batch, Mapping):
        values = dict(batch)
        labels, index, views = (
            values.pop("labels", values.pop("label", None)),
            values.pop("index", None),
            values.pop("views", None),
        )
        found = Batch(values.get("inputs", values), labels, index, dict(views or {}))
    elif isinstance(batch, (tuple, list)):
        if not 1 <= len(batch) <= 3:
            raise ValueError(f"A batch must be (inputs, labels) or (inputs, labels, index), got {len(batch)} parts.")
        found = Batch(*batch)
    else:
        found = Batch(batch)
    for name, value in (("labels", found.labels), ("index", found.index)):
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"The {name} of a batch must be a tensor, got {type(value).__name__}.")
    inputs, views = (to_device(part, device) for part in (found.inputs, found.views))
    return Batch(inputs, move_with_values(found.labels, device), move_with_values(found.index, device), views)


def samplers(loader: Any) -> list[Any]:
    """Return the samplers of a stock loader: its own, that of its batches, and the one beneath."""
    batches = getattr(loader, "batch_sampler", None)
    found: list[Any] = []
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        if sampler is not None and not any(sampler is other for other in found):
            found.append(sampler)
    return found


def generators(loader: Any) -> list[torch.Generator]:
    """Return the generators of its own that a stock loader draws from."""
    holders = [loader, *samplers(loader)]
    found = {id(g): g for g in (getattr(holder, "generator", None) for holder in holders)}
    return [generator for generator in found.values() if isinstance(generator, torch.Generator)]


def first_batch(loader: Any, argument: str) -> Any:
    """Return a loader's first batch, and leave the loader and the process's generators as they were."""
    if isinstance(loader, Iterator):
        check.fail("fit", argument, "a loader that can be read more than once", "an iterator")
    states = [(generator, generator.get_state()) for generator in generators(loader)]
    with rng.untouched():
        if hasattr(loader, "dealt"):
            source = loader.dealt()
        else:
            source = iter(loader.batches(0) if hasattr(loader, "batches") else loader)
        first = next(source, None)
    for generator, state in states:
        generator.set_state(state)
    if first is None:
        check.fail("fit", argument, "a loader of at least one batch", "none (is the dataset empty?)")
    return first


def grouped(loader: Any, epoch: int, start: int, size: int, device: torch.device) -> Iterator[list[Batch]]:
    """Yield an epoch's batches from number `start` on, in groups of `size`, on the device.

    A loader of `congruence.data` starts where it is told. Any other starts anew; its sampler hears of the epoch.
    """
    if hasattr(loader, "batches"):
        source: Iterable[Any] = loader.batches(epoch, start)
    else:
        for sampler in samplers(loader):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        source = loader
    group: list[Batch] = []
    for raw in source:
        group.append(unpack(raw, device))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

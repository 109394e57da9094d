"""The one place where an item of a dataset, or a batch of any loader, is taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from congruence.core.devices import tensors, to_device
from congruence.core.host_values import move_with_values
from congruence.core.inputs import Inputs

_LABELS = ("labels", "label")  # the first of these keys that a mapping has is used
_MISNAMED = ("target", "targets", "y", "class", "classes")  # keys that would otherwise be ignored silently
_PARTS = 3


@dataclass(frozen=True)
class Batch:
    """One batch: what the models take, and what is known of its samples.

    Args:
        inputs: the model inputs of the view "main": a tensor, a tuple or a mapping of keyword arguments.
        labels: int64 [B], -1 if a sample has none; None if none has.
        index: int64 [B], the samples' positions in the dataset.
        views: inputs of each view of the samples, where there is more than "main"; "main" may be among them.
        no_index: describes a third part that cannot be an index (see `unpack`); "" if there was none.
    """

    inputs: Any
    labels: Any = None
    index: Any = None
    views: Mapping[str, Any] = field(default_factory=dict)
    no_index: str = ""

    @property
    def rows(self) -> int | None:
        """The number of samples, None if neither labels nor inputs show it."""
        parts = [self.labels, *tensors(self.inputs)]
        return next((len(part) for part in parts if isinstance(part, Tensor) and part.dim()), None)

    def to(self, device: torch.device | str | None) -> Batch:
        """Return the batch on a device; None leaves it where it is."""
        if device is None:
            return self
        views = to_device(self.views, device)
        same = next((name for name, view in self.views.items() if view is self.inputs), None)
        inputs = to_device(self.inputs, device) if same is None else views[same]
        labels, index = move_with_values(self.labels, device), move_with_values(self.index, device)
        return Batch(inputs, labels, index, views, self.no_index)

    def without_index(self, why: str) -> Batch:
        """Return the batch without an index, noting why the one given cannot be used."""
        return replace(self, index=None, no_index=why)

    def as_given(self) -> Any:
        """Return `(inputs, labels, index)`, or a mapping if there are views: the form that custom loops read."""
        if not self.views:
            return self.inputs, self.labels, self.index
        return {"inputs": self.inputs, "labels": self.labels, "index": self.index, "views": self.views}


def parse(value: Any) -> Batch:
    """Split an item of a dataset, or a batch of items, into its parts, which are returned as given.

    Accepted forms: `x` (which may be `Inputs`); `(x,)`; `(x, y)`; `(x, y, index)`, after which an item may have more
    parts; or a mapping. A mapping may hold "labels" (or "label"), "index" and "views". If it holds "inputs", its other
    keys are ignored; otherwise all remaining keys are the model's inputs, as for text models.

    Raises:
        ValueError: if it is empty, or its labels have another name.

    Example:
        >>> batch = parse({"input_ids": [3, 1], "label": 0})
        >>> batch.inputs, batch.labels
        ({'input_ids': [3, 1]}, 0)
    """
    if isinstance(value, Inputs):
        return Batch(value)
    if isinstance(value, Mapping):
        apart = (*_LABELS, "index", "views")
        rest = {key: part for key, part in value.items() if key not in apart}
        labels = next((value[key] for key in _LABELS if key in value), None)
        misnamed = next((key for key in _MISNAMED if key in rest), None)
        if labels is None and misnamed is not None and "inputs" in rest:
            raise ValueError(f"A batch by name must have its labels as 'labels' (or 'label'), got '{misnamed}'.")
        return Batch(rest.get("inputs", rest), labels, value.get("index"), dict(value.get("views") or {}))
    if isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence):
        if not value:
            raise ValueError("A batch must be (inputs, labels) or (inputs, labels, index), got 0 parts.")
        return Batch(*value[:_PARTS])
    return Batch(value)


def unpack(batch: Any, device: torch.device | None = None) -> Batch:
    """Turn a loader's batch (for its forms see `parse`) into a `Batch` on the device.

    A third part that cannot be an index (a weight, paths) is left out: see `Batch.no_index`.

    Raises:
        ValueError: for a batch of more than three parts, or labels that are not a tensor.
    """
    if isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence) and len(batch) > _PARTS:
        raise ValueError(f"A batch must be (inputs, labels) or (inputs, labels, index), got {len(batch)} parts.")
    parts = batch if isinstance(batch, Batch) else parse(batch)
    if parts.labels is not None and not isinstance(parts.labels, Tensor):
        raise ValueError(f"The labels of a batch must be a tensor, got {type(parts.labels).__name__}.")
    why = "" if parts.index is None else why_no_index(parts.index, parts.rows)
    if why:
        parts = parts.without_index(why)
    elif parts.index is not None and parts.index.dtype != torch.int64:
        parts = replace(parts, index=parts.index.long())
    return parts.to(device)


def why_no_index(value: Any, rows: int | None, *, look: bool = True) -> str:
    """Describe a value that cannot be positions in a dataset; "" for one that can.

    With `look` the values of a tensor on the host are read as well; tensors on a device are not read.

    Example:
        >>> why_no_index(torch.tensor([0.5, 2.0]), 2), why_no_index(torch.tensor([3, 0]), 2)
        ('float32 [2]', '')
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.dtype not in (torch.int32, torch.int64) or value.dim() != 1 or rows not in (None, len(value)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if look and value.device.type == "cpu" and len(value) and int(value.min()) < 0:
        return f"{int(value.min())} among them"
    return ""


def grouped(batches: Iterable[Batch], size: int, device: torch.device) -> Iterator[list[Batch]]:
    """Yield batches in groups of `size`, on the device; the last group may be smaller."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch.to(device))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group

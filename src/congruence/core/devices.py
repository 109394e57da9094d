"""Operations on nested inputs: tensors in tuples, lists and mappings."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from congruence.core.later import Later, entries


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
    """Apply a function to the tensors in a tensor, tuple, list or mapping; containers keep their type.

    Example:
        >>> from collections import OrderedDict
        >>> dict(on_tensors(torch.neg, OrderedDict(x=(torch.ones(1), "as it is"))))
        {'x': (tensor([-1.]), 'as it is')}
    """
    return _on_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a tensor, tuple, list or mapping, in the order in which `on_tensors` meets them."""
    in_order: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        in_order.append(tensor)
        return tensor

    on_tensors(note, value)
    return in_order


def private(value: Any) -> Any:
    """Return a copy of inputs that a model may write into; a tensor that occurs twice is also one tensor in the copy.

    Copied are tensors, arrays, their containers, and objects that have a `clone` or hold tensors.

    Example:
        >>> inputs = {"tokens": torch.ones(2), "more": {}}
        >>> mine = private(inputs)
        >>> _ = mine["tokens"].zero_(), mine["more"].update(seen=True)
        >>> inputs
        {'tokens': tensor([1., 1.]), 'more': {}}
    """
    copies: dict[int, Any] = {}

    def copied(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            # Each tensor is cloned once, so two arguments that are one tensor stay one. The inputs keep it alive, and
            # so its id.
            if id(leaf) not in copies:
                copies[id(leaf)] = _copy(leaf)
            return copies[id(leaf)]
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        if isinstance(leaf, (type, nn.Module)):
            return leaf
        if callable(getattr(leaf, "clone", None)):  # graphs and other batches with custom classes
            return leaf.clone()
        if not hasattr(leaf, "__dict__") or not any(map(tensors, vars(leaf).values())):
            return leaf
        twin = copy.copy(leaf)
        for name, part in vars(leaf).items():
            object.__setattr__(twin, name, _on_leaves(copied, part))
        return twin

    return _on_leaves(copied, value)


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy; on a CPU its memory is copied only once either tensor is written into, which few models do.

    On other devices such a lazy copy could leave the order of the stream. Shared or NumPy memory cannot be copied
    lazily.
    """
    if tensor.device.type == "cpu" and hasattr(tensor, "_lazy_clone"):
        with contextlib.suppress(RuntimeError):
            lazy: Tensor = tensor._lazy_clone()
            return lazy
    return tensor.clone()


def row_count(value: Any) -> int | None:
    """Return the number of rows of the first tensor (the number of packed sequences); None if there is no tensor.

    Inputs that are not made yet are made where there is nothing else.
    """
    if isinstance(value, Later):
        return row_count(value.made())
    sequences = _first_packed(value)
    if sequences is not None:
        return int(sequences.batch_sizes[0])
    found = tensors(value)
    if not found and isinstance(value, Mapping):
        return next((row_count(item) for _, item in entries(value) if isinstance(item, Later)), None)
    return found[0].shape[0] if found and found[0].dim() else None


def take_rows(value: Any, rows: slice | Tensor, count: int) -> Any:
    """Return the inputs of the chosen samples; a tensor that does not have `count` rows stays whole."""

    def chosen(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf, batch_first=True)
            at = rows.cpu() if isinstance(rows, Tensor) else rows
            part = padded[rows if isinstance(rows, slice) else rows.to(padded.device)]
            return pack_padded_sequence(part, lengths[at], batch_first=True, enforce_sorted=False)
        if not isinstance(leaf, Tensor) or not leaf.dim() or len(leaf) != count:
            return leaf
        return leaf[rows if isinstance(rows, slice) else rows.to(leaf.device)]

    return _on_leaves(chosen, value, packed=True)


def _first_packed(value: Any) -> PackedSequence | None:
    """Return the packed sequences if they come first among the inputs' tensors, else None."""
    found: list[Any] = []

    def note(leaf: Any) -> Any:
        found.extend([leaf] if isinstance(leaf, (Tensor, PackedSequence)) else [])
        return leaf

    _on_leaves(note, value, packed=True)
    return found[0] if found and isinstance(found[0], PackedSequence) else None


def _on_leaves(function: Callable[[Any], Any], value: Any, *, packed: bool = False) -> Any:
    """Apply a function to everything but tuples, lists and mappings; with `packed`, to packed sequences as a whole.

    To inputs that are not made yet it is applied when they are.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Later):
        return value.then(lambda made: _on_leaves(function, made, packed=packed))
    if isinstance(value, Mapping):
        return _mapping_like(value, {key: _on_leaves(function, item, packed=packed) for key, item in entries(value)})
    if isinstance(value, PackedSequence):
        return function(value) if packed else _packed_like(function, value)
    if isinstance(value, (tuple, list)):
        items = [_on_leaves(function, item, packed=packed) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


def _mapping_like(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return the items in a mapping of the same type as the given one: some types have attributes that models read."""
    if type(value) is dict or torch.compiler.is_compiling():
        return items
    try:
        like: Any = copy.copy(value)
        for key, item in items.items():
            like[key] = item
    except Exception:  # a type that cannot be copied, or that cannot be rebuilt from items
        return items
    return like if like is not value else items


def _packed_like(function: Callable[[Any], Any], value: PackedSequence) -> PackedSequence:
    """Return packed sequences with other data; their batch sizes stay on the CPU, as torch requires."""
    order = [None if each is None else function(each) for each in (value.sorted_indices, value.unsorted_indices)]
    return PackedSequence(function(value.data), value.batch_sizes, *order)

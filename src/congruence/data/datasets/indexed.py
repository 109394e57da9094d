"""`indexed`: any map-style dataset, with each item's position in it, for loops with a stock DataLoader."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from congruence.core.check import fail

_LABEL_KEYS = ("labels", "label")


class Item(NamedTuple):
    """A sample, or a collated batch of them, taken apart; `label` is None where there is none."""

    inputs: Any
    label: Any


def take_apart(item: Any) -> Item:
    """Read `x`, `(x, y)`, `(x, y, ...)` or a mapping, whose "labels" or "label" is the label."""
    if isinstance(item, Mapping):
        key = next((key for key in _LABEL_KEYS if key in item), None)
        return Item({name: value for name, value in item.items() if name != key}, None if key is None else item[key])
    if isinstance(item, tuple | list):
        if not item:
            fail("loader", "dataset", "one whose items are `x`, `(x, y)` or mappings", "an empty item")
        return Item(item[0], item[1] if len(item) > 1 else None)
    return Item(item, None)


class Indexed(Dataset[Any]):
    """A map-style dataset whose items carry their position; made by `indexed`."""

    def __init__(self, dataset: Any) -> None:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            fail("indexed", "dataset", "a map-style dataset (__len__ and __getitem__)", type(dataset).__name__)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        position = index + len(self) if index < 0 else index
        item = self.dataset[position]
        if isinstance(item, Mapping):
            return {**item, "index": position}
        inputs, label = take_apart(item)
        return inputs, -1 if label is None else label, position


def indexed(dataset: Any) -> Indexed:
    """Wrap a dataset so that items become (x, y, index), for loops with a stock DataLoader.

    Some methods keep something for each sample (CRD its banks, a cached teacher its outputs) and need the position.

    Args:
        dataset: map-style; items `x` (then y is -1), `(x, y)`, `(x, y, ...)`, or mappings, which gain the key "index".

    Returns:
        A map-style dataset of the same length.

    Raises:
        ValueError: where the dataset is not map-style.

    Example:
        >>> indexed([("a", 3), ("b", 5)])[1]
        ('b', 5, 1)
    """
    return Indexed(dataset)

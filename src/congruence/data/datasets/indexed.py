"""`indexed`: adds each item's position to any map-style dataset, for loops with a stock DataLoader."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from torch.utils.data import Dataset

from congruence.core.batch import parse
from congruence.core.check import fail


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
        parts = parse(item)
        return parts.inputs, -1 if parts.labels is None else parts.labels, position


def indexed(dataset: Any) -> Indexed:
    """Wrap a dataset so that items become (x, y, index), for loops with a stock DataLoader.

    Some methods store data for each sample (CRD its banks, a cached teacher its outputs) and need the position.

    Args:
        dataset: map-style; items `x` (then y is -1), `(x, y)`, `(x, y, ...)`, or mappings, which gain the key "index".

    Returns:
        A map-style dataset of the same length.

    Raises:
        ValueError: if the dataset is not map-style.

    Example:
        >>> indexed([("a", 3), ("b", 5)])[1]
        ('b', 5, 1)
    """
    return Indexed(dataset)

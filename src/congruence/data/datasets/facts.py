"""`facts`: size, number of classes and labels of any dataset, which methods may need before the first step."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from congruence.core.check import fail
from congruence.data.datasets.batched import BatchDataset


@dataclass(frozen=True, eq=False)
class DataFacts:
    """Size of the training data, its number of classes, and the label of each sample (int64 [size], -1: unknown)."""

    size: int
    classes: int | None = None
    labels: Tensor | None = None


def facts(dataset: Any) -> DataFacts:
    """Return a dataset's facts without reading its samples.

    An `ArrayDataset`, a `FileDataset` or a `TextDataset` has all facts. For other datasets, labels are the attribute
    `targets` or `labels` (torchvision's names) or the second tensor of a `TensorDataset`, also inside subsets and
    `indexed`. The number of classes comes from `classes`, else from the largest label plus one.

    Args:
        dataset: any map-style dataset.

    Returns:
        The facts; classes and labels are None if they are unknown.

    Raises:
        ValueError: if the dataset has no length.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> about = facts(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 2, 1])))
        >>> about.size, about.classes, about.labels.tolist()
        (3, 3, [0, 2, 1])
    """
    if not isinstance(dataset, Sized):
        fail("facts", "dataset", "a map-style dataset with a length", type(dataset).__name__)
    size = len(dataset)
    if isinstance(dataset, BatchDataset):
        return DataFacts(size, dataset.classes, dataset.labels)
    inner = getattr(dataset, "dataset", None)
    rows = getattr(dataset, "indices", None)
    if inner is not None and isinstance(inner, Sized) and (rows is not None or len(inner) == size):
        below = facts(inner)
        labels = below.labels
        if labels is not None and rows is not None:
            labels = labels[torch.as_tensor(rows, dtype=torch.int64)]
        return DataFacts(size, below.classes, labels)
    labels = _labels(dataset, size)
    named = _named_classes(dataset)
    if named is not None:
        return DataFacts(size, named, labels)
    top = -1 if labels is None or not len(labels) else int(labels.max())
    return DataFacts(size, top + 1 if top >= 0 else None, labels)


def declared_classes(dataset: Any) -> int | None:
    """Return the number of classes that a dataset declares, None if only its labels could tell.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> declared_classes(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 2, 1]))) is None
        True
    """
    while dataset is not None:
        named = _named_classes(dataset)
        if named is not None:
            return named
        dataset = getattr(dataset, "dataset", None)
    return None


def _named_classes(dataset: Any) -> int | None:
    """Return the number of classes from the dataset's attribute `classes`, which is a number or a list of names."""
    names = getattr(dataset, "classes", None)
    if isinstance(names, int) and not isinstance(names, bool):
        return names
    return len(names) or None if isinstance(names, Sized) else None


def _labels(dataset: Any, size: int) -> Tensor | None:
    """Return the first attribute that holds one whole number for each sample."""
    tensors = getattr(dataset, "tensors", ())
    second = tensors[1] if isinstance(tensors, tuple) and len(tensors) > 1 else None
    for candidate in (getattr(dataset, "targets", None), getattr(dataset, "labels", None), second):
        if candidate is None:
            continue
        try:
            labels = torch.as_tensor(candidate)
        except (TypeError, ValueError, RuntimeError):  # Boxes, strings, ragged lists: not class labels.
            continue
        whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
        if whole and labels.shape == (size,):
            return labels.to("cpu", torch.int64)
    return None

"""User data from a factory: any datasets as `Splits`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from congruence import data
from congruence.core import check
from congruence.core.importing import made_by
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.facts import declared_classes

LOG = logging.getLogger("congruence")
_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_WANTED = "Splits, three datasets (train, validation, test), or a mapping of 'train', 'validation' and 'test' to them"


def made_splits(factory: str, options: Mapping[str, Any], *, trust: bool = False) -> data.Splits:
    """Call a factory of data, and return its parts.

    It returns `congruence.data.Splits`; or three map-style datasets (training, validation, test), or a mapping with
    "train", "validation" (or "val") and "test" to them. None, or a part that a mapping leaves out, is an empty part.
    A dataset that is not from `congruence.data` is read item by item: see `congruence.data.ItemDataset`. If the number
    of classes is not declared, it follows from the labels of the training and validation parts.

    Args:
        factory: "package.module:function".
        options: its keyword arguments.
        trust: whether it may be imported.

    Raises:
        ValueError: for without trust, for a factory that fails, or that returns something else.
    """
    made = made_by(factory, options, what="data factory", trust=trust)
    parts = _parts(factory, made)
    if parts["train"] is None:
        raise ValueError(f"The data factory '{factory}' must return {_WANTED}, got no training part.")
    wrapped = {name: _wrapped(factory, name, part) for name, part in parts.items() if part is not None}
    train = wrapped["train"]
    if not len(train):
        raise ValueError(f"The data factory '{factory}' must return training samples, got none.")
    splits = data.Splits(*(wrapped.get(name, train.subset([])) for name in data.Splits._fields))
    if not all(part.told for part in splits):
        LOG.warning(
            "The data of '%s' has no `fingerprint()`: whether it is still the same, where a run is resumed or what is "
            "kept of it is read, is told by its number of samples, its labels and its first samples alone.",
            factory,
        )
    return _of_one_count(splits)


def _parts(factory: str, made: Any) -> dict[str, Any]:
    """Return the parts by name, None if there is none."""
    if isinstance(made, Mapping):
        unknown = next((key for key in made if key not in _NAMES), None)
        if unknown is not None:
            near = check.near(str(unknown), _NAMES)
            raise ValueError(f"The data factory '{factory}' must return {_WANTED}, got the part {unknown!r}.{near}")
        named = {_NAMES[key]: part for key, part in made.items()}
        return {name: named.get(name) for name in data.Splits._fields}
    if isinstance(made, tuple | list) and len(made) == len(data.Splits._fields):
        return dict(zip(data.Splits._fields, made, strict=True))
    got = f"{len(made)} parts" if isinstance(made, tuple | list) else type(made).__name__
    raise ValueError(f"The data factory '{factory}' must return {_WANTED}, got {got}.")


def _wrapped(factory: str, name: str, part: Any) -> BatchDataset:
    if isinstance(part, BatchDataset):
        return part
    if isinstance(part, Tensor):
        raise ValueError(
            f"The data factory '{factory}' must return {_WANTED}, got a tensor as {name} part: "
            "torch.utils.data.TensorDataset(inputs, labels) makes a dataset of them."
        )
    try:
        return data.ItemDataset(part, name=f"{factory}/{name}")
    except ValueError as error:
        raise ValueError(f"The data factory '{factory}', its {name} part: {error}") from error


def _of_one_count(splits: data.Splits) -> data.Splits:
    """Give parts that were counted by their labels the same classes: one may lack the last."""
    train, validation, test = splits
    counted = [part for part in splits if isinstance(part, data.ItemDataset) and declared_classes(part.items) is None]
    if train not in counted or not any(part.classes for part in (train, validation)):
        return splits
    classes = max(part.classes or 0 for part in (train, validation))
    wanted = {"train": classes, "validation": classes, "test": max(classes, test.classes or 0)}
    parts = {
        name: dataclasses.replace(cast(Any, part), classes=wanted[name]) if part in counted else part
        for name, part in splits._asdict().items()
    }
    return data.Splits(**parts)

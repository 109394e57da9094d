"""Training, validation and test parts of whatever data `congruence.distill` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from congruence.core import check
from congruence.data.datasets import split
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.facts import facts
from congruence.data.sources.load import Splits, load

_FRACTION = check.Real(0, 1, closed="low")
_COUNT = check.Real(low=0, closed="low", integer=True)
_HELD_OUT = 0.1  # where nobody says how much
_WANTED = "a map-style dataset, Splits, a folder's path or a dataset's name"


class Parts(NamedTuple):
    """Datasets without a common sample; None if there is no such part."""

    train: Any
    validation: Any | None
    test: Any | None


def parts_of(data: Any, validation: Any = None, test: Any = None, *, seed: int = 0) -> Parts:
    """Take data apart.

    Args:
        data: a map-style dataset, `Splits`, or what `congruence.data.load` takes.
        validation: a dataset; or how many samples (which fraction) are held out of `data`, 0 for none. None: what
            `Splits`, a folder or a named dataset has for it, a tenth of any other.
        test: a dataset; `Splits`, folders and named datasets have their own.
        seed: of what is held out.

    Raises:
        ValueError: for what is no dataset, or does not go together.
    """
    of_its_own = isinstance(data, Splits | str | Path)
    if validation is None or isinstance(validation, int | float):
        if not (validation is None or _FRACTION.accepts(validation) or _COUNT.accepts(validation)):
            check.fail("distill", "validation", "a fraction < 1, a number of samples or a dataset", repr(validation))
        if isinstance(data, Splits) and validation:
            check.fail("distill", "validation", "a dataset, 0 or None beside Splits, which have their own", validation)
    else:
        check_dataset("validation", validation, "a number, or a map-style dataset")
    if test is not None:
        check_dataset("test", test, "a map-style dataset")
    if not of_its_own:
        check_dataset("data", data, _WANTED)
        return _held_out(data, validation, test, seed)
    number = validation if isinstance(validation, int | float) else None
    splits = data if isinstance(data, Splits) else load(data, validation=number, split_seed=seed)
    if test is not None and len(splits.test):
        check.fail("distill", "test", "left out where the data has a test part of its own", type(test).__name__)
    if validation is None or number:
        validation = splits.validation
    kept = validation if isinstance(validation, Sized) and len(validation) else None
    return Parts(splits.train, kept, splits.test if len(splits.test) else test)


def check_dataset(argument: str, value: Any, wanted: str) -> None:
    """Refuse what is no map-style dataset, and say what was meant."""
    tensors = isinstance(value, tuple | list) and len(value) and all(isinstance(part, Tensor) for part in value)
    if isinstance(value, Tensor) or tensors:
        got = f"{type(value).__name__} of tensors: torch.utils.data.TensorDataset(inputs, labels) makes one of them"
        check.fail("distill", argument, wanted, got.replace("Tensor of tensors", "a tensor"))
    if hasattr(value, "dataset") and not hasattr(value, "__getitem__"):
        kind = type(value).__name__
        check.fail("distill", argument, wanted, f"a {kind}: give its dataset (loaders of one's own are `fit`'s)")
    if (
        not isinstance(value, Sized)
        or not hasattr(value, "__getitem__")
        or isinstance(value, Mapping | IterableDataset)
    ):
        check.fail("distill", argument, wanted, type(value).__name__)
    if not len(value):
        check.fail("distill", argument, "a dataset with samples", "an empty one")


def _held_out(dataset: Any, validation: Any, test: Any, seed: int) -> Parts:
    """Hold a part out class by class in proportion, as far as the dataset tells its labels without being read."""
    if not (validation is None or isinstance(validation, int | float)):
        return Parts(dataset, validation, test)
    size = len(dataset)
    wanted = _HELD_OUT if validation is None else validation
    total = wanted if isinstance(wanted, int) else round(size * wanted)
    if total >= size:
        check.fail("distill", "validation", f"fewer than the {size} samples of `data`", total)
    if not total:
        return Parts(dataset, None, test)
    labels = facts(dataset).labels
    labels = torch.zeros(size, dtype=torch.int64) if labels is None else labels
    chosen, rest = split.stratified(labels, total, seed=seed, stream=split.VALIDATION)
    return Parts(_some(dataset, rest), _some(dataset, chosen), test)


def _some(dataset: Any, rows: Tensor) -> Any:
    if isinstance(dataset, BatchDataset):
        return dataset.subset(rows)
    positions: Sequence[int] = rows.tolist()
    return Subset(dataset, positions)

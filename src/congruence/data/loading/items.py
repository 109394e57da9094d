"""`ItemDataset`: any user's map-style dataset, a table or anything else, as a part of `Splits`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Sized
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from congruence.core import rng
from congruence.core.batch import parse
from congruence.core.check import fail
from congruence.core.content import tensor_bytes
from congruence.core.devices import tensors, to_device
from congruence.core.inputs import STUDENT
from congruence.data.augment.crops import PLAIN_VIEWS
from congruence.data.datasets.batched import BatchDataset, Indices, Spec
from congruence.data.datasets.facts import facts
from congruence.data.loading.draws import Draws, Request

_TOLD_BY = 64  # samples used to identify data without a fingerprint


def rows_of_tensors(dataset: Any) -> bool:
    """Whether a dataset's items are the rows of its tensors, as they are: no class of its own reads them.

    Example:
        >>> class Noisy(TensorDataset):
        ...     def __getitem__(self, row):
        ...         return tuple(torch.randn_like(part) + part for part in super().__getitem__(row))
        >>> rows_of_tensors(TensorDataset(torch.zeros(2))), rows_of_tensors(Noisy(torch.zeros(2)))
        (True, False)
    """
    reads = ("__getitem__", "__getitems__")
    return isinstance(dataset, TensorDataset) and all(
        getattr(type(dataset), name, None) is getattr(TensorDataset, name, None) for name in reads
    )


@dataclass(frozen=True, eq=False, repr=False)
class ItemDataset(BatchDataset):
    """A map-style dataset whose items are the models' inputs, or pairs of inputs and a label.

    Items are read one by one and collated. Each is read with generators seeded by (seed, epoch, sample, view), so that
    its random transforms are reproducible, as `loader` does for any dataset.

    Shape:
        labels int64 [N]; batches as `torch.utils.data.default_collate` makes them of the items' inputs.

    Args:
        items: N items `x`, `(x, y)` or mappings, as `loader` takes them.
        labels: classes from 0 on, -1 if unknown; None: taken from the dataset (`targets`, `labels`, the second tensor
            of a `TensorDataset`), else from its items, each of which is read once; no labels if they are not whole
            numbers.
        classes: the number of classes; None: from the dataset's `classes`, or from the labels.
        class_names: one name for each class, or empty.
        name: the name used in messages and records.
        rows: positions in `items` of the samples in this dataset, None for all; set by `subset`.
        known: whether labels and classes have already been determined; set by copies.

    Raises:
        ValueError: if `items` is not a map-style dataset, or the labels do not fit.

    Example:
        >>> rows = TensorDataset(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> data = ItemDataset(rows, name="table")
        >>> data.batch([0, 2]).tolist(), data.labels.tolist(), data.classes
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 1], 2)
    """

    items: Any
    labels: Tensor | None = None
    _: KW_ONLY
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    name: str = ""
    rows: Tensor | None = None
    known: bool = False

    def __post_init__(self) -> None:
        kind, items = type(self).__name__, self.items
        if not isinstance(items, Sized) or not hasattr(items, "__getitem__") or isinstance(items, Mapping):
            fail(kind, "items", "a map-style dataset (__len__ and __getitem__)", type(items).__name__)
        if not self.known:
            told = facts(items)
            names = getattr(items, "classes", None)
            if not self.class_names and isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
                object.__setattr__(self, "class_names", tuple(names))
            if self.labels is None:
                object.__setattr__(self, "labels", _labels_of_items(items) if told.labels is None else told.labels)
            if self.classes is None:
                known = len(self.class_names) or told.classes
                top = -1 if self.labels is None or not len(self.labels) else int(torch.as_tensor(self.labels).max())
                object.__setattr__(self, "classes", known or (top + 1 if top >= 0 else None))
            object.__setattr__(self, "known", True)
        self._check_labels("samples")

    def __repr__(self) -> str:
        return f"ItemDataset({self.name!r}, {len(self)} samples, classes={self.classes})"

    @property
    def in_memory(self) -> bool:
        """Whether the items are rows of tensors, which workers would not read faster."""
        return rows_of_tensors(self.items) and len(self.items.tensors) < 3

    @property
    def held(self) -> int:
        """The number of items before `rows` are selected."""
        return len(self.items)

    @property
    def told(self) -> bool:
        """Whether `fingerprint` covers the whole content: for rows of tensors, or a dataset with a fingerprint."""
        return self.in_memory or callable(getattr(self.items, "fingerprint", None))

    def drawn(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Spec | bool | None = False,
        view: str = "main",
        device: torch.device | str | None = None,
    ) -> Any:
        """Return what `batch` does."""
        self.check_augment(augment)
        rows = self._rows(self._positions(indices))
        if self.in_memory:
            return to_device(self.items.tensors[0].index_select(0, rows), device)
        batch = Draws(self.items, (view,), seed)[Request(epoch, rows)]
        return to_device(batch.views.get(view, batch.inputs), device)

    def prepared(self, drawn: Any) -> Any:
        """Return it as it is."""
        return drawn

    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError for an augmentation of images: items have their own transforms."""
        if augment is not None and not isinstance(augment, bool):
            fail("ItemDataset", "augment", "None, since items have transforms of their own", augment)

    def check_views(self, views: Sequence[str]) -> None:
        """Raise a ValueError for a view without the items' own transforms, which is impossible."""
        plain = next((view for view in views if view in PLAIN_VIEWS), None)
        if plain is not None and not self.in_memory:
            fail("ItemDataset", "views", "those that the items' own transforms can make", repr(plain))

    def varies(self, augment: Spec | bool | None) -> bool:
        """Whether an item may differ between epochs: always assumed, except for rows of tensors."""
        return not self.in_memory

    def model_input(self, model: str = STUDENT, kind: str = STUDENT) -> None:
        """Return None: items are already the models' inputs."""

    def for_models(self, **inputs: Any) -> Self:
        """Raise a ValueError: items must themselves be `congruence.Inputs` if models take different inputs."""
        wanted = "none, since items are what the models take (`congruence.Inputs` where these differ)"
        fail("ItemDataset", "inputs", wanted, ", ".join(inputs))

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return the SHA-256 of the samples or, for data without a fingerprint, of their number and the first ones."""
        kind = type(self.items)
        digest = hashlib.sha256(json.dumps([kind.__module__, kind.__qualname__, len(self)]).encode())
        own = getattr(self.items, "fingerprint", None)
        if callable(own):
            digest.update(str(own()).encode())
        if self.rows is not None:
            digest.update(self.rows.contiguous().numpy().data)
        if self.in_memory:
            _update(digest, self.items.tensors[0])
        elif not callable(own) and len(self):
            for tensor in tensors(self.batch(range(min(_TOLD_BY, len(self))))):
                _update(digest, tensor)
        if labels:
            digest.update(b"none" if self.labels is None else self.labels.contiguous().numpy().data)
            digest.update(str(self.classes).encode())
        return digest.hexdigest()


def _labels_of_items(items: Any) -> Tensor | None:
    """Return the labels of all items, None if any item has no label that is a whole number."""
    found: list[int] = []
    with rng.untouched():
        for at in range(len(items)):
            label = parse(items[at]).labels
            if isinstance(label, Tensor | np.generic) and label.ndim == 0:
                label = label.item()
            if isinstance(label, bool) or not isinstance(label, int):
                return None
            found.append(label)
    return torch.tensor(found) if found else None


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
    for part in tensor_bytes(tensor) or []:
        digest.update(part)

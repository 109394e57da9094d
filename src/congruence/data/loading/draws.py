"""The work of a loader's workers: reading samples with keyed generators, and collating them on the CPU."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from congruence.core.batch import Batch, parse
from congruence.core.check import fail
from congruence.core.rng import keyed_uniform
from congruence.data.augment.crops import view_stream
from congruence.data.datasets.batched import BatchDataset, Spec


class Request(NamedTuple):
    """The samples of a batch, and the epoch whose augmentation they get."""

    view_epoch: int
    samples: Tensor


class Refused(NamedTuple):
    """A worker's error as a sentence, since only that should be sent from its process."""

    sentence: str


def with_views(views: Mapping[str, Any], labels: Any, index: Tensor) -> Batch:
    """Return the batch of some views; "main" (else the first) is the inputs, and a single "main" is no view."""
    inputs = views["main"] if "main" in views else next(iter(views.values()))
    return Batch(inputs, labels, index, {} if list(views) == ["main"] else dict(views))


@contextlib.contextmanager
def _generators_restored() -> Iterator[None]:
    """Restore the CPU generators; `core.rng.untouched` also uses CUDA, which a forked worker must not."""
    # Users' transforms draw from NumPy's legacy generator.
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])  # noqa: NPY002


@dataclass(frozen=True)
class Draws(Dataset[Batch]):
    """A map from requests to batches of any map-style dataset; a sample is a function of (seed, epoch, sample, view).

    Before a sample is read, Python's, NumPy's and torch's CPU generators are seeded from that key, so that the
    dataset's random transforms are reproducible, in this process and in workers. Views that the items themselves hold
    are collated unchanged.
    """

    dataset: Any
    views: tuple[str, ...]
    seed: int

    def __getitem__(self, request: Request) -> Batch:
        views: dict[str, Any] = {}
        labels = None
        with _generators_restored():
            for view in self.views:
                items = self._items(request, view)
                own = {name: [item.views[name] for item in items] for name in items[0].views}
                own.setdefault(view, [item.inputs for item in items])
                views |= {name: default_collate(parts) for name, parts in own.items() if name not in views}
                if labels is None and all(item.labels is not None for item in items):
                    labels = default_collate([item.labels for item in items])
        return with_views(views, labels, request.samples)

    def _items(self, request: Request, view: str) -> list[Batch]:
        keys = keyed_uniform(self.seed, request.view_epoch, request.samples, 1, stream=view_stream(view))[:, 0]
        items = []
        for sample, key in zip(request.samples.tolist(), keys.tolist(), strict=True):
            _seed(int(key * 2**53))
            item = self.dataset[sample]
            if isinstance(item, (tuple, list)) and not item:
                fail("loader", "dataset", "one whose items are `x`, `(x, y)` or mappings", "an empty item")
            items.append(parse(item))
        return items


def _seed(key: int) -> None:
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(key)


@dataclass(frozen=True)
class ByteDraws(Dataset[Batch | Refused]):
    """A map from requests to batches of bytes, which are normalised later: a quarter of the size of floats."""

    dataset: BatchDataset
    augment: Mapping[str, Spec | bool | None]
    seed: int

    def __getitem__(self, request: Request) -> Batch | Refused:
        dataset, (view_epoch, samples) = self.dataset, request
        try:
            views: dict[str, Any] = {
                view: dataset.drawn(samples, epoch=view_epoch, seed=self.seed, augment=augment, view=view)
                for view, augment in self.augment.items()
            }
        except ValueError as error:
            return Refused(str(error))
        return with_views(views, None if dataset.labels is None else dataset.labels[samples], samples)

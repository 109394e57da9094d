"""Samples of the user's own map-style datasets: drawn under keyed generators, collated, indexed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from congruence.core.check import fail
from congruence.core.rng import keyed_uniform
from congruence.data.augment import view_stream
from congruence.data.images import ImageDataset, Spec

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


class Request(NamedTuple):
    """Which samples of which epoch make a batch."""

    epoch: int
    samples: Tensor


class Drawn(NamedTuple):
    """A batch on the CPU: the inputs of each view, and the labels or None."""

    views: dict[str, Any]
    labels: Any


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the CPU generators as they were; `core.rng.untouched` asks CUDA too, which a forked worker must not."""
    # NumPy's legacy generator is the one that users' transforms draw from.
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])  # noqa: NPY002


@dataclass(frozen=True)
class Draws(Dataset[Drawn]):
    """A map from requests to collated batches; each sample is a function of (seed, epoch, sample, view).

    Before a sample is read, Python's, NumPy's and torch's CPU generators are seeded from that key, so that the
    dataset's own random transforms follow it, in this process as in a worker.
    """

    dataset: Any
    views: tuple[str, ...]
    seed: int

    def __getitem__(self, request: Request) -> Drawn:
        views: dict[str, Any] = {}
        labels = None
        with _generators_kept():
            for view in self.views:
                keys = keyed_uniform(self.seed, request.epoch, request.samples, 1, stream=view_stream(view))[:, 0]
                items = []
                for sample, key in zip(request.samples.tolist(), keys.tolist(), strict=True):
                    self._seed(int(key * 2**53))
                    items.append(take_apart(self.dataset[sample]))
                views[view] = default_collate([item.inputs for item in items])
                if labels is None and all(item.label is not None for item in items):
                    labels = default_collate([item.label for item in items])
        return Drawn(views, labels)

    @staticmethod
    def _seed(key: int) -> None:
        random.seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(key)


class Refused(NamedTuple):
    """What a worker could not read: a sentence, which is all that should cross from its process."""

    sentence: str


@dataclass(frozen=True)
class ByteDraws(Dataset[Drawn | Refused]):
    """A map from requests to batches of bytes, still to be normalised: a quarter of what floats would send."""

    dataset: ImageDataset
    augment: Mapping[str, Spec | bool | None]
    seed: int

    def __getitem__(self, request: Request) -> Drawn | Refused:
        dataset, (epoch, samples) = self.dataset, request
        try:
            views: dict[str, Any] = {
                view: dataset.drawn(samples, epoch=epoch, seed=self.seed, augment=augment, view=view)
                for view, augment in self.augment.items()
            }
        except ValueError as error:
            return Refused(str(error))
        return Drawn(views, None if dataset.labels is None else dataset.labels[samples])


class Indexed(Dataset[Any]):
    """A map-style dataset whose items carry their position; made by `indexed`."""

    def __init__(self, dataset: Any) -> None:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            fail("indexed", "dataset", "a map-style dataset (__len__ and __getitem__)", type(dataset).__name__)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        place = index + len(self) if index < 0 else index
        item = self.dataset[place]
        if isinstance(item, Mapping):
            return {**item, "index": place}
        inputs, label = take_apart(item)
        return inputs, -1 if label is None else label, place


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

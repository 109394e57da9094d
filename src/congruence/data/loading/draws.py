"""Samples of datasets, drawn under keyed generators and collated: what the workers of a loader do."""

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

from congruence.core.rng import keyed_uniform
from congruence.data.augment.crops import view_stream
from congruence.data.datasets.images import ImageDataset, Spec
from congruence.data.datasets.indexed import take_apart


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

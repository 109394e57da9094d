"""How a run reads any loader: resuming within an epoch, sharing among ranks, and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from congruence.core import check, ranks, rng
from congruence.core.batch import Batch, unpack
from congruence.data.loading.batches import Loader
from congruence.data.loading.index_watch import IndexWatch


@runtime_checkable
class PlannedLoader(Protocol):
    """A loader whose batches are a function of (epoch, number): `congruence.data.loader`'s, or one that wraps it.

    It gives each rank its share of a batch, and can start an epoch at any batch, bit for bit.
    """

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Iterate over an epoch's batches from number `start` on."""


def _refuse_samples(loader: Any, argument: str) -> None:
    """Raise for a dataset whose items are single samples, as their labels show."""
    if not isinstance(loader, Dataset) or isinstance(loader, IterableDataset | PlannedLoader):
        return
    item = next(iter(loader), None) if isinstance(loader, Sized) and len(loader) else None
    label = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
    if isinstance(label, int) or (isinstance(label, torch.Tensor) and not label.dim()):
        raise ValueError(
            f"`{argument}` must give batches, but this {type(loader).__name__} gives single samples: put a loader "
            "around it, such as congruence.data.loader(dataset, batch_size=32)."
        )


class BatchSource:
    """Batches of a loader for training and for measuring.

    Args:
        loader: a `PlannedLoader`, or any iterable, such as a stock DataLoader, which starts again in every epoch.
        argument: what messages call the loader.
    """

    def __init__(self, loader: Any, argument: str = "loader") -> None:
        _refuse_samples(loader, argument)
        self.loader, self.argument = loader, argument
        self.planned = isinstance(loader, PlannedLoader)
        self._index = IndexWatch(loader)

    def steps(self) -> int | None:
        """Return the number of batches in an epoch, None if unknown."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    @property
    def batch_size(self) -> int | None:
        """Samples of a batch over all ranks, None if unknown."""
        size = getattr(self.loader, "batch_size", None)
        if not isinstance(size, int):
            return None
        return size if self.planned else size * ranks.world_size()

    def smallest(self) -> int | None:
        """Return the smallest number of samples that a rank gets of a batch, None if unknown."""
        loader = self.loader
        if isinstance(loader, Loader):
            return loader._smallest() // ranks.world_size()
        if isinstance(loader, list | tuple):
            rows = [unpack(batch).rows for batch in loader]
            return min((each for each in rows if each is not None), default=None)
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return None
        batches = loader.batch_sampler
        if isinstance(batches, list | tuple):
            return min(map(len, batches), default=None)
        if type(batches) is not BatchSampler or not isinstance(batches.sampler, Sized):
            return None
        short = len(batches.sampler) % batches.batch_size
        return short if short and not batches.drop_last else batches.batch_size

    @property
    def shared_by_ranks(self) -> bool:
        """Whether each rank gets different samples, as far as can be determined."""
        return self.planned or any(hasattr(sampler, "set_epoch") for sampler in self._samplers())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches, from number `start` on for a planned loader; a stock sampler's epoch is set."""
        if isinstance(self.loader, Loader):
            return self.loader._epoch_batches(epoch, start)
        if isinstance(self.loader, PlannedLoader):
            return map(unpack, self.loader.batches(epoch, start))
        for sampler in self._samplers():
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        return self._index.watched(map(unpack, self.loader), self.argument)

    def share(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield one pass for measuring: every `world`-th batch of a `congruence.data.loader`, all of another loader."""
        if isinstance(self.loader, Loader):
            return self.loader._share_batches(rank, world)
        return map(unpack, self.loader)

    def first(self) -> Batch:
        """Return the first batch, without changing the loader or the process's generators.


        Raises:
            ValueError: for a loader that can be read only once, or that is empty.
        """
        if isinstance(self.loader, Iterator):
            check.fail("fit", self.argument, "a loader that can be read more than once", "an iterator")
        state = self.state_dict()
        with rng.untouched():
            around_ours = self.planned and not isinstance(self.loader, Loader)  # a planned loader need not be iterable
            batch = next(self.epoch(0) if around_ours else self.share(), None)
        self.load_state_dict(state)
        if batch is None:
            check.fail("fit", self.argument, "a loader of at least one batch", "none (is the dataset empty?)")
        return batch

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the batches, as plain values, as far as known."""
        if isinstance(self.loader, Loader):
            return self.loader.describe()
        size = getattr(self.loader, "batch_size", None)
        return {"batch_size": size if isinstance(size, int) else None}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a stock loader's own generators."""
        return {"generators": [generator.get_state() for generator in self._generators()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        for generator, before in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(before)

    def _samplers(self) -> list[Any]:
        """Return the samplers of a stock loader: its sampler, its batch sampler, and the sampler inside that."""
        of_batches = getattr(self.loader, "batch_sampler", None)
        candidates = (getattr(self.loader, "sampler", None), of_batches, getattr(of_batches, "sampler", None))
        return list({id(sampler): sampler for sampler in candidates if sampler is not None}.values())

    def _generators(self) -> list[torch.Generator]:
        holders = [self.loader, *self._samplers()]
        own = {id(g): g for g in (getattr(holder, "generator", None) for holder in holders)}
        return [generator for generator in own.values() if isinstance(generator, torch.Generator)]

"""Detects whether the third part of a stock loader's batches is the samples' index or something else."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from congruence.core.batch import Batch

LOG = logging.getLogger("congruence")


class IndexWatch:
    """Removes an index that cannot be positions in the loader's dataset, with one warning.

    Positions must be smaller than the dataset and, if each sample is drawn once in an epoch, must not repeat.

    Args:
        loader: any loader; for a stock DataLoader, its dataset and sampler are inspected.
    """

    def __init__(self, loader: Any) -> None:
        self.size, self.once = None, False
        if isinstance(loader, DataLoader):
            self.size, self.once = _size(loader.dataset), _draws_once(loader)
        self.why = ""

    def watched(self, batches: Iterable[Batch], argument: str) -> Iterator[Batch]:
        """Yield an epoch's batches."""
        seen = torch.zeros(self.size or 0, dtype=torch.bool)
        for batch in batches:
            why = self.why or batch.no_index or self._wrong(batch.index, seen)
            if why and not self.why:
                self.why = why
                LOG.warning(
                    "`%s`: the third part of its batches is left out, since it holds no positions in the dataset: %s "
                    "(congruence.data.indexed gives a dataset's items their positions).",
                    argument,
                    why,
                )
            yield batch.without_index(why) if why else batch

    def _wrong(self, index: Tensor | None, seen: Tensor) -> str:
        if index is None or self.size is None or index.device.type != "cpu" or not len(index):
            return ""
        largest = int(index.max())
        if largest >= self.size:
            return f"it contains {largest} for {self.size} samples"
        if self.once:
            again = index[seen[index]]
            seen[index] = True
            values, counts = index.unique(return_counts=True)
            twice = again[:1].tolist() or values[counts > 1][:1].tolist()
            if twice:
                return f"{twice[0]} occurs twice in an epoch"
        return ""


def _size(dataset: Any) -> int | None:
    """Return the size of a dataset, or of the dataset that it is a subset of."""
    sizes = []
    while dataset is not None:
        if isinstance(dataset, Sized):
            sizes.append(len(dataset))
        dataset = getattr(dataset, "dataset", None)
    return max(sizes, default=None)


def _draws_once(loader: DataLoader[Any]) -> bool:
    """Whether a sampler of torch draws each sample at most once in an epoch."""
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if type(loader.batch_sampler) is not BatchSampler:
        return False
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples <= len(sampler.data_source)
    return type(sampler) in (SequentialSampler, DistributedSampler)

"""The iterable that `loader` makes: order and content of a batch are functions of (seed, epoch, batch number)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from congruence.core import ranks
from congruence.core.batch import Batch
from congruence.core.check import Real, fail, hyperparameters
from congruence.core.rng import keyed_generator
from congruence.data.augment.crops import PLAIN_VIEWS
from congruence.data.datasets.batched import BatchDataset, Spec
from congruence.data.loading.draws import ByteDraws, Draws, Refused, Request, with_views
from congruence.data.loading.items import rows_of_tensors

_ORDER = 201  # the stream of the order's generator; any number that is not used with the seed elsewhere
_WHOLE = Real(low=0, closed="low", integer=True)


class Sampler(Protocol):
    """Anything that plans whole epochs: the same lists for the same epoch, each a global batch."""

    def batches(self, epoch: int) -> Sequence[Sequence[int] | Tensor]:
        """Return the positions of each batch of an epoch."""


def _same(value: Any) -> Any:
    """Return batches uncollated; a named function because workers may have to import it."""
    return value


def _plain(value: Any) -> dict[str, Any]:
    """Return the attributes of an object that are plain values."""
    return {name: item for name, item in vars(value).items() if isinstance(item, bool | int | float | str)}


@dataclass(frozen=True)
class EpochOrder:
    """The default sampler: all samples in an order that is a function of (seed, epoch), cut into batches.

    A smaller last batch is left out with `drop_last`, else truncated to a multiple of the number of ranks.
    """

    size: int
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool

    def _used(self) -> int:
        # Ranks must have equal shares of a batch: gathering rows, and DDP's mean, assume this.
        check_divides(self.batch_size, ranks.world_size())
        short = self.size % self.batch_size
        return self.size - (short if self.drop_last else short % ranks.world_size())

    def __len__(self) -> int:
        return -(-self._used() // self.batch_size)

    def smallest(self) -> int:
        """Return the number of samples in the smallest batch."""
        return self._used() % self.batch_size or min(self.batch_size, self._used())

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the positions of each global batch."""
        return list(self._order(epoch)[: self._used()].split(self.batch_size))

    def whole(self, epoch: int) -> list[Tensor]:
        """Return the positions of each batch as a single rank has them."""
        used = self.size - (self.size % self.batch_size if self.drop_last else 0)
        return list(self._order(epoch)[:used].split(self.batch_size))

    def _order(self, epoch: int) -> Tensor:
        # Each epoch has its own generator, so its order does not depend on the epochs before, and a resumed run or
        # another rank need not replay them.
        if self.shuffle:
            return torch.randperm(self.size, generator=keyed_generator(self.seed, _ORDER, epoch))
        return torch.arange(self.size)


class Loader:
    """An iterable over batches; made by `loader`, whose documentation says what it yields."""

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int,
        sampler: Sampler,
        seed: int,
        augment: Mapping[str, Spec | bool | None],
        views: tuple[str, ...],
        workers: int,
        device: torch.device | str | None,
        view_cycle: int | None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = sampler
        self.view_seed = seed
        self.augment = augment
        self.views = views
        self.workers = workers
        self.device = device
        self.view_cycle = view_cycle
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next `iter` gives."""
        return self._epoch

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the batches, as plain values: they must be equal to resume a run."""
        content = getattr(self.dataset, "fingerprint", None)
        return {
            "dataset": content()[:16] if callable(content) else type(self.dataset).__name__,
            "samples": len(self.dataset),
            "batch_size": self.batch_size,
            "view_seed": self.view_seed,
            "order": {"sampler": type(self.sampler).__name__, **_plain(self.sampler)},
            "augment": {view: repr(augment) for view, augment in self.augment.items()},
            "view_cycle": self.view_cycle,
        }

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next `iter` gives."""
        hyperparameters("set_epoch", {"epoch": _WHOLE}, epoch=epoch)
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler) if isinstance(self.sampler, Sized) else len(self.sampler.batches(self._epoch))

    def __iter__(self) -> Iterator[Any]:
        epoch = self._epoch
        yield from self.batches(epoch)
        self._epoch = epoch + 1

    def _smallest(self) -> int:
        """Return the number of samples in the smallest batch of the first epoch, over all ranks."""
        sampler = self.sampler
        return sampler.smallest() if isinstance(sampler, EpochOrder) else min(map(len, self.plan(0)), default=0)

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the positions of each global batch of an epoch, before ranks share them.

        Raises:
            ValueError: if a batch cannot be divided equally among the ranks.
        """
        hyperparameters("plan", {"epoch": _WHOLE}, epoch=epoch)
        world = ranks.world_size()
        batches = [torch.as_tensor(batch, dtype=torch.int64) for batch in self.sampler.batches(epoch)]
        for batch in batches:
            if len(batch) % world:
                raise ValueError(f"`loader`: the sampler's batch of {len(batch)} does not divide by {world} ranks.")
        return batches

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Iterate over an epoch's batches from number `start` on, bit-identical to those of a full pass.


        Args:
            epoch: counted from 0.
            start: number of batches to skip; their samples are not read.

        Returns:
            An iterator over this rank's share of each batch.
        """
        return (batch.as_given() for batch in self._epoch_batches(epoch, start))

    def _epoch_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        hyperparameters("batches", {"epoch": _WHOLE, "start": _WHOLE}, epoch=epoch, start=start)
        world, rank = ranks.world_size(), ranks.rank()
        drawn = self.drawn_epoch(epoch)
        # A rank reads only its own samples of each batch.
        return self._read([Request(drawn, batch.chunk(world)[rank]) for batch in self.plan(epoch)[start:]])

    def varies(self) -> bool:
        """Whether a sample may differ between epochs; a dataset's own transforms are always assumed to."""
        dataset = self.dataset
        if not isinstance(dataset, BatchDataset):
            return not rows_of_tensors(dataset)
        return any(dataset.varies(self.augment[view]) for view in self.views if view not in PLAIN_VIEWS)

    def drawn_epoch(self, epoch: int) -> int:
        """Return the epoch whose augmentation is used in a given epoch."""
        return epoch if self.view_cycle is None else epoch % self.view_cycle

    def share(self, rank: int = 0, world: int = 1) -> Iterator[Any]:
        """Iterate over whole batches of epoch 0, every `world`-th from number `rank` on: for measuring.

        Batches are not truncated to a multiple of the number of ranks, so over all ranks each sample occurs once, in
        the same batch as on a single rank.
        """
        return (batch.as_given() for batch in self._share_batches(rank, world))

    def _share_batches(self, rank: int, world: int) -> Iterator[Batch]:
        positions = self.sampler.whole(0) if isinstance(self.sampler, EpochOrder) else self.sampler.batches(0)
        return self._read([Request(0, torch.as_tensor(batch, dtype=torch.int64)) for batch in positions[rank::world]])

    def in_order(self, epoch: int, batch_size: int, samples: Tensor | None = None) -> Iterator[Any]:
        """Iterate over samples in the given order (None: all, in the dataset's order), augmented as in an epoch."""
        samples = torch.arange(len(self.dataset)) if samples is None else samples
        requests = [Request(epoch, part) for part in samples.split(batch_size)]
        return (batch.as_given() for batch in self._read(requests))

    def _read(self, requests: list[Request]) -> Iterator[Batch]:
        """Yield the requested batches, on the device."""
        dataset = self.dataset
        if not isinstance(dataset, BatchDataset):
            draws = Draws(dataset, self.views, self.view_seed)
            batches = self._by_workers(draws, requests) if self.workers else (draws[request] for request in requests)
        elif self.workers and not dataset.in_memory:
            drawn = self._by_workers(ByteDraws(dataset, self.augment, self.view_seed), requests)
            batches = (self._prepared(batch) for batch in drawn)  # workers send bytes; floats are made here
        else:
            batches = (self._whole(dataset, request) for request in requests)
        return (batch.to(self.device) for batch in batches)

    def _whole(self, dataset: BatchDataset, request: Request) -> Batch:
        views = {
            view: dataset.prepared(
                dataset.drawn(
                    request.samples,
                    epoch=request.view_epoch,
                    seed=self.view_seed,
                    augment=augment,
                    view=view,
                    device=self.device,
                )
            )
            for view, augment in self.augment.items()
        }
        labels = None if dataset.labels is None else dataset.labels[request.samples]
        return with_views(views, labels, request.samples)

    def _prepared(self, drawn: Batch | Refused) -> Batch:
        """Turn a worker's result into the models' inputs, on the device."""
        if isinstance(drawn, Refused):
            raise ValueError(drawn.sentence)
        batch = drawn.to(self.device)
        views = batch.views or {self.views[0]: batch.inputs}  # a single "main" view is not stored as a view
        prepared = {view: self.dataset.prepared(each) for view, each in views.items()}
        return with_views(prepared, batch.labels, batch.index)

    def _by_workers(self, draws: Dataset[Any], requests: list[Request]) -> Iterator[Any]:
        # With its own generator, since the stock loader would draw from the global one. Requests are its "samples".
        yield from DataLoader(
            draws,
            batch_size=None,
            sampler=requests,
            num_workers=self.workers,
            collate_fn=_same,
            generator=torch.Generator().manual_seed(0),
            pin_memory=self.device is not None and torch.device(self.device).type == "cuda",
        )


def check_divides(batch_size: int, world: int) -> None:
    """Check that ranks get equal shares."""
    if batch_size % world:
        fail("loader", "batch_size", f"a multiple of the number of ranks ({world})", batch_size)

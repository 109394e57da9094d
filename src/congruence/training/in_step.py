"""Keeps ranks in step if their loaders are not from `congruence.data`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from congruence.core.batch import Batch
from congruence.core.ranks import HostExchange, rank

LOG = logging.getLogger("congruence")
_ENDED, _FAILED, _UNKNOWN = -1, -2, 0


class InStep:
    """Exchanges, before each batch, whether every rank has one and with how many samples.

    Args:
        relational: whether rows are gathered, which needs the same number on each rank.
    """

    def __init__(self, relational: bool) -> None:
        self.relational = relational
        self._exchange = HostExchange()
        self._told = False

    def batches(self, of_rank: Iterable[Batch]) -> Iterator[Batch]:
        """Yield a rank's batches until one of the ranks has no more.

        Raises:
            ValueError: on every rank, if ranks have different numbers of samples and a term gathers rows.
            RuntimeError: if the loader of another rank has failed.
        """
        iterator, count = iter(of_rank), 0
        while True:
            try:
                batch = next(iterator, None)
            except Exception:
                self._exchange([_FAILED])
                raise
            rows = [each for (each,) in self._exchange([_ENDED if batch is None else batch.rows or _UNKNOWN])]
            if _FAILED in rows:
                raise RuntimeError(f"The training loader of rank {rows.index(_FAILED)} failed.")
            if _ENDED in rows:
                if set(rows) != {_ENDED}:
                    self._tell(rows.index(_ENDED), count)
                return
            if self.relational and len(set(rows)) > 1:
                raise ValueError(
                    f"`fit`: `train_loader` must give every rank as many samples of a batch, got {rows}: use "
                    "drop_last=True, or a loader of congruence.data."
                )
            count += 1
            if batch is not None:
                yield batch

    def _tell(self, ended: int, count: int) -> None:
        if rank() == 0 and not self._told:
            self._told = True
            LOG.warning(
                "The training loader of rank %d ended after %d batches, before another rank's: the epoch ends there "
                "for all ranks, and the remaining samples are not used in it.",
                ended,
                count,
            )
